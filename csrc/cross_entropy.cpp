// Cross entropy of scores z against labels or probabilities:
//
//   l = -sum_c q_c w_c log p_c,  p = softmax(z),  q = (1 - s) target + s / C
//   dl/dz_c = (sum_k q_k w_k) p_c - q_c w_c,      dlse^2/dz_c = 2 lse p_c
//
// The exponentials of a row are computed once and kept in cache until their sum is known. Sums over
// blocks of a row are combined in float64 and in a fixed order.
//
// A block of a long row is first summed as it is, sum exp(z); only if that is too large or too
// small is it read again for its maximum m, and sum exp(z - m) taken. Whichever it is depends on
// the row alone.
#include "census.h"
#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Sums that have lost nothing to underflow, and leave room for what they are divided into.
constexpr double kSmallSum = 1e-20, kLargeSum = 1e20;

// What one block of a row, or a row, adds up to.
struct Partial {
  double shift = -kInfinity;  // m: 0, or the largest score
  double sum = 0;             // sum exp(z - m)
  double target = 0;          // sum_c u_c (z_c - m), and
  double mass = 0;            // sum_c u_c, for what of q w is spread over the classes
};

// A row, or W of them: what it counts, and its gradient: p * softmax_c - spread * u_c, and minus
// `label` at the label.
template <class D> struct Finished {
  D value, p, spread, label;
};
using Slopes = Finished<double>;

template <class T> struct Job {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;
  const CrossEntropy& k;
  const int64_t C = k.x.classes, rows = k.x.outer * k.x.inner;
  const int threads = useful_threads(k.x, k.threads);
  const A inverse_temperature = A(k.inverse_temperature), softcap = A(k.softcap);
  const A *weight = static_cast<const A*>(k.weight),
          *row_factor = static_cast<const A*>(k.row_factor);
  const bool plain = k.softcap == 0 && k.inverse_temperature == 1;
  // Part of the target is spread over the classes; alike over all of them.
  const bool spread = k.probabilities != nullptr || k.smoothing > 0;
  const bool uneven = k.probabilities != nullptr || (k.smoothing > 0 && weight != nullptr);
  const bool streamed =
      !k.in_place && k.mode != Mode::forward && rows * C * int64_t(sizeof(T)) >= kStream;
  double weights = 0;             // sum_c w_c
  double slope = 1, z_slope = 0;  // what l and lse^2 of a row of factor 1 count for in the result

  explicit Job(const CrossEntropy& job) : k(job) {
    for (int64_t c = 0; c < C; c++) weights += weight ? double(weight[c]) : 1.0;
  }

  // ---- One row ----------------------------------------------------------------------------------

  // 0 log 0 = 0: what has no weight counts for nothing, be its loss infinite.
  template <class D> NLL_INLINE static D product(D weight, D loss) {
    return (weight == 0.0) & (loss * loss == kInfinity) ? D{} : weight * loss;
  }
  // From a row's sums: lse = shift + log_sum; nll = -log p of the label; at_label, its weight, and
  // `kept` are 0 where it is ignored. D is double, or a vector of them.
  template <class D> NLL_INLINE Finished<D> finish(D shift, D log_sum, D nll, D target, D mass,
                                                   D at_label, D kept, D factor) const {
    D loss, spread_share = D{} + 1.0;
    if (k.labels) {
      at_label = at_label * (1 - k.smoothing);
      spread_share = D{} + k.smoothing / double(C);
      loss = product(at_label, nll);
      mass = at_label;
      if (k.smoothing > 0) {
        loss += spread_share * (log_sum * weights - target);
        mass += spread_share * weights;
      }
    } else {
      loss = log_sum * mass - target;
    }
    D g = (kept == 0.0) | (factor == 0.0) ? D{} : slope * factor, value = product(g, loss),
      p = g * mass;
    if (z_slope != 0) {
      D lse = shift + log_sum, gz = z_slope * factor;
      value += gz * lse * lse;
      p += gz * 2.0 * lse;
    }
    g *= k.upstream;
    return {kept == 0.0 ? D{} : value, k.upstream * p, g * spread_share, g * at_label};
  }
  // Whether a label has so much of p that -log p is better taken from its own exponential: it loses
  // no digit to a difference, and never falls below 0.
  template <class D> NLL_INLINE static auto nearly_all(D label_e, D sum) {
    return label_e >= 0.5 * sum;
  }
  double factor_of(int64_t row) const { return row_factor ? double(row_factor[row]) : 1.0; }
  double label_weight(int64_t label) const { return weight ? double(weight[label]) : 1.0; }

  // u_c: the weights that the part of the target which is spread over all classes has.
  //   labels: w_c, of which smoothing takes s / C;  probabilities: ((1 - s) q_c + s / C) w_c
  NLL_INLINE Vec<A> spread_at(const A* q, int64_t c, int count) const {
    Vec<A> w = weight ? load_part_or_all<A>(weight + c, count, A(0)) : splat(A(1));
    return q ? smoothed(load_part_or_all<A>(q + c, count, A(0))) * w : w;
  }
  NLL_INLINE Vec<A> smoothed(Vec<A> q) const {
    return k.smoothing > 0 ? q * A(1 - k.smoothing) + A(k.smoothing / double(C)) : q;
  }
  static constexpr auto near = [](Vec<A> z)
                                   NLL_INLINE_LAMBDA { return exp_near<sizeof(T) == 2>(z); };
  static constexpr auto any_exp = [](Vec<A> z)
                                      NLL_INLINE_LAMBDA { return exponential<sizeof(T) == 2>(z); };
  NLL_INLINE Vec<A> z_of(Vec<A> x) const {
    return plain ? x : score<A>(x, inverse_temperature, softcap);
  }
  NLL_INLINE A z_of(A x) const {
    return plain ? x : score<A>(splat(x), inverse_temperature, softcap)[0];
  }
  NLL_INLINE Vec<A> slope_of(Vec<A> x) const {
    return score_slope<A>(x, inverse_temperature, softcap);
  }

  // ---- Long rows --------------------------------------------------------------------------------

  struct Row {
    int64_t number;
    const T* x;
    const A* q;
    T* out;
    int64_t label;
    bool kept;
  };
  Row row(int64_t number) const {
    const A* q = static_cast<const A*>(k.probabilities);
    T* out = static_cast<T*>(k.gradient);
    int64_t label = k.labels ? k.labels[number] : -1;
    bool kept = !k.labels || label != k.ignore_index;
    return {number,
            static_cast<const T*>(k.x.data) + number * k.x.outer_stride,
            q ? q + number * C : nullptr,
            out ? out + number * (k.in_place ? k.x.outer_stride : C) : nullptr,
            kept ? label : -1,
            kept};
  }
  int64_t blocks() const { return (C + kBlock - 1) / kBlock; }
  int64_t length(int64_t b) const { return std::min(kBlock, C - b * kBlock); }

  // One block's sums; `e` (null: not kept) receives exp(z - m).
  Partial block(const Row& r, int64_t b, A* e) const {
    Partial sums;
    sums.shift = 0;
    if (!uneven) {
      sum_block(r, b, e, near, &sums);
      if (sums.sum >= kSmallSum && sums.sum <= kLargeSum) return sums;
    }
    A top = maximum(r.x + b * kBlock, length(b));
    // The scores rise with x, so that the largest score is that of the largest x.
    sums.shift = double(plain || (top == A(-kInfinity) && softcap == 0) ? top : z_of(top));
    sum_block(r, b, e, any_exp, &sums);
    return sums;
  }
  template <class E>
  NLL_INLINE void sum_block(const Row& r, int64_t b, A* e, E exp, Partial* sums) const {
    const T* x = r.x + b * kBlock;
    const int64_t n = length(b);
    const A shift = sums->shift == -kInfinity ? A(0) : A(sums->shift);
    const bool linear = spread && !uneven;
    if (!plain && e) exponentials<false, true, true>(x, n, shift, e, exp, sums);
    else if (!plain) exponentials<false, false, true>(x, n, shift, e, exp, sums);
    else if (e && linear) exponentials<true, true, true>(x, n, shift, e, exp, sums);
    else if (e) exponentials<true, true, false>(x, n, shift, e, exp, sums);
    else if (linear) exponentials<true, false, true>(x, n, shift, e, exp, sums);
    else exponentials<true, false, false>(x, n, shift, e, exp, sums);
    if (uneven) target_sums(x, r.q, b * kBlock, n, shift, sums);
  }
  // sum exp(z - m) and, if linear, sum (z - m). What the next block will read is fetched on the
  // way.
  template <bool plain, bool keep, bool linear, class E>
  NLL_INLINE void exponentials(const T* x, int64_t n, A shift, A* e, E exp, Partial* sums) const {
    Vec<A> s[4] = {}, l[4] = {};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
      for (int64_t j = 0; j < 4 * W; j += 64 / int64_t(sizeof(T))) expect(x + kAhead + i + j);
      Vec<A> raw[4];
      for (int j = 0; j < 4; j += 2) {
        if (keep) raw[j] = load<A>(x + i + j * W), raw[j + 1] = load<A>(x + i + (j + 1) * W);
        else load_two<A>(x + i + j * W, raw + j);
      }
      for (int j = 0; j < 4; j++) {
        Vec<A> z = (plain ? raw[j] : z_of(raw[j])) - shift, v = exp(z);
        s[j] += v;
        if (linear) l[j] += z;
        if (keep) store<A>(e + i + j * W, v);
      }
    }
    for (; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i));
      Vec<A> z = z_of(load_part_or_all<A>(x + i, count, A(0))) - shift, v = exp(z);
      s[0] += first_lanes<A>(v, count);
      if (linear) l[0] += first_lanes<A>(z, count);
      if (keep) put<A>(e + i, v, count);
    }
    sums->sum = total<A>(s);
    if (linear) sums->target = total<A>(l), sums->mass = double(n);
  }
  void target_sums(const T* x, const A* q, int64_t offset, int64_t n, A shift,
                   Partial* sums) const {
    Vec<A> uz[4] = {}, u[4] = {};
    for (int64_t i = 0; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i)), j = int(i / W % 4);
      Vec<A> part = spread_at(q, offset + i, count),
             z = z_of(load_part_or_all<A>(x + i, count, A(0))) - shift;
      uz[j] += first_lanes<A>(part == A(0) ? Vec<A>{} : part * z, count);  // 0 log 0 = 0
      u[j] += first_lanes<A>(part, count);
    }
    sums->target = total<A>(uz);
    sums->mass = total<A>(u);
  }

  Partial combine(const Partial* blocks, int64_t count) const {
    Partial row;
    for (int64_t b = 0; b < count; b++) row.shift = std::max(row.shift, blocks[b].shift);
    for (int64_t b = 0; b < count; b++) {
      row.sum += blocks[b].sum * shrink(blocks[b], row);
      row.target += blocks[b].target;
      row.mass += blocks[b].mass;
      if (spread && blocks[b].shift != row.shift) {  // (z - m_b) + (m_b - m)
        double shift = blocks[b].shift == -kInfinity ? 0 : blocks[b].shift;
        row.target += blocks[b].mass * (shift - row.shift);
      }
    }
    if (row.shift == -kInfinity)
      row.sum = std::numeric_limits<double>::quiet_NaN();  // no class is possible
    return row;
  }
  static double shrink(const Partial& block, const Partial& row) {
    return block.shift == row.shift ? 1.0 : std::exp(block.shift - row.shift);
  }
  // The sums that the forward pass has left.
  Partial stored(const Row& r) const {
    Partial sums;
    sums.shift = double(static_cast<const A*>(k.shift)[r.number]);
    sums.sum = double(static_cast<const A*>(k.sum)[r.number]);
    for (int64_t b = 0; r.q && b < blocks(); b++) {
      Partial part;
      target_sums(r.x + b * kBlock, r.q, b * kBlock, length(b), A(0), &part);
      sums.mass += part.mass;
    }
    return sums;
  }
  // Store what the row counts; return the slopes of its gradient.
  Slopes close(const Row& r, const Partial& sums, const Partial* parts) const {
    double log_sum = std::log(sums.sum), nll = 0;
    if (k.mode != Mode::backward && r.label >= 0) {
      const Partial& part = parts[r.label / kBlock];
      A z = z_of(load_one<A>(r.x + r.label));
      A e = part.shift == -kInfinity ? A(0) : any_exp(splat(z) - A(part.shift))[0];
      const double label_e = double(e) * shrink(part, sums);
      nll = nearly_all(label_e, sums.sum) ? std::log(sums.sum / label_e)
                                          : (sums.shift - double(z)) + log_sum;
    }
    Slopes slopes =
        finish<double>(sums.shift, log_sum, nll, sums.target, sums.mass,
                       r.label >= 0 ? label_weight(r.label) : 0, r.kept, factor_of(r.number));
    if (k.mode != Mode::backward) {
      static_cast<A*>(k.rows)[r.number] = A(slopes.value);
      static_cast<A*>(k.shift)[r.number] = A(sums.shift);
      static_cast<A*>(k.sum)[r.number] = A(sums.sum);
    }
    return slopes;
  }

  // Write one block's gradient; exponential(i, count) gives its exponentials, which p_scale makes
  // slope * softmax.
  template <class E> NLL_INLINE void write_block(const Row& r, int64_t b, const Slopes& slopes,
                                                 double p_scale, E exponential) const {
    const int64_t at = b * kBlock, n = length(b);
    const T* x = r.x + at;
    const A scale = A(p_scale), share = A(slopes.spread);
    A label_gradient = 0;
    const bool here = r.label >= at && r.label < at + n;
    if (here) {  // before its score may be overwritten; rounded once
      Vec<A> raw = splat(load_one<A>(r.x + r.label));
      double g = double(exponential(r.label - at, 1)[0]) * p_scale - slopes.label;
      if (spread) g -= double(spread_at(r.q, r.label, 1)[0]) * slopes.spread;
      label_gradient = plain ? A(g) : A(g * double(slope_of(raw)[0]));
    }
    if (plain && !uneven) {
      write<A>(r.out + at, n, streamed, [&](int64_t i, int count) NLL_INLINE_LAMBDA {
        return exponential(i, count) * scale - share;
      });
    } else {
      write<A>(r.out + at, n, streamed, [&](int64_t i, int count) NLL_INLINE_LAMBDA {
        Vec<A> g = exponential(i, count) * scale;
        if (spread) g -= spread_at(r.q, at + i, count) * share;
        return plain ? g : g * slope_of(load_part_or_all<A>(x + i, count, A(0)));
      });
    }
    if (here) store_one<A>(r.out + r.label, label_gradient);
  }
  void gradient_block(const Row& r, int64_t b, const Partial& part, const Partial& sums,
                      const Slopes& slopes, const A* e) const {
    write_block(r, b, slopes, slopes.p / sums.sum * shrink(part, sums),
                [e](int64_t i, int count)
                    NLL_INLINE_LAMBDA { return load_part_or_all<A>(e + i, count, A(0)); });
  }
  // From the stored sums: the exponentials are scaled as they are made.
  void backward_block(const Row& r, int64_t b, const Partial& sums, const Slopes& slopes) const {
    const T* x = r.x + b * kBlock;
    const A shift = A(sums.shift);
    const double p_scale = slopes.p / sums.sum;
    auto at = [x](int64_t i, int count) NLL_INLINE_LAMBDA {
      expect(x + i + kAhead);
      return load_part_or_all<A>(x + i, count, A(0));
    };
    if (plain && shift == 0)
      write_block(r, b, slopes, p_scale,
                  [=](int64_t i, int count) NLL_INLINE_LAMBDA { return near(at(i, count)); });
    else
      write_block(r, b, slopes, p_scale, [=](int64_t i, int count) NLL_INLINE_LAMBDA {
        return any_exp(z_of(at(i, count)) - shift);
      });
  }

  void whole_row(const Row& r, A* e, std::vector<Partial>& parts) const {
    if (!r.kept && k.mode != Mode::forward) {  // no exponentials for nothing
      write_zeros(r.out, C, streamed);
      if (k.mode == Mode::backward) return;
      static_cast<A*>(k.rows)[r.number] = static_cast<A*>(k.shift)[r.number] = 0;
      static_cast<A*>(k.sum)[r.number] = 1;
      return;
    }
    Partial sums;
    if (k.mode == Mode::backward) {
      sums = stored(r);
    } else {
      for (int64_t b = 0; b < blocks(); b++)
        parts[size_t(b)] = block(r, b, e ? e + b * kBlock : nullptr);
      sums = combine(parts.data(), blocks());
    }
    Slopes slopes = close(r, sums, parts.data());
    for (int64_t b = 0; k.mode != Mode::forward && b < blocks(); b++) {
      if (k.mode == Mode::backward) backward_block(r, b, sums, slopes);
      else gradient_block(r, b, parts[size_t(b)], sums, slopes, e + b * kBlock);
    }
  }
  void whole_rows() const {
    parallel(rows, threads, [&](Shares& shares) {
      std::vector<A> kept(size_t(k.mode == Mode::gradient ? C : 0));
      std::vector<Partial> parts(size_t(blocks()), Partial{});
      for (int64_t begin, end; shares.take(&begin, &end);)
        for (int64_t number = begin; number < end; number++)
          whole_row(row(number), kept.empty() ? nullptr : kept.data(), parts);
      finish_streams();
    });
  }
  // Fewer rows than threads: the same blocks, shared out.
  void split_rows() const {
    const int64_t per_row = blocks();
    std::vector<A> kept(size_t(k.mode == Mode::gradient ? rows * C : 0));
    std::vector<Partial> parts(size_t(rows * per_row), Partial{}), sums(size_t(rows), Partial{});
    std::vector<Slopes> slopes(size_t(rows), Slopes{});
    auto at = [&](int64_t i) {
      return kept.empty() ? nullptr : &kept[size_t(i / per_row * C + i % per_row * kBlock)];
    };
    if (k.mode != Mode::backward)
      parallel_each(rows * per_row, threads, [&](int64_t i) {
        parts[size_t(i)] = block(row(i / per_row), i % per_row, at(i));
      });
    for (int64_t n = 0; n < rows; n++) {
      sums[size_t(n)] =
          k.mode == Mode::backward ? stored(row(n)) : combine(&parts[size_t(n * per_row)], per_row);
      slopes[size_t(n)] = close(row(n), sums[size_t(n)], &parts[size_t(n * per_row)]);
    }
    if (k.mode == Mode::forward) return;
    parallel_each(rows * per_row, threads, [&](int64_t i) {
      const size_t n = size_t(i / per_row);
      const int64_t b = i % per_row;
      Row r = row(int64_t(n));
      if (!r.kept) write_zeros(r.out + b * kBlock, length(b), streamed);
      else if (k.mode == Mode::backward) backward_block(r, b, sums[n], slopes[n]);
      else gradient_block(r, b, parts[size_t(i)], sums[n], slopes[n], at(i));
      finish_streams();
    });
  }

  // ---- Rows side by side ------------------------------------------------------------------------

  // What a tile needs besides its scores.
  struct Tile {
    using I = typename Simd<A>::Element;
    int64_t width;
    std::vector<A> copy, q_copy, e;             // (classes, width)
    std::vector<A> shift, p, spread, at_label;  // of each row: m, and what its gradient is made of
    std::vector<I> label;                       // -1: ignored
    std::vector<double> sum, target, mass, score, label_e, label_weight, kept, factor;
    Tile(int64_t classes, int64_t width, bool probabilities)
        : width(width),
          copy(size_t(classes * width)),
          q_copy(size_t(probabilities ? classes * width : 0)),
          e(size_t(classes * width)),
          shift(size_t(width)),
          p(size_t(width)),
          spread(size_t(width)),
          at_label(size_t(width)),
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

  void tiles() const {
    Tiling way(k.x, sizeof(A));
    parallel(way.count(), threads, [&](Shares& shares) {
      Tile tile(C, way.width, k.probabilities != nullptr);
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
    const Z x({static_cast<const T*>(k.x.data) + apart, k.x.class_stride, way.position_stride}, C,
              count, t.width, t.copy.data());
    const Q q({probabilities + dense, dense_class, dense_position}, probabilities ? C : 0, count,
              t.width, t.q_copy.data());
    if (k.mode == Mode::backward) {
      std::memcpy(t.shift.data(), static_cast<const A*>(k.shift) + row, size_t(count) * sizeof(A));
      for (int64_t i = 0; i < count; i++)
        t.sum[size_t(i)] = double(static_cast<const A*>(k.sum)[row + i]);
    }
    for (int64_t i = 0; i < count; i += W) tile_sums(t, x, q, i);
    close_tile(t, x, row, count);
    if (k.mode == Mode::forward) return;
    T* out = static_cast<T*>(k.gradient);
    Corner<T> to{out + dense, dense_class, dense_position};
    if (k.in_place) to = {out + apart, k.x.class_stride, way.position_stride};
    write_tile(to, C, count, streamed, [&](int64_t c, int64_t i) NLL_INLINE_LAMBDA {
      return tile_gradient(t, x, q, c, i);
    });
  }

  NLL_INLINE Vec<A> lane_spread(const Q& q, int64_t c, int64_t i) const {
    Vec<A> w = splat(weight ? weight[c] : A(1));
    return k.probabilities ? smoothed(q(c, i)) * w : w;
  }

  // Exponentials and sums of W rows. They are few: each keeps a digit more with its largest score
  // taken off.
  NLL_INLINE void tile_sums(Tile& t, const Z& x, const Q& q, int64_t i) const {
    Vec<A> m = splat(A(-kInfinity));
    if (k.mode == Mode::backward) m = load<A>(&t.shift[size_t(i)]);
    else
      for (int64_t c = 0; c < C; c++) m = larger(z_of(x(c, i)), m);
    auto none = m == splat(A(-kInfinity));
    sum_lanes(t, x, q, i, none ? Vec<A>{} : m);
    if (k.mode == Mode::backward) return;
    store<A>(&t.shift[size_t(i)], m);
    for (int l = 0; any(none) && l < W; l++)
      if (none[l]) t.sum[size_t(i + l)] = std::numeric_limits<double>::quiet_NaN();
  }
  NLL_INLINE void sum_lanes(Tile& t, const Z& x, const Q& q, int64_t i, Vec<A> shift) const {
    A* e = t.e.data() + i;
    Vec<A> s = {}, uz = {}, u = {};
    double sum[W] = {}, target[W] = {}, mass[W] = {};
    for (int64_t c = 0; c < C; c++) {
      Vec<A> score = z_of(x(c, i)) - shift, v = exponential(score);
      s += v;
      store<A>(e + c * t.width, v);
      if (c % 8 == 7 || c == C - 1) {  // beside a 1 each small number loses a bit
        add_to<A>(sum, s);
        s = Vec<A>{};
      }
      if (spread) {
        Vec<A> part = lane_spread(q, c, i);
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

  // What the rows count, and the slopes of their gradients.
  void close_tile(Tile& t, const Z& x, int64_t row, int64_t count) const {
    for (int64_t i = 0; k.labels && i < count; i++) {
      const int64_t label = k.labels[row + i];
      const bool kept = label != k.ignore_index;
      t.label[size_t(i)] = kept ? typename Tile::I(label) : -1;
      t.kept[size_t(i)] = kept;
      t.label_weight[size_t(i)] = kept ? label_weight(label) : 0;
      t.score[size_t(i)] = kept ? double(z_of(x.one(label, i))) : 0;
      t.label_e[size_t(i)] = kept ? double(t.e[size_t(label * t.width + i)]) : 0;
      if (!kept &&
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
      if (any(nearly_all(label_e, sum)))
        nll = nearly_all(label_e, sum) ? logarithm(sum / label_e) : nll;
      const Finished<Vec<double>> rows = finish(shift, log_sum, nll, of(t.target), of(t.mass),
                                                of(t.label_weight), of(t.kept), of(t.factor));
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

  NLL_INLINE Vec<A> tile_gradient(const Tile& t, const Z& x, const Q& q, int64_t c,
                                  int64_t i) const {
    Vec<A> g = load<A>(&t.e[size_t(c * t.width + i)]) * load<A>(&t.p[size_t(i)]);
    if (spread) g -= lane_spread(q, c, i) * load<A>(&t.spread[size_t(i)]);
    if (k.labels) {
      typename Simd<A>::I label;
      std::memcpy(&label, &t.label[size_t(i)], sizeof label);
      g = label == typename Tile::I(c) ? g - load<A>(&t.at_label[size_t(i)]) : g;
    }
    return plain ? g : g * slope_of(x(c, i));
  }

  int64_t run() {
    Census counted;
    if (k.labels || k.reduction == Reduction::mean)
      counted = census(k, weight, row_factor, threads);
    if (counted.wrong >= 0) return counted.wrong;
    const bool mean = k.reduction == Reduction::mean;
    // Where nothing counts the loss is NaN, and its gradient 0.
    slope = !mean ? 1 : counted.mass == 0 ? 0 : 1 / counted.mass;
    z_slope = !mean ? k.z_loss : counted.kept == 0 ? 0 : k.z_loss / counted.kept;
    if (!along_classes(k.x)) tiles();
    else if (rows < 2 * threads) split_rows();
    else whole_rows();
    if (k.reduction != Reduction::none && k.mode != Mode::backward) {
      double loss = total_loss(static_cast<const A*>(k.rows), rows, threads);
      const bool of_none =
          mean && counted.mass == 0 && std::isfinite(loss);  // 0 / 0, whatever z_loss adds
      *static_cast<A*>(k.loss) = of_none ? std::numeric_limits<A>::quiet_NaN() : A(loss);
    }
    return -1;
  }
};

}  // namespace

int64_t cross_entropy(const CrossEntropy& k) {
  switch (k.x.type) {
    case Type::f32: return Job<float>(k).run();
    case Type::f64: return Job<double>(k).run();
    case Type::bf16: return Job<bf16>(k).run();
    default: return Job<f16>(k).run();
  }
}

}  // namespace NLL_ISA
}  // namespace nll
