// Long rows, whose scores are neighbours.
//
// The exponentials of a row are computed once and kept in cache until their sum is known. Sums over
// blocks of a row are combined in float64 and in a fixed order.
//
// A block of a long row is first summed as it is, sum exp(z); only if that is too large or too
// small is it read again for its maximum m, and sum exp(z - m) taken. Whichever it is depends on
// the row alone.
#pragma once

#include "row_loss.h"

namespace nll {
namespace NLL_ISA {
namespace {

// Sums that have lost nothing to underflow, and leave room for what they are divided into.
constexpr double kSmallSum = 1e-20, kLargeSum = 1e20;

template <class T> struct LongRows : RowLoss<T> {
  using Base = RowLoss<T>;
  using typename Base::A;
  using Base::k, Base::C, Base::rows, Base::W, Base::threads, Base::weight, Base::allowed,
      Base::plain, Base::spread, Base::streamed, Base::uneven,
      Base::softcap, Base::z_of, Base::near, Base::any_exp;

  explicit LongRows(const CrossEntropy& job) : Base(job) {
    for (int64_t b = 0; allowed && !k.allowed_by_row && b < blocks(); b++)
      reaches.push_back(reach(allowed + b * kBlock, length(b)));
  }

  struct Row {
    int64_t number;
    const T* x;
    const A* q;
    T* out;
    const Flag* may;  // null: all classes are allowed
    Smoothing<double> smoothing;
    int64_t label;
    bool kept;
    bool can(int64_t c) const { return !may || may[c].byte; }
  };
  Row row(int64_t number) const {
    const A* q = static_cast<const A*>(k.probabilities);
    T* out = static_cast<T*>(k.gradient);
    int64_t label = k.labels ? k.labels[number] : -1;
    bool kept = !k.labels || label != k.ignore_index;
    const Flag* may = allowed && k.allowed_by_row ? allowed + number * C : allowed;
    return {number,
            static_cast<const T*>(k.x.data) + number * k.x.outer_stride,
            q ? q + number * C : nullptr,
            out ? out + number * (k.in_place ? k.x.outer_stride : C) : nullptr,
            may,
            this->smoothed_by_row ? this->smoothing_over(may) : this->smoothing,
            kept ? label : -1,
            kept};
  }
  int64_t blocks() const { return (C + kBlock - 1) / kBlock; }
  int64_t length(int64_t b) const { return std::min(kBlock, C - b * kBlock); }

  // Which classes of a block are allowed: all of the first, and others only if there are more. What
  // comes after the first is then not read, and no mask is.
  struct Reach {
    int64_t first;
    bool more;
  };
  std::vector<Reach> reaches;  // of the blocks, if all rows may have the same classes
  Reach reach(const Row& r, int64_t b) const {
    if (!r.may) return {length(b), false};
    return k.allowed_by_row ? reach(r.may + b * kBlock, length(b)) : reaches[size_t(b)];
  }
  Reach reach(const Flag* may, int64_t n) const {
    const void* gap = std::memchr(may, 0, size_t(n));
    if (!gap) return {n, false};
    const int64_t first = static_cast<const Flag*>(gap) - may;
    uint8_t more = k.probabilities != nullptr;  // those of a class that is not allowed: infinite
    for (int64_t i = first; i < n; i++) more |= may[i].byte;
    return {first, more != 0};
  }
  NLL_INLINE static Vec<A> masked(const Row& r, int64_t c, int count, Vec<A> v,
                                  Vec<A> other = Vec<A>{}) {
    return r.may ? where(lanes<A>(r.may + c, count), v, other) : v;
  }
  // u_c: the weights that the part of the target which is spread over all classes has.
  //   labels: w_c, of which smoothing takes s / A;  probabilities: ((1 - s) q_c + s / A) w_c
  NLL_INLINE Vec<A> spread_at(const Row& r, int64_t c, int count) const {
    Vec<A> w = weight ? load_part_or_all<A>(weight + c, count, A(0)) : splat(A(1));
    if (!r.q) return masked(r, c, count, w);
    Vec<A> q = load_part_or_all<A>(r.q + c, count, A(0));
    if (k.smoothing > 0)
      q = q * A(1 - k.smoothing) + masked(r, c, count, splat(A(r.smoothing.share)));
    return q * w;
  }

  // One block's sums; `e` (null: not kept) receives exp(z - m).
  Partial block(const Row& r, int64_t b, A* e) const {
    Partial sums;
    const Reach classes = reach(r, b);
    const int64_t n = classes.more ? length(b) : classes.first;
    if (n == 0) return sums;
    sums.shift = 0;
    if (!uneven) {
      sum_block(r, b, n, classes.more, e, near, &sums);
      if (sums.sum >= kSmallSum && sums.sum <= kLargeSum) return sums;
    }
    const T* x = r.x + b * kBlock;
    A top = classes.more ? maximum(x, n, r.may + b * kBlock) : maximum(x, n);
    // The scores rise with x, so that the largest score is that of the largest x.
    sums.shift = double(plain || (top == A(-kInfinity) && softcap == 0) ? top : z_of(top));
    sum_block(r, b, n, classes.more, e, any_exp, &sums);
    return sums;
  }
  template <class E>
  NLL_INLINE void sum_block(const Row& r, int64_t b, int64_t n, bool some, A* e, E exp,
                            Partial* sums) const {
    const int64_t at = b * kBlock;
    const A shift = sums->shift == -kInfinity ? A(0) : A(sums->shift);
    const bool linear = spread && !uneven;
    choose(
        [&](auto plain, auto keep, auto linear, auto some) NLL_INLINE_LAMBDA {
          exponentials<plain, keep, linear, some>(r, at, n, shift, e, exp, sums);
        },
        plain, e != nullptr, linear, some);
    if (uneven) target_sums(r, at, n, shift, sums);
  }
  // sum exp(z - m) and, if linear, sum (z - m); of `some` classes, those that are allowed. What the
  // next block will read is fetched on the way.
  template <bool plain, bool keep, bool linear, bool some, class E>
  NLL_INLINE void exponentials(const Row& r, int64_t at, int64_t n, A shift, A* e, E exp,
                               Partial* sums) const {
    const T* x = r.x + at;
    const Flag* may = some ? r.may + at : nullptr;
    Vec<A> s[4] = {}, l[4] = {};
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
      for (int64_t j = 0; j < 4 * W; j += 64 / int64_t(sizeof(T))) expect(x + kAhead + i + j);
      Vec<A> raw[4];
      for (int j = 0; j < 4; j += 2) {
        if (keep || some) raw[j] = load<A>(x + i + j * W), raw[j + 1] = load<A>(x + i + (j + 1) * W);
        else load_two<A>(x + i + j * W, raw + j);
      }
      for (int j = 0; j < 4; j++) {
        Vec<A> z = (plain ? raw[j] : z_of(raw[j])) - shift, v = exp(z);
        if (some) {
          const Lanes<A> which = lanes<A>(may + i + j * W);
          if (keep) v = where(which, v, Vec<A>{}), s[j] += v;
          else s[j] = where(which, s[j] + v, s[j]);
          if (linear) l[j] = where(which, l[j] + z, l[j]);
        } else {
          s[j] += v;
          if (linear) l[j] += z;
        }
        if (keep) store<A>(e + i + j * W, v);
      }
    }
    for (; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i));
      Vec<A> z = z_of(load_part_or_all<A>(x + i, count, A(0))) - shift, v = exp(z);
      if (some) {
        const Lanes<A> which = lanes<A>(may + i, count);
        v = where(which, v, Vec<A>{});
        z = where(which, z, Vec<A>{});
      }
      s[0] += first_lanes<A>(v, count);
      if (linear) l[0] += first_lanes<A>(z, count);
      if (keep) put<A>(e + i, v, count);
    }
    sums->sum = total<A>(s);
    if (!linear) return;
    sums->target = total<A>(l);
    sums->mass = double(some ? this->count_of(may, n) : n);
  }
  void target_sums(const Row& r, int64_t at, int64_t n, A shift, Partial* sums) const {
    Vec<A> uz[4] = {}, u[4] = {};
    for (int64_t i = 0; i < n; i += W) {
      int count = int(std::min<int64_t>(W, n - i)), j = int(i / W % 4);
      Vec<A> part = spread_at(r, at + i, count),
             z = masked(r, at + i, count, z_of(load_part_or_all<A>(r.x + at + i, count, A(0))),
                        splat(A(-kInfinity))) -
                 shift;
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
      target_sums(r, b * kBlock, length(b), A(0), &part);
      sums.mass += part.mass;
    }
    return sums;
  }
  // Store what the row counts; return the slopes of its gradient.
  Slopes close(const Row& r, const Partial& sums, const Partial* parts) const {
    double log_sum = std::log(sums.sum), nll = 0;
    if (k.mode != Mode::backward && r.label >= 0) {
      const Partial& part = parts[r.label / kBlock];
      A z = r.can(r.label) ? z_of(load_one<A>(r.x + r.label)) : A(-kInfinity);
      A e = part.shift == -kInfinity ? A(0) : any_exp(splat(z) - A(part.shift))[0];
      const double label_e = double(e) * shrink(part, sums);
      nll = this->nearly_all(label_e, sums.sum) ? std::log(sums.sum / label_e)
                                          : (sums.shift - double(z)) + log_sum;
    }
    Slopes slopes =
        this->template finish<double>(sums.shift, log_sum, nll, sums.target, sums.mass,
                       r.label >= 0 ? this->label_weight(r.label) : 0, r.kept,
                       this->factor_of(r.number), r.smoothing);
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
    const Reach classes = reach(r, b);
    const int64_t at = b * kBlock, n = classes.more ? length(b) : classes.first;
    const T* x = r.x + at;
    const A scale = A(p_scale), share = A(slopes.spread);
    A label_gradient = 0;
    const bool here = r.label >= at && r.label < at + n;
    if (here && r.can(r.label)) {  // before its score may be overwritten; rounded once
      Vec<A> raw = splat(load_one<A>(r.x + r.label));
      double g = double(exponential(r.label - at, 1)[0]) * p_scale - slopes.label;
      if (spread) g -= double(spread_at(r, r.label, 1)[0]) * slopes.spread;
      label_gradient = plain ? A(g) : A(g * double(this->slope_of(raw)[0]));
    }
    if (plain && !uneven && !classes.more) {
      write<A>(r.out + at, n, streamed, [&](int64_t i, int count) NLL_INLINE_LAMBDA {
        return exponential(i, count) * scale - share;
      });
    } else {
      write<A>(r.out + at, n, streamed, [&](int64_t i, int count) NLL_INLINE_LAMBDA {
        Vec<A> g = exponential(i, count) * scale;
        if (spread) g -= spread_at(r, at + i, count) * share;
        if (!plain) g *= this->slope_of(load_part_or_all<A>(x + i, count, A(0)));
        return classes.more ? masked(r, at + i, count, g) : g;
      });
    }
    if (here) store_one<A>(r.out + r.label, label_gradient);
    write_zeros(r.out + at + n, length(b) - n, streamed);
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
  void run() const { rows < 2 * threads ? split_rows() : whole_rows(); }
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
    std::vector<Row> each;
    for (int64_t n = 0; n < rows; n++) each.push_back(row(n));
    auto at = [&](int64_t i) {
      return kept.empty() ? nullptr : &kept[size_t(i / per_row * C + i % per_row * kBlock)];
    };
    if (k.mode != Mode::backward)
      parallel_each(rows * per_row, threads, [&](int64_t i) {
        parts[size_t(i)] = block(each[size_t(i / per_row)], i % per_row, at(i));
      });
    for (int64_t n = 0; n < rows; n++) {
      const Row& r = each[size_t(n)];
      sums[size_t(n)] =
          k.mode == Mode::backward ? stored(r) : combine(&parts[size_t(n * per_row)], per_row);
      slopes[size_t(n)] = close(r, sums[size_t(n)], &parts[size_t(n * per_row)]);
    }
    if (k.mode == Mode::forward) return;
    parallel_each(rows * per_row, threads, [&](int64_t i) {
      const size_t n = size_t(i / per_row);
      const int64_t b = i % per_row;
      const Row& r = each[n];
      if (!r.kept) write_zeros(r.out + b * kBlock, length(b), streamed);
      else if (k.mode == Mode::backward) backward_block(r, b, sums[n], slopes[n]);
      else gradient_block(r, b, parts[size_t(i)], sums[n], slopes[n], at(i));
      finish_streams();
    });
  }
};

}  // namespace
}  // namespace NLL_ISA
}  // namespace nll
