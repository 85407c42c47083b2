// Rows side by side in the lanes of vectors, the classes one after another.
#pragma once

#include "row_loss.h"

namespace nll {
namespace NLL_ISA {
namespace {

template <class T> struct Tiles : RowLoss<T> {
  using Base = RowLoss<T>;
  using typename Base::A;
  using Base::k, Base::C, Base::W, Base::threads, Base::weight, Base::row_factor, Base::allowed,
      Base::plain, Base::spread, Base::streamed, Base::smoothed_by_row, Base::smoothing, Base::z_of;
  const bool masks = allowed && k.allowed_by_row;

  explicit Tiles(const CrossEntropy& job) : Base(job) {}

  // What a tile needs besides its scores.
  struct Tile {
    using I = typename Simd<A>::Element;
    int64_t width;
    bool keeps;  // the exponentials for the gradient, which computes those again that leave the cache
    std::vector<A> copy, q_copy, may_copy, e;   // (classes, width)
    std::vector<A> shift, p, spread, at_label;  // of each row: m, and what its gradient is made of
    std::vector<A> classes;                     // that are allowed, if smoothing needs them
    std::vector<I> label;                       // -1: ignored
    std::vector<double> sum, target, mass, score, label_e, label_weight, kept, factor;
    Tile(int64_t classes, int64_t width, bool probabilities, bool masks)
        : width(width),
          keeps(classes * width * int64_t(sizeof(A)) <= kCached),
          copy(size_t(classes * width)),
          q_copy(size_t(probabilities ? classes * width : 0)),
          may_copy(size_t(masks ? classes * width : 0)),
          e(size_t(keeps ? classes * width : 0)),
          shift(size_t(width)),
          p(size_t(width)),
          spread(size_t(width)),
          at_label(size_t(width)),
          classes(size_t(width)),
          label(size_t(width), -1),
          sum(size_t(width), 1.0),
          target(size_t(width)),
          mass(size_t(width)),
          score(size_t(width)),
          label_e(size_t(width)),
          label_weight(size_t(width)),
          kept(size_t(width), 1.0),
          factor(size_t(width), 1.0) {}
  };
  using Z = TileReader<T, A>;
  using Q = TileReader<A, A>;
  using M = TileReader<Flag, A>;
  // What is read of a tile: scores, probabilities, masks by row.
  struct Input {
    Z x;
    Q q;
    M may;
  };

  void run() const {
    Tiling way(k.x, sizeof(A));
    parallel(way.count(), threads, [&](Shares& shares) {
      Tile tile(C, way.width, k.probabilities != nullptr, masks);
      for (int64_t begin, end; shares.take(&begin, &end);)
        for (int64_t i = begin; i < end; i++) {
          int64_t first = i % way.per_outer() * way.width;
          one_tile(way, i / way.per_outer(), first, std::min(way.width, way.positions - first),
                   tile);
        }
      finish_streams();
    });
  }

  void one_tile(const Tiling& way, int64_t n, int64_t first, int64_t count, Tile& t) const {
    const int64_t row = n * way.positions + first,
                  apart = n * way.outer_stride + first * way.position_stride;
    const bool side = k.x.inner == 1;
    const int64_t dense_class = side ? 1 : way.positions, dense_position = side ? C : 1;
    const int64_t dense = side ? row * C : n * C * way.positions + first;
    const A* probabilities = static_cast<const A*>(k.probabilities);
    const Input in{
        Z({static_cast<const T*>(k.x.data) + apart, k.x.class_stride, way.position_stride}, C,
          count, t.width, t.copy.data()),
        Q({probabilities + dense, dense_class, dense_position}, probabilities ? C : 0, count,
          t.width, t.q_copy.data()),
        M({masks ? allowed + dense : nullptr, dense_class, dense_position}, masks ? C : 0, count,
          t.width, t.may_copy.data())};
    if (k.mode == Mode::backward) {
      std::memcpy(t.shift.data(), static_cast<const A*>(k.shift) + row, size_t(count) * sizeof(A));
      for (int64_t i = 0; i < count; i++)
        t.sum[size_t(i)] = double(static_cast<const A*>(k.sum)[row + i]);
    }
    for (int64_t i = 0; i < count; i += W) tile_sums(t, in, i);
    close_tile(t, in, row, count);
    if (k.mode == Mode::forward) return;
    T* out = static_cast<T*>(k.gradient);
    Corner<T> to{out + dense, dense_class, dense_position};
    if (k.in_place) to = {out + apart, k.x.class_stride, way.position_stride};
    write_tile(to, C, count, streamed, [&](int64_t c, int64_t i) NLL_INLINE_LAMBDA {
      return tile_gradient(t, in, c, i);
    });
  }

  NLL_INLINE Vec<A> masked(const Input& in, int64_t c, int64_t i, Vec<A> v,
                           Vec<A> other = Vec<A>{}) const {
    if (!allowed) return v;
    if (!masks) return allowed[c].byte ? v : other;
    return where(lanes_of(in.may(c, i)), v, other);
  }
  NLL_INLINE bool can(const Input& in, int64_t c, int64_t i) const {
    const Corner<const Flag>& at = in.may.from;
    const Flag* may = masks ? at.data + c * at.class_stride + i * at.position_stride : allowed + c;
    return !allowed || may->byte;
  }
  NLL_INLINE Vec<A> z_at(const Input& in, int64_t c, int64_t i) const {
    return masked(in, c, i, z_of(in.x(c, i)), splat(A(-kInfinity)));
  }
  // u_c, as of long rows.
  NLL_INLINE Vec<A> lane_spread(const Tile& t, const Input& in, int64_t c, int64_t i) const {
    Vec<A> w = splat(weight ? weight[c] : A(1));
    if (!k.probabilities) return masked(in, c, i, w);
    Vec<A> q = in.q(c, i);
    if (k.smoothing > 0)
      q = q * A(1 - k.smoothing) + masked(in, c, i, share(t, i));
    return q * w;
  }
  NLL_INLINE Vec<A> share(const Tile& t, int64_t i) const {
    return smoothed_by_row ? A(k.smoothing) / load<A>(&t.classes[size_t(i)])
                           : splat(A(smoothing.share));
  }
  NLL_INLINE Smoothing<Vec<double>> lane_smoothing(const Tile& t, int64_t i) const {
    if (!smoothed_by_row) return {Vec<double>{} + smoothing.share, Vec<double>{} + smoothing.weights};
    return {k.smoothing / widen(&t.classes[size_t(i)]), load<double>(&t.mass[size_t(i)])};
  }

  // Exponentials and sums of W rows. They are few: each keeps a digit more with its largest score
  // taken off.
  NLL_INLINE void tile_sums(Tile& t, const Input& in, int64_t i) const {
    Vec<A> m = splat(A(-kInfinity));
    if (k.mode == Mode::backward) m = load<A>(&t.shift[size_t(i)]);
    else
      for (int64_t c = 0; c < C; c++) m = larger(z_at(in, c, i), m);
    if (smoothed_by_row) {
      Vec<A> classes = {};
      for (int64_t c = 0; c < C; c++) classes += masked(in, c, i, splat(A(1)));
      store<A>(&t.classes[size_t(i)], classes);
    }
    auto none = m == splat(A(-kInfinity));
    const bool known = k.mode == Mode::backward && !t.keeps && !spread;
    if (!known) sum_lanes(t, in, i, none ? Vec<A>{} : m);
    if (k.mode == Mode::backward) return;
    store<A>(&t.shift[size_t(i)], m);
    for (int l = 0; any(none) && l < W; l++)
      if (none[l]) t.sum[size_t(i + l)] = std::numeric_limits<double>::quiet_NaN();
  }
  NLL_INLINE void sum_lanes(Tile& t, const Input& in, int64_t i, Vec<A> shift) const {
    A* e = t.e.data() + i;
    Vec<A> s = {}, uz = {}, u = {};
    double sum[W] = {}, target[W] = {}, mass[W] = {};
    for (int64_t c = 0; c < C; c++) {
      Vec<A> score = z_at(in, c, i) - shift, v = exponential(score);
      s += v;
      if (t.keeps) store<A>(e + c * t.width, v);
      if (c % 8 == 7 || c == C - 1) {  // beside a 1 each small number loses a bit
        add_to<A>(sum, s);
        s = Vec<A>{};
      }
      if (spread) {
        Vec<A> part = lane_spread(t, in, c, i);
        uz += part == A(0) ? Vec<A>{} : part * score;  // 0 log 0 = 0
        u += part;
        if (c % 64 == 63 || c == C - 1) {
          add_to<A>(target, uz);
          add_to<A>(mass, u);
          uz = u = Vec<A>{};
        }
      }
    }
    if (spread)
      for (int l = 0; l < W; l++)
        t.target[size_t(i + l)] = target[l], t.mass[size_t(i + l)] = mass[l];
    if (k.mode != Mode::backward) std::memcpy(&t.sum[size_t(i)], sum, sizeof sum);
  }

  NLL_INLINE double label_e(const Tile& t, int64_t label, int64_t i) const {
    if (t.keeps) return double(t.e[size_t(label * t.width + i)]);
    const A m = t.shift[size_t(i)], score = A(t.score[size_t(i)]);
    return double(exponential(splat(m == A(-kInfinity) ? score : score - m))[0]);
  }
  // What the rows count, and the slopes of their gradients.
  void close_tile(Tile& t, const Input& in, int64_t row, int64_t count) const {
    for (int64_t i = 0; k.labels && i < count; i++) {
      const int64_t label = k.labels[row + i];
      const bool kept = label != k.ignore_index;
      t.label[size_t(i)] = kept ? typename Tile::I(label) : -1;
      t.kept[size_t(i)] = kept;
      t.label_weight[size_t(i)] = kept ? this->label_weight(label) : 0;
      t.score[size_t(i)] = !kept                ? 0
                           : can(in, label, i) ? double(z_of(in.x.one(label, i)))
                                               : -kInfinity;
      t.label_e[size_t(i)] = kept ? label_e(t, label, i) : 0;
      if (!kept && t.keeps &&
          !(t.sum[size_t(i)] <= std::numeric_limits<double>::max()))  // times 0 it is to be 0
        for (int64_t c = 0; c < C; c++) t.e[size_t(c * t.width + i)] = 0;
    }
    for (int64_t i = 0; row_factor && i < count; i++)
      t.factor[size_t(i)] = double(row_factor[row + i]);
    A value[Simd<double>::W],
        *loss = k.mode == Mode::backward ? nullptr : static_cast<A*>(k.rows) + row;
    for (int64_t i = 0; i < count; i += Simd<double>::W) {
      auto of = [i](const std::vector<double>& v)
                    NLL_INLINE_LAMBDA { return load<double>(&v[size_t(i)]); };
      const Vec<double> shift = widen(&t.shift[size_t(i)]), sum = of(t.sum),
                        log_sum = logarithm(sum);
      const Vec<double> label_e = of(t.label_e);
      Vec<double> nll = (shift - of(t.score)) + log_sum;
      if (any(this->nearly_all(label_e, sum)))
        nll = this->nearly_all(label_e, sum) ? logarithm(sum / label_e) : nll;
      const Finished<Vec<double>> rows =
          this->finish(shift, log_sum, nll, of(t.target), of(t.mass), of(t.label_weight),
                       of(t.kept), of(t.factor), lane_smoothing(t, i));
      narrow(&t.p[size_t(i)], of(t.kept) == 0.0 ? Vec<double>{} : rows.p / sum);
      narrow(&t.spread[size_t(i)], rows.spread);
      narrow(&t.at_label[size_t(i)], rows.label);
      narrow(value, rows.value);
      if (loss)
        std::memcpy(loss + i, value,
                    sizeof(A) * size_t(std::min<int64_t>(Simd<double>::W, count - i)));
    }
    if (k.mode == Mode::backward) return;
    std::memcpy(static_cast<A*>(k.shift) + row, t.shift.data(), size_t(count) * sizeof(A));
    for (int64_t i = 0; i < count; i++) static_cast<A*>(k.sum)[row + i] = A(t.sum[size_t(i)]);
  }

  NLL_INLINE Vec<A> tile_gradient(const Tile& t, const Input& in, int64_t c,
                                  int64_t i) const {
    const Vec<A> p = load<A>(&t.p[size_t(i)]);
    Vec<A> g;
    if (t.keeps) g = load<A>(&t.e[size_t(c * t.width + i)]) * p;
    else {
      const Vec<A> m = load<A>(&t.shift[size_t(i)]), none = splat(A(-kInfinity));
      const Vec<A> e = exponential(z_at(in, c, i) - (m == none ? Vec<A>{} : m));
      g = p == A(0) ? Vec<A>{} : e * p;  // an ignored row may have any scores
    }
    if (spread) g -= lane_spread(t, in, c, i) * load<A>(&t.spread[size_t(i)]);
    if (k.labels) {
      typename Simd<A>::I label;
      std::memcpy(&label, &t.label[size_t(i)], sizeof label);
      g = label == typename Tile::I(c) ? g - load<A>(&t.at_label[size_t(i)]) : g;
    }
    return masked(in, c, i, plain ? g : g * this->slope_of(in.x(c, i)));
  }
};

}  // namespace
}  // namespace NLL_ISA
}  // namespace nll
