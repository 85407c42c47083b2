// Cross entropy of scores z against labels or probabilities:
//
//   loss = -sum_c q_c w_c log p_c,  p = softmax(z),  q = (1 - s) target + s / C
//   dloss/dz_c = (sum_k q_k w_k) p_c - q_c w_c,      dlse^2/dz_c = 2 lse p_c
//
// The exponentials of a row are computed once, kept where the gradient will be (float32, float64) or beside it, and
// scaled while they are in cache. Sums over blocks of a row are combined in float64 and in a fixed order.
#include <type_traits>

#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// What one block of a row, or a row, adds up to.
struct Partial {
  double maximum = -kInfinity;  // m
  double sum = 0;               // sum exp(z - m)
  double target = 0;            // sum_c u_c (z_c - m), and
  double mass = 0;              // sum_c u_c, for what of q w is spread over the classes
};

// What a row's gradient is made of: slope * p_c - spread * u_c, and minus `label` at the label.
struct Slopes {
  double p, spread, label;
};

template <class T> struct Job {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;
  const CrossEntropy& k;
  const int64_t C = k.x.classes;
  const A inverse_temperature = A(k.inverse_temperature), softcap = A(k.softcap);
  const A* weight = static_cast<const A*>(k.weight);
  const bool plain = k.softcap == 0 && k.inverse_temperature == 1;
  const bool spread = k.probabilities != nullptr || k.smoothing > 0;
  double weights = 0;  // sum_c w_c
  std::atomic<int64_t> wrong{std::numeric_limits<int64_t>::max()};

  explicit Job(const CrossEntropy& job) : k(job) {
    for (int64_t c = 0; c < C; c++) weights += weight ? double(weight[c]) : 1.0;
  }

  void offend(int64_t row) {
    int64_t first = wrong.load();
    while (row < first && !wrong.compare_exchange_weak(first, row)) {}
  }

  // u_c: the weights that the part of the target which is spread over all classes has.
  //   labels: w_c, of which smoothing takes s / C;  probabilities: ((1 - s) q_c + s / C) w_c
  NLL_INLINE Vec<A> spread_at(const A* q, int64_t c, int count) const {
    Vec<A> w = weight ? load_part_or_all(weight + c, count) : splat(A(1));
    if (!q) return w;
    Vec<A> smoothed = load_part_or_all(q + c, count);
    if (k.smoothing > 0) smoothed = smoothed * A(1 - k.smoothing) + A(k.smoothing / double(C));
    return smoothed * w;
  }
  template <class U> NLL_INLINE static Vec<A> load_part_or_all(const U* p, int count) {
    return count == W ? load<A>(p) : load_part<A>(p, count, A(0));
  }
  NLL_INLINE static void put(T* p, Vec<A> v, int count) {
    count == W ? store<A>(p, v) : store_part<A>(p, v, count);
  }

  // The row's loss, and the slopes of its gradient, from its sums. Returns false for a label out of range.
  NLL_INLINE bool finish(int64_t row, const Partial& sums, A label_score, double label_weight, int64_t label,
                         Slopes* slopes) const {
    double log_sum = std::log(sums.sum), lse = sums.maximum + log_sum;
    double mass = 0, loss = 0, at_label = 0, spread_share = 0;
    bool kept = true;
    if (k.labels) {
      kept = label != k.ignore_index;
      if (kept) {
        at_label = (1 - k.smoothing) * label_weight;
        loss = at_label * ((sums.maximum - double(label_score)) + log_sum);
        mass = at_label;
        if (k.smoothing > 0) {
          spread_share = k.smoothing / double(C);
          loss += spread_share * (log_sum * weights - sums.target);
          mass += spread_share * weights;
        }
      }
    } else {
      loss = log_sum * sums.mass - sums.target;
      mass = sums.mass;
      spread_share = 1;
    }
    if (k.mode != Mode::backward) {
      static_cast<A*>(k.loss)[row] = A(loss);
      static_cast<A*>(k.maximum)[row] = A(sums.maximum);
      static_cast<A*>(k.sum)[row] = A(sums.sum);
    }
    double g = k.slope ? double(static_cast<const A*>(k.slope)[row]) : k.slope_all;
    double gz = k.z_slope ? double(static_cast<const A*>(k.z_slope)[row]) : k.z_slope_all;
    slopes->p = g * mass + (kept && gz != 0 ? gz * 2 * lse : 0.0);
    slopes->spread = g * spread_share;
    slopes->label = g * at_label;
    return kept;
  }

  bool bad(int64_t label) const { return (label < 0 || label >= C) && label != k.ignore_index; }
  double label_weight(int64_t label) const { return weight ? double(weight[label]) : 1.0; }

  // ---- Long rows -----------------------------------------------------------------------------------------------

  NLL_INLINE Vec<A> z_of(Vec<A> x) const { return plain ? x : score<A>(x, inverse_temperature, softcap); }
  NLL_INLINE Vec<A> z_at(const T* x, int count) const {
    return z_of(count == W ? load<A>(x) : load_part<A>(x, count, A(-kInfinity)));
  }

  // One block's sums; `e` (null: not kept) receives exp(z - m).
  Partial block(const T* x, const A* q, int64_t offset, int64_t n, A* e) const {
    Partial sums;
    sums.maximum = double(maximum_of(x, n));
    A shift = sums.maximum == -kInfinity ? A(0) : A(sums.maximum);
    sums.sum = e ? exponentials<true>(x, n, shift, e) : exponentials<false>(x, n, shift, nullptr);
    if (spread) target_sums(x, q, offset, n, shift, &sums);
    return sums;
  }
  A maximum_of(const T* x, int64_t n) const {
    const Vec<A> none = splat(A(-kInfinity));
    Vec<A> m[4] = {none, none, none, none};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
      for (int j = 0; j < 4; j++) m[j] = larger(load<A>(x + i + j * W), m[j]);
    for (; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i));
      m[0] = larger(count == W ? load<A>(x + i) : load_part<A>(x + i, count, A(-kInfinity)), m[0]);
    }
    m[0] = larger(larger(m[0], m[1]), larger(m[2], m[3]));
    // The scores rise with x, so that the largest score is that of the largest x.
    A top = largest<A>(m[0]);
    return plain || (top == A(-kInfinity) && softcap == 0) ? top : score<A>(splat(top), inverse_temperature, softcap)[0];
  }
  template <bool keep> double exponentials(const T* x, int64_t n, A shift, A* e) const {
    Vec<A> s[4] = {};
    double sum = 0;
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
      for (int j = 0; j < 4; j++) {
        Vec<A> v = exp_negative(z_at(x + i + j * W, W) - shift);
        s[j] += v;
        if (keep) store<A>(e + i + j * W, v);
      }
    for (; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i));
      Vec<A> v = exp_negative(z_at(x + i, count) - shift);
      if (count < W && softcap != 0) for (int l = count; l < W; l++) v[l] = 0;
      s[0] += v;
      if (keep) count == W ? store<A>(e + i, v) : store_part<A>(e + i, v, count);
    }
    for (int j = 0; j < 4; j++) sum += total<A>(s[j]);
    return sum;
  }
  void target_sums(const T* x, const A* q, int64_t offset, int64_t n, A shift, Partial* sums) const {
    Vec<A> uz = {}, u = {};
    for (int64_t i = 0; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i));
      Vec<A> part = spread_at(q, offset + i, count), z = z_at(x + i, count) - shift;
      if (count < W) for (int l = count; l < W; l++) z[l] = 0, part[l] = 0;
      uz += part * z;
      u += part;
      if ((i / W) % 64 == 63) sums->target += total<A>(uz), sums->mass += total<A>(u), uz = u = Vec<A>{};
    }
    sums->target += total<A>(uz);
    sums->mass += total<A>(u);
  }

  Partial combine(const Partial* blocks, int64_t count) const {
    Partial row;
    for (int64_t b = 0; b < count; b++) row.maximum = std::max(row.maximum, blocks[b].maximum);
    for (int64_t b = 0; b < count; b++) {
      double shrink = blocks[b].maximum == row.maximum ? 1.0 : std::exp(blocks[b].maximum - row.maximum);
      row.sum += blocks[b].sum * shrink;
      row.target += blocks[b].target;
      row.mass += blocks[b].mass;
      if (spread && blocks[b].maximum != row.maximum) {  // (z - m_b) + (m_b - m)
        double shift = blocks[b].maximum == -kInfinity ? 0 : blocks[b].maximum;
        row.target += blocks[b].mass * (shift - row.maximum);
      }
    }
    if (row.maximum == -kInfinity) row.sum = std::numeric_limits<double>::quiet_NaN();  // no class is possible
    return row;
  }

  // dloss/dx of W classes from their exponentials.
  NLL_INLINE Vec<A> gradient_of(Vec<A> x, Vec<A> e, const A* q, int64_t c, int count, A p_scale, A spread_scale) const {
    Vec<A> g = e * p_scale;
    if (spread) g -= spread_at(q, c, count) * spread_scale;
    return plain ? g : g * score_slope<A>(x, inverse_temperature, softcap);
  }
  // The label's own, before it is rounded to T.
  A gradient_at_label(const A* q, Vec<A> x, A e, int64_t label, double p_scale, const Slopes& slopes) const {
    double g = double(e) * p_scale - slopes.label;
    if (spread) g -= double(spread_at(q, label, 1)[0]) * slopes.spread;
    return plain ? A(g) : A(g * double(score_slope<A>(x, inverse_temperature, softcap)[0]));
  }
  // Write one block's gradient from its exponentials (`e` may be the gradient's own buffer).
  void write(const T* x, const A* q, const A* e, T* out, int64_t offset, int64_t n, A p_scale, A spread_scale) const {
    int64_t i = 0;
    if (plain && !spread)
      for (; i + W <= n; i += W) store<A>(out + i, load<A>(e + i) * p_scale);
    for (; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i));
      Vec<A> scores = plain ? Vec<A>{} : load_part_or_all(x + i, count);
      put(out + i, gradient_of(scores, load_part_or_all(e + i, count), q, offset + i, count, p_scale, spread_scale), count);
    }
  }

  struct Row {
    int64_t number;
    const T* x;
    const A* q;
    T* out;
    int64_t label;
  };
  Row row(int64_t number) const {
    int64_t n = number / k.x.inner, s = number % k.x.inner;
    const A* q = static_cast<const A*>(k.probabilities);
    T* out = static_cast<T*>(k.gradient);
    return {number, static_cast<const T*>(k.x.data) + n * k.x.outer_stride + s * k.x.inner_stride,
            q ? q + number * C : nullptr, out ? out + number * (k.in_place ? k.x.outer_stride : C) : nullptr,
            k.labels ? k.labels[number] : 0};
  }

  int64_t blocks() const { return (C + kBlock - 1) / kBlock; }
  int64_t length(int64_t b) const { return std::min(kBlock, C - b * kBlock); }

  bool close(const Row& r, const Partial& sums, Slopes* slopes) {
    bool at = k.labels && r.label != k.ignore_index;
    A z = at ? z_at(r.x + r.label, 1)[0] : A(0);
    return finish(r.number, sums, z, at ? label_weight(r.label) : 0, r.label, slopes);
  }
  void gradient_block(const Row& r, int64_t b, const Partial& part, const Partial& sums, const Slopes& slopes,
                      const A* e, bool kept) const {
    int64_t at = b * kBlock, n = length(b);
    if (!kept) return std::memset(r.out + at, 0, size_t(n) * sizeof(T)), void();
    double shrink = part.maximum == sums.maximum ? 1.0 : std::exp(part.maximum - sums.maximum);
    double p_scale = slopes.p / sums.sum * shrink;
    bool here = k.labels && r.label >= at && r.label < at + n;
    A label_e = here ? e[r.label - at] : A(0);
    write(r.x + at, r.q, e, r.out + at, at, n, A(p_scale), A(slopes.spread));
    if (here)
      store_one<A>(r.out + r.label, gradient_at_label(r.q, splat(load_one<A>(r.x + r.label)), label_e, r.label, p_scale,
                                                      slopes));
  }

  // Where a block's exponentials are kept until the row's sum is known.
  A* keep(const Row& r, int64_t b, A* scratch) const {
    if constexpr (std::is_same_v<T, A>) {
      if (!k.in_place) return r.out + b * kBlock;
    }
    return scratch + b * kBlock;
  }

  // The stored maximum and sum of a row, for the backward pass.
  Partial stored(const Row& r) const {
    Partial sums;
    sums.maximum = double(static_cast<const A*>(k.maximum)[r.number]);
    sums.sum = double(static_cast<const A*>(k.sum)[r.number]);
    if (k.probabilities)
      for (int64_t b = 0; b < blocks(); b++) {
        Partial part;
        target_sums(r.x + b * kBlock, r.q, b * kBlock, length(b), A(0), &part);
        sums.mass += part.mass;
      }
    return sums;
  }
  // With the row's maximum and sum known, a block's exponentials are scaled as they are made. The label's own score
  // is read before it may be overwritten.
  void backward_block(const Row& r, int64_t b, const Partial& sums, const Slopes& slopes, bool kept) const {
    int64_t at = b * kBlock, n = length(b);
    if (!kept) return std::memset(r.out + at, 0, size_t(n) * sizeof(T)), void();
    const A shift = A(sums.maximum);
    const double p_scale = slopes.p / sums.sum;
    const bool here = k.labels && r.label >= at && r.label < at + n;
    A raw[W];
    store<A>(raw, splat(here ? load_one<A>(r.x + r.label) : A(0)));
    A label_e = here ? exp_negative(z_of(load<A>(raw)) - shift)[0] : A(0);
    A label_gradient = here ? gradient_at_label(r.q, load<A>(raw), label_e, r.label, p_scale, slopes) : A(0);
    int64_t i = 0;
    if (plain && !spread) {
      const A scale = A(p_scale);
      for (; i + W <= n; i += W) store<A>(r.out + at + i, exp_negative(load<A>(r.x + at + i) - shift) * scale);
    }
    for (; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i));
      Vec<A> x = load_part_or_all(r.x + at + i, count);
      put(r.out + at + i, gradient_of(x, exp_negative(z_of(x) - shift), r.q, at + i, count, A(p_scale), A(slopes.spread)),
          count);
    }
    if (here) store_one<A>(r.out + r.label, label_gradient);
  }

  void whole_rows(int64_t begin, int64_t end) {
    std::vector<A> scratch(size_t(k.mode == Mode::gradient ? C : 0));
    std::vector<Partial> parts(size_t(blocks()), Partial{});
    for (int64_t number = begin; number < end; number++) {
      Row r = row(number);
      if (k.labels && bad(r.label)) { offend(number); continue; }
      Slopes slopes;
      if (k.mode == Mode::backward) {
        Partial sums = stored(r);
        bool kept = close(r, sums, &slopes);
        for (int64_t b = 0; b < blocks(); b++) backward_block(r, b, sums, slopes, kept);
        continue;
      }
      if (k.labels && r.label == k.ignore_index && k.mode == Mode::gradient) {  // no exponentials for nothing
        ignored(r);
        continue;
      }
      for (int64_t b = 0; b < blocks(); b++)
        parts[size_t(b)] = block(r.x + b * kBlock, r.q, b * kBlock, length(b),
                                 k.mode == Mode::gradient ? keep(r, b, scratch.data()) : nullptr);
      Partial sums = combine(parts.data(), blocks());
      bool kept = close(r, sums, &slopes);
      if (k.mode == Mode::gradient)
        for (int64_t b = 0; b < blocks(); b++)
          gradient_block(r, b, parts[size_t(b)], sums, slopes, keep(r, b, scratch.data()), kept);
    }
  }
  void ignored(const Row& r) {
    static_cast<A*>(k.loss)[r.number] = 0;
    static_cast<A*>(k.maximum)[r.number] = 0;
    static_cast<A*>(k.sum)[r.number] = 1;
    std::memset(r.out, 0, size_t(C) * sizeof(T));
  }

  // Fewer rows than threads: the same blocks, shared out.
  void split_rows(int64_t rows, int threads) {
    int64_t per_row = blocks(), all = rows * per_row;
    bool apart = k.mode == Mode::gradient && !(std::is_same_v<T, A> && !k.in_place);
    std::vector<A> scratch(size_t(apart ? rows * C : 0));
    std::vector<Partial> parts(size_t(all), Partial{}), sums(size_t(rows), Partial{});
    std::vector<Slopes> slopes(size_t(rows), Slopes{});
    std::vector<char> kept(size_t(rows), 0);
    for (int64_t n = 0; n < rows; n++)
      if (k.labels && bad(k.labels[n])) return offend(n);
    if (k.mode != Mode::backward)
      parallel(all, threads, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; i++) {
          Row r = row(i / per_row);
          int64_t b = i % per_row;
          A* e = k.mode == Mode::gradient ? keep(r, b, scratch.data() + (apart ? r.number * C : 0)) : nullptr;
          parts[size_t(i)] = block(r.x + b * kBlock, r.q, b * kBlock, length(b), e);
        }
      });
    for (int64_t n = 0; n < rows; n++) {
      Row r = row(n);
      sums[size_t(n)] = k.mode == Mode::backward ? stored(r) : combine(parts.data() + n * per_row, per_row);
      kept[size_t(n)] = close(r, sums[size_t(n)], &slopes[size_t(n)]);
    }
    if (k.mode == Mode::forward) return;
    parallel(all, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; i++) {
        size_t n = size_t(i / per_row);
        Row r = row(int64_t(n));
        int64_t b = i % per_row;
        if (k.mode == Mode::backward) backward_block(r, b, sums[n], slopes[n], kept[n]);
        else gradient_block(r, b, parts[size_t(i)], sums[n], slopes[n],
                            keep(r, b, scratch.data() + (apart ? r.number * C : 0)), kept[n]);
      }
    });
  }

  // ---- Rows side by side ---------------------------------------------------------------------------------------

  struct Tile {
    std::vector<A> z, e, q, maximum, sum, p_scale, spread_scale;
    std::vector<double> target, mass;
    Tile(int64_t classes, int64_t width, bool probabilities)
        : z(size_t(classes * width)), e(size_t(classes * width)), q(size_t(probabilities ? classes * width : 0)),
          maximum(size_t(width)), sum(size_t(width)), p_scale(size_t(width)), spread_scale(size_t(width)),
          target(size_t(width)), mass(size_t(width)) {}
  };

  void tiles(const Tiling& way, int64_t begin, int64_t end) {
    Tile tile(C, way.width, k.probabilities != nullptr);
    for (int64_t i = begin; i < end; i++) {
      int64_t n = i / way.per_outer(), first = i % way.per_outer() * way.width;
      one_tile(way, n, first, std::min(way.width, way.positions - first), tile);
    }
  }

  void one_tile(const Tiling& way, int64_t n, int64_t first, int64_t count, Tile& t) {
    const int64_t width = way.width, row = n * way.positions + first;
    const int64_t lanes = (count + W - 1) / W * W;
    if (k.labels)
      for (int64_t i = 0; i < count; i++)
        if (bad(k.labels[row + i])) return offend(row + i);
    const T* x = static_cast<const T*>(k.x.data) + n * way.outer_stride + first * way.position_stride;
    gather_tile<T, A>(x, k.x.class_stride, way.position_stride, C, count, width, t.z.data());
    const bool side = k.x.inner == 1;
    const int64_t dense_class = side ? 1 : way.positions, dense_position = side ? C : 1;
    const int64_t dense = side ? row * C : n * C * way.positions + first;
    if (k.probabilities)
      gather_tile<A, A>(static_cast<const A*>(k.probabilities) + dense, dense_class, dense_position, C, count, width,
                        t.q.data());
    if (k.mode == Mode::backward) {
      std::memcpy(t.maximum.data(), static_cast<const A*>(k.maximum) + row, size_t(count) * sizeof(A));
      std::memcpy(t.sum.data(), static_cast<const A*>(k.sum) + row, size_t(count) * sizeof(A));
    }
    for (int64_t i = 0; i < lanes; i += W) tile_lanes(t, i, width);
    for (int64_t i = 0; i < count; i++) close_lane(t, row + i, i, width);
    if (k.mode == Mode::forward) return;
    for (int64_t c = 0; c < C; c++)
      for (int64_t i = 0; i < lanes; i += W) {
        Vec<A> g = load<A>(&t.e[size_t(c * width + i)]) * load<A>(&t.p_scale[size_t(i)]);
        if (spread) g -= lane_spread(t, c, i, width) * load<A>(&t.spread_scale[size_t(i)]);
        if (!plain) g *= score_slope<A>(load<A>(&t.z[size_t(c * width + i)]), inverse_temperature, softcap);
        store<A>(&t.e[size_t(c * width + i)], g);
      }
    if (k.labels)
      for (int64_t i = 0; i < count; i++) {
        int64_t label = k.labels[row + i];
        if (label == k.ignore_index) {
          for (int64_t c = 0; c < C; c++) t.e[size_t(c * width + i)] = 0;
        } else {
          A slope = plain ? A(1) : score_slope<A>(splat(t.z[size_t(label * width + i)]), inverse_temperature, softcap)[0];
          t.e[size_t(label * width + i)] -= A(t.target[size_t(i)]) * slope;
        }
      }
    T* out = static_cast<T*>(k.gradient);
    if (k.in_place)
      scatter_tile<T, A>(t.e.data(), width, C, count, k.x.class_stride, way.position_stride,
                         out + n * way.outer_stride + first * way.position_stride);
    else
      scatter_tile<T, A>(t.e.data(), width, C, count, dense_class, dense_position, out + dense);
  }

  NLL_INLINE Vec<A> lane_spread(const Tile& t, int64_t c, int64_t i, int64_t width) const {
    Vec<A> w = splat(weight ? weight[c] : A(1));
    if (t.q.empty()) return w;
    Vec<A> q = load<A>(&t.q[size_t(c * width + i)]);
    if (k.smoothing > 0) q = q * A(1 - k.smoothing) + A(k.smoothing / double(C));
    return q * w;
  }

  // Maxima, exponentials and sums of W rows; the scores of softcap and temperature are made on the way.
  NLL_INLINE void tile_lanes(Tile& t, int64_t i, int64_t width) const {
    const A* z = t.z.data() + i;
    A* e = t.e.data() + i;
    Vec<A> m = splat(A(-kInfinity));
    if (k.mode == Mode::backward) m = load<A>(&t.maximum[size_t(i)]);
    else
      for (int64_t c = 0; c < C; c++) m = larger(lane_score(z + c * width), m);
    Vec<A> shift = m == splat(A(-kInfinity)) ? splat(A(0)) : m;
    Vec<A> s = {}, uz = {}, u = {};
    double target[W] = {}, mass[W] = {};
    for (int64_t c = 0; c < C; c++) {
      Vec<A> score = lane_score(z + c * width);
      Vec<A> v = exp_negative(score - shift);
      s += v;
      store<A>(e + c * width, v);
      if (spread) {
        Vec<A> part = lane_spread(t, c, i, width);
        uz += part * (score - shift);
        u += part;
        if (c % 64 == 63 || c == C - 1) {
          for (int l = 0; l < W; l++) target[l] += double(uz[l]), mass[l] += double(u[l]);
          uz = u = Vec<A>{};
        }
      }
    }
    for (int l = 0; l < W; l++) t.target[size_t(i + l)] = target[l], t.mass[size_t(i + l)] = mass[l];
    if (k.mode == Mode::backward) return;
    s = m == splat(A(-kInfinity)) ? splat(std::numeric_limits<A>::quiet_NaN()) : s;
    store<A>(&t.maximum[size_t(i)], m);
    store<A>(&t.sum[size_t(i)], s);
  }
  NLL_INLINE Vec<A> lane_score(const A* z) const {
    return plain ? load<A>(z) : score<A>(load<A>(z), inverse_temperature, softcap);
  }

  // One row of a tile: its loss, and what its exponentials are multiplied with. `target` then holds the label's slope.
  NLL_INLINE void close_lane(Tile& t, int64_t row, int64_t i, int64_t width) const {
    int64_t label = k.labels ? k.labels[row] : 0;
    bool at = k.labels && label != k.ignore_index;
    Partial sums{double(t.maximum[size_t(i)]), double(t.sum[size_t(i)]), t.target[size_t(i)], t.mass[size_t(i)]};
    A raw = at ? t.z[size_t(label * width + i)] : A(0);
    A z = at && !plain ? score<A>(splat(raw), inverse_temperature, softcap)[0] : raw;
    Slopes slopes;
    finish(row, sums, z, at ? label_weight(label) : 0, label, &slopes);
    t.p_scale[size_t(i)] = A(slopes.p / sums.sum);
    t.spread_scale[size_t(i)] = A(slopes.spread);
    t.target[size_t(i)] = slopes.label;
  }

  int64_t run() {
    int threads = useful_threads(k.x, k.threads);
    int64_t rows = k.x.outer * k.x.inner;
    if (along_classes(k.x)) {
      if (rows < 2 * threads) split_rows(rows, threads);
      else parallel(rows, threads, [&](int64_t begin, int64_t end) { whole_rows(begin, end); });
    } else {
      Tiling way(k.x, sizeof(A));
      parallel(way.count(), threads, [&](int64_t begin, int64_t end) { tiles(way, begin, end); });
    }
    int64_t first = wrong.load();
    return first == std::numeric_limits<int64_t>::max() ? -1 : first;
  }
};

template <class T> int64_t run(const CrossEntropy& k) { return Job<T>(k).run(); }

}  // namespace

int64_t cross_entropy(const CrossEntropy& k) {
  switch (k.x.type) {
    case Type::f32: return run<float>(k);
    case Type::f64: return run<double>(k);
    case Type::bf16: return run<bf16>(k);
    default: return run<f16>(k);
  }
}

}  // namespace NLL_ISA
}  // namespace nll
