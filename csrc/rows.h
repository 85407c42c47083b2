// The two ways over a tensor of scores. Which one is taken depends on the number of classes and the strides, never on
// how many rows there are, so that a row's result does not depend on its company.
//
// Long rows of neighbouring scores: vectors along the classes, in fixed blocks that stay in cache.
// Everything else: a tile of rows side by side in the vector's lanes, the classes one after another.
#pragma once

#include "common.h"

namespace nll {
namespace NLL_ISA {

constexpr int64_t kBlock = 8192;       // scores of a long row that are summed as one
constexpr int64_t kShort = 160;         // up to so many classes, rows lie side by side
constexpr int64_t kTileBytes = 1 << 17; // of scores in a tile
constexpr int64_t kWorth = 1 << 16;     // scores that are worth a thread

template <class A> NLL_INLINE Vec<A> score(Vec<A> x, A inverse_temperature, A softcap) {
  if (softcap != 0) x = softcap * hyperbolic_tangent<A>(x / softcap);
  return x * inverse_temperature;
}
// dz/dx = (1 - tanh(x / softcap)^2) / temperature
template <class A> NLL_INLINE Vec<A> score_slope(Vec<A> x, A inverse_temperature, A softcap) {
  if (softcap == 0) return splat(inverse_temperature);
  Vec<A> t = hyperbolic_tangent<A>(x / softcap);
  return (A(1) - t * t) * inverse_temperature;
}

// Long rows are written as long rows: with dimensions behind the classes the result is laid out otherwise, even if the
// scores are not (channels last).
inline bool along_classes(const Scores& x) { return x.class_stride == 1 && x.inner == 1 && x.classes > kShort; }

inline int useful_threads(const Scores& x, int threads) {
  int64_t work = x.outer * x.classes * x.inner;
  return int(std::max<int64_t>(1, std::min<int64_t>(threads, work / kWorth)));
}

// Rows in tiles: the positions along which lanes run, the ones outside, and how wide a tile is.
struct Tiling {
  int64_t outer, positions, outer_stride, position_stride, width;
  explicit Tiling(const Scores& x, int64_t element) {
    bool side = x.inner == 1;  // (N, C): the rows themselves are the positions
    outer = side ? 1 : x.outer;
    positions = side ? x.outer : x.inner;
    outer_stride = side ? 0 : x.outer_stride;
    position_stride = side ? x.outer_stride : x.inner_stride;
    int64_t fits = kTileBytes / (element * std::max<int64_t>(x.classes, 1));
    width = std::max<int64_t>(64, std::min<int64_t>(fits / 64 * 64, 512));
  }
  int64_t per_outer() const { return (positions + width - 1) / width; }
  int64_t count() const { return outer * per_outer(); }
};

// Bring a tile in as A, one class after another, `width` apart; beyond `count` repeat zeros.
template <class T, class A>
void gather_tile(const T* from, int64_t class_stride, int64_t position_stride, int64_t classes, int64_t count,
                 int64_t width, A* to) {
  constexpr int W = Simd<A>::W;
  if (position_stride == 1) {
    for (int64_t c = 0; c < classes; c++) {
      const T* line = from + c * class_stride;
      A* out = to + c * width;
      int64_t i = 0;
      for (; i + W <= count; i += W) store<A>(out + i, load<A>(line + i));
      if (i < count) store<A>(out + i, load_part<A>(line + i, int(count - i), A(0)));
    }
    return;
  }
  A lanes[W];
  for (int64_t i = 0; i < count; i++) {
    const T* row = from + i * position_stride;
    int64_t c = 0;
    if (class_stride == 1)
      for (; c + W <= classes; c += W) {
        store<A>(lanes, load<A>(row + c));
        for (int k = 0; k < W; k++) to[(c + k) * width + i] = lanes[k];
      }
    if (class_stride == 1 && c < classes) {
      store<A>(lanes, load_part<A>(row + c, int(classes - c), A(0)));
      for (int k = 0; c < classes; k++, c++) to[c * width + i] = lanes[k];
    }
    for (; c < classes; c++) to[c * width + i] = load_one<A>(row + c * class_stride);
  }
}

template <class T, class A>
void scatter_tile(const A* from, int64_t width, int64_t classes, int64_t count, int64_t class_stride,
                  int64_t position_stride, T* to) {
  constexpr int W = Simd<A>::W;
  if (position_stride == 1) {
    for (int64_t c = 0; c < classes; c++) {
      T* line = to + c * class_stride;
      const A* in = from + c * width;
      int64_t i = 0;
      for (; i + W <= count; i += W) store<A>(line + i, load<A>(in + i));
      if (i < count) store_part<A>(line + i, load<A>(in + i), int(count - i));
    }
    return;
  }
  A lanes[W];
  for (int64_t i = 0; i < count; i++) {
    T* row = to + i * position_stride;
    int64_t c = 0;
    if (class_stride == 1)
      for (; c < classes; c += W) {
        int64_t some = std::min<int64_t>(W, classes - c);
        for (int64_t k = 0; k < some; k++) lanes[k] = from[(c + k) * width + i];
        if (some == W) store<A>(row + c, load<A>(lanes));
        else store_part<A>(row + c, load<A>(lanes), int(some));
      }
    for (; c < classes; c++) store_one<A>(row + c * class_stride, from[c * width + i]);
  }
}

}  // namespace NLL_ISA
}  // namespace nll
