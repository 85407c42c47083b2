// The two ways over a tensor of scores. Which one is taken depends on the number of classes and the
// strides, never on how many rows there are, so that a row's result does not depend on its company.
//
// Long rows of neighbouring scores: vectors along the classes, in fixed blocks that stay in cache.
// Everything else: a tile of rows side by side in the vector's lanes, the classes one after
// another.
#pragma once

#include <utility>

#include "common.h"

namespace nll {
namespace NLL_ISA {

constexpr int64_t kBlock = 4096;         // scores of a long row that are summed as one
constexpr int64_t kAhead = 1024;         // scores between what is summed and what is fetched
constexpr int64_t kShort = 160;          // up to so many classes, rows lie side by side
constexpr int64_t kTileBytes = 1 << 16;  // of scores in a tile
constexpr int64_t kCached = 1 << 19;     // bytes that stay in a cache until they are read again
constexpr int64_t kWorth = 1 << 17;      // scores that are worth a thread
constexpr int64_t kStream = 1 << 24;  // bytes of a result that are better written past the caches

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

// Long rows are written as long rows: with dimensions behind the classes the result is laid out
// otherwise, even if the scores are not (channels last).
inline bool along_classes(const Scores& x) {
  return x.class_stride == 1 && x.inner == 1 && x.classes > kShort;
}

inline int useful_threads(const Scores& x, int threads) {
  int64_t work = x.outer * x.inner * (along_classes(x) ? x.classes : 4 * x.classes + 16);
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
    width = std::min(width, (positions + 15) / 16 * 16);
  }
  int64_t per_outer() const { return (positions + width - 1) / width; }
  int64_t count() const { return outer * per_outer(); }
};

// Call f with each of some flags as a constant.
template <bool... known, class F> NLL_INLINE void choose(F f) {
  f(std::bool_constant<known>{}...);
}
template <bool... known, class F, class... Rest>
NLL_INLINE void choose(F f, bool first, Rest... rest) {
  first ? choose<known..., true>(f, rest...) : choose<known..., false>(f, rest...);
}

// ---- One long row, or a block of it -------------------------------------------------------------

// Scores of one cache line, soon to be read.
template <class T> NLL_INLINE void expect(const T* p) { __builtin_prefetch(p, 0, 3); }

// The largest of n scores; NaN is passed over.
template <class T> NLL_INLINE Acc<T> maximum(const T* x, int64_t n) {
  using A = Acc<T>;
  constexpr int W = Simd<A>::W;
  const A none = -std::numeric_limits<A>::infinity();
  Vec<A> m[4] = {splat(none), splat(none), splat(none), splat(none)};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
    for (int j = 0; j < 4; j++) m[j] = larger(load<A>(x + i + j * W), m[j]);
  for (; i < n; i += W)
    m[0] = larger(load_part_or_all<A>(x + i, int(std::min<int64_t>(W, n - i)), none), m[0]);
  return largest<A>(larger(larger(m[0], m[1]), larger(m[2], m[3])));
}

// The largest of those that are allowed.
template <class T> Acc<T> maximum(const T* x, int64_t n, const Flag* may) {
  using A = Acc<T>;
  constexpr int W = Simd<A>::W;
  const Vec<A> none = splat(-std::numeric_limits<A>::infinity());
  Vec<A> m = none;
  for (int64_t i = 0; i < n; i += W) {
    const int count = int(std::min<int64_t>(W, n - i));
    const Vec<A> v = load_part_or_all<A>(x + i, count, A(0));
    m = larger(where(lanes<A>(may + i, count), v, none), m);
  }
  return largest<A>(m);
}

// Visit n numbers in vectors, f(index, count), and write each result: past the caches if
// `streamed`.
template <class A, class T, class F> NLL_INLINE void write(T* out, int64_t n, bool streamed, F f) {
  constexpr int W = Simd<A>::W, bytes = W * int(sizeof(T));
  int64_t i = 0;
  if (streamed) {
    i = std::min<int64_t>(n, int64_t(-reinterpret_cast<uintptr_t>(out) % bytes / sizeof(T)));
    if (i) store_part<A>(out, f(int64_t(0), int(i)), int(i));
    for (; i + W <= n; i += W) stream<A>(out + i, f(i, W));
  }
  for (; i + W <= n; i += W) store<A>(out + i, f(i, W));
  if (i < n) store_part<A>(out + i, f(i, int(n - i)), int(n - i));
}
template <class T> void write_zeros(T* out, int64_t n, bool streamed) {
  using A = Acc<T>;
  write<A>(out, n, streamed, [](int64_t, int) { return Vec<A>{}; });
}

// ---- A tile of rows side by side ----------------------------------------------------------------

template <class A, int... I>
NLL_INLINE Vec<A> interleave(Vec<A> a, Vec<A> b, int from, std::integer_sequence<int, I...>) {
  constexpr int W = Simd<A>::W;
#if defined(__clang__)
  return from ? __builtin_shufflevector(a, b, (W / 2 + I / 2 + I % 2 * W)...)
              : __builtin_shufflevector(a, b, (I / 2 + I % 2 * W)...);
#else
  using Index = typename Simd<A>::I;
  return __builtin_shuffle(a, b, Index{typename Simd<A>::Element(from + I / 2 + I % 2 * W)...});
#endif
}
// Turn W vectors of W numbers over: interleaving the halves log2(W) times.
template <class A> NLL_INLINE void transpose(Vec<A>* v) {
  constexpr int W = Simd<A>::W;
  constexpr auto lanes = std::make_integer_sequence<int, W>{};
  for (int step = 1; step < W; step *= 2) {
    Vec<A> next[W];
    for (int i = 0; i < W / 2; i++) {
      next[2 * i] = interleave<A>(v[i], v[i + W / 2], 0, lanes);
      next[2 * i + 1] = interleave<A>(v[i], v[i + W / 2], W / 2, lanes);
    }
    for (int i = 0; i < W; i++) v[i] = next[i];
  }
}

// Scores of a tile: element (class, position) of a larger tensor.
template <class T> struct Corner {
  T* data;
  int64_t class_stride, position_stride;
};

// A tile's vectors, W positions of a class: read where they are if positions are neighbours, else
// brought in as A, one class after another, `width` apart. What lies beyond `count` is anything
// finite.
template <class T, class A> struct TileReader {
  static constexpr int W = Simd<A>::W;
  Corner<const T> from;
  int64_t count, width;
  A* copy;
  TileReader(Corner<const T> from, int64_t classes, int64_t count, int64_t width, A* copy)
      : from(from), count(count), width(width), copy(from.position_stride == 1 ? nullptr : copy) {
    if (!this->copy) return;
    if (from.class_stride == 1) turn(classes);
    else
      for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < classes; c++)
          copy[c * width + i] =
              load_one<A>(from.data + i * from.position_stride + c * from.class_stride);
  }
  NLL_INLINE Vec<A> operator()(int64_t c, int64_t i) const {
    if (copy) return load<A>(copy + c * width + i);
    return load_part_or_all<A>(from.data + c * from.class_stride + i,
                               int(std::min<int64_t>(W, count - i)), A(0));
  }
  NLL_INLINE A one(int64_t c, int64_t i) const {
    return copy ? copy[c * width + i] : load_one<A>(from.data + c * from.class_stride + i);
  }

 private:
  void turn(int64_t classes) {
    Vec<A> block[W];
    for (int64_t i = 0; i < count; i += W)
      for (int64_t c = 0; c < classes; c += W) {
        int some = int(std::min<int64_t>(W, classes - c)),
            rows = int(std::min<int64_t>(W, count - i));
        for (int k = 0; k < W; k++)
          block[k] = k < rows ? load_part_or_all<A>(from.data + (i + k) * from.position_stride + c,
                                                    some, A(0))
                              : Vec<A>{};
        transpose<A>(block);
        for (int k = 0; k < some; k++) store<A>(copy + (c + k) * width + i, block[k]);
      }
  }
};

// Write value(class, position), W positions at once, for every element of a tile.
template <class T, class F>
NLL_INLINE void write_tile(Corner<T> to, int64_t classes, int64_t count, bool streamed, F value) {
  using A = Acc<T>;
  constexpr int W = Simd<A>::W;
  if (to.position_stride == 1) {
    for (int64_t c = 0; c < classes; c++) {
      T* line = to.data + c * to.class_stride;
      const bool whole = streamed && reinterpret_cast<uintptr_t>(line) % (W * sizeof(T)) == 0;
      for (int64_t i = 0; i < count; i += W) {
        int some = int(std::min<int64_t>(W, count - i));
        if (whole && some == W) stream<A>(line + i, value(c, i));
        else put<A>(line + i, value(c, i), some);
      }
    }
    return;
  }
  Vec<A> block[W];
  for (int64_t i = 0; i < count; i += W)
    for (int64_t c = 0; c < classes; c += W) {
      int some = int(std::min<int64_t>(W, classes - c)),
          rows = int(std::min<int64_t>(W, count - i));
      for (int k = 0; k < W; k++) block[k] = k < some ? value(c + k, i) : Vec<A>{};
      transpose<A>(block);
      for (int k = 0; k < rows; k++) {
        T* row = to.data + (i + k) * to.position_stride + c * to.class_stride;
        if (to.class_stride == 1) put<A>(row, block[k], some);
        else
          for (int j = 0; j < some; j++) store_one<A>(row + j * to.class_stride, A(block[k][j]));
      }
    }
}

}  // namespace NLL_ISA
}  // namespace nll
