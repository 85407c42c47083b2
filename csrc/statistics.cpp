// What scores z say about a label y, row by row: log p_y, lse, the entropy H and the label's rank;
// and the gradient by the scores of a sum of the first three with the slopes a, b, c:
//
//   log p_y = z_y - lse,  H = lse - sum_c p_c z_c,   a d log p_y + b d lse + c dH = a onehot + p (b
//   - a - c (log p + H))
//
// The label's own score stays out of the sums: a p_y near 1 is 1 / (1 + what the others add up to),
// to the last digit.
#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

template <class T> struct Row {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;
  const Statistics& k;
  const A inverse_temperature = A(k.inverse_temperature), softcap = A(k.softcap);
  explicit Row(const Statistics& job) : k(job) {}

  NLL_INLINE Vec<A> z_of(Vec<A> x) const { return score<A>(x, inverse_temperature, softcap); }
  NLL_INLINE static A first(Vec<A> v) { return v[0]; }
  // Of a sum that may hold infinity: what exp cannot reach is infinite.
  NLL_INLINE static Vec<A> exp_of(Vec<A> d) {
    return exponential(d > A(80) ? splat(std::numeric_limits<A>::infinity()) : d);
  }

  struct Sums {
    double e = 0, ed = 0;  // sum exp(z - shift), sum exp(z - shift) (z - shift)
    int64_t above = 0;     // scores above the label's; and, if `or_equal`, as large
  };
  using I = typename Simd<A>::I;
  // Four vectors of one sum each; and how often a score comes before the label.
  struct Four {
    Vec<A> e[4] = {}, ed[4] = {};
    I above[4] = {};
    void flush(Sums& to) {
      to.e += total<A>(e);
      to.ed += total<A>(ed);
      const I counted = (above[0] + above[1]) + (above[2] + above[3]);
      for (int l = 0; l < W; l++) to.above += counted[l];
      *this = Four();
    }
  };
  template <bool or_equal>
  NLL_INLINE void count(Four& in, int j, Vec<A> v, I there, A label, A shift) const {
    const I before = or_equal ? v >= label : v > label;
    const Vec<A> d = z_of(v) - shift, e = there ? exp_of(d) : Vec<A>{};
    in.e[j] += e;
    in.ed[j] += e == A(0) ? Vec<A>{} : e * d;  // 0 log 0 = 0
    in.above[j] -= there & before;
  }
  // Of n classes those that are allowed; null: all.
  template <bool or_equal>
  void add(Sums& to, const T* x, const Flag* may, int64_t n, A label, A shift) const {
    I lane;
    for (int l = 0; l < W; l++) lane[l] = l;
    auto there = [&](int64_t i, int some) NLL_INLINE_LAMBDA {
      return may ? (I)load_part_or_all<A>(may + i, some, A(0)) : I(lane < some);
    };
    Four sums;
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
      for (int j = 0; j < 4; j++)
        count<or_equal>(sums, j, load<A>(x + i + j * W), there(i + j * W, W), label, shift);
      if (i % (64 * W) == 60 * W) sums.flush(to);
    }
    for (; i < n; i += W) {
      const int some = int(std::min<int64_t>(W, n - i));
      const Vec<A> v = load_part_or_all<A>(x + i, some, A(0));
      count<or_equal>(sums, 0, v, there(i, some), label, shift);
    }
    sums.flush(to);
  }

  void forward(int64_t row) const {
    const int64_t n = k.x.classes, y = k.labels[row];
    const T* x = static_cast<const T*>(k.x.data) + row * k.x.outer_stride;
    const A none = -std::numeric_limits<A>::infinity();
    const Flag* may = allowed(row);
    const bool can = !may || may[y].byte;
    const A label = can ? load_one<A>(x + y) : none, z = can ? first(z_of(splat(label))) : none,
            largest = may ? maximum(x, n, may) : maximum(x, n),
            top = may && largest == none ? none : first(z_of(splat(largest)));
    const A shift = std::isfinite(top) ? top : A(0);
    Sums others;
    add<true>(others, x, may, y, label, shift);
    add<false>(others, x + y + 1, may ? may + y + 1 : may, n - y - 1, label, shift);
    const double d = double(z) - double(shift), e = double(first(exp_of(splat(A(d))))),
                 sum = e + others.e;
    const double log_sum = std::log(sum);
    // log(e / sum) where the label has half of the probability or more.
    const bool most = others.e <= e && std::isfinite(sum);
    static_cast<A*>(k.log_prob)[row] = A(most ? -std::log1p(others.e / e) : d - log_sum);
    static_cast<A*>(k.lse)[row] = A(double(shift) + log_sum);
    static_cast<A*>(k.shift)[row] = shift;
    static_cast<A*>(k.log_sum)[row] = A(log_sum);
    static_cast<A*>(k.entropy)[row] = A(log_sum - (others.ed + (e == 0 ? 0 : e * d)) / sum);
    k.rank[row] = others.above;
  }

  void backward(int64_t row) const {
    const int64_t n = k.x.classes, y = k.labels[row];
    T* x = static_cast<T*>(k.gradient) + row * n;
    const A a = at(k.by_log_prob, row), b = at(k.by_lse, row), c = at(k.by_entropy, row),
            entropy = at(k.entropy, row);
    const A shift = at(k.shift, row), log_sum = at(k.log_sum, row), label = load_one<A>(x + y);
    const Flag* may = allowed(row);
    auto of = [&](Vec<A> v, A at_label) NLL_INLINE_LAMBDA {
      const Vec<A> log_p = (z_of(v) - shift) - log_sum, p = exp_of(log_p);
      const Vec<A> more = p == A(0) ? Vec<A>{} : p * ((b - a) - c * (log_p + entropy));
      return (at_label + more) * score_slope<A>(v, inverse_temperature, softcap);
    };
    write<A>(x, n, false, [&](int64_t i, int count) NLL_INLINE_LAMBDA {
      const Vec<A> g = of(load_part_or_all<A>(x + i, count, A(0)), A(0));
      return may ? where(lanes<A>(may + i, count), g, Vec<A>{}) : g;
    });
    if (!may || may[y].byte) store_one<A>(x + y, first(of(splat(label), a)));
  }
  const Flag* allowed(int64_t row) const {
    const Flag* first = static_cast<const Flag*>(k.allowed);
    return first && k.allowed_by_row ? first + row * k.x.classes : first;
  }
  static A at(const void* numbers, int64_t row) { return static_cast<const A*>(numbers)[row]; }
};

template <class T> void run(const Statistics& k) {
  const Row<T> of(k);
  parallel_each(k.x.outer, useful_threads(k.x, k.threads),
                [&](int64_t row) { k.gradient ? of.backward(row) : of.forward(row); });
}

}  // namespace

void statistics(const Statistics& k) {
  switch (k.x.type) {
    case Type::f32: return run<float>(k);
    case Type::f64: return run<double>(k);
    case Type::bf16: return run<bf16>(k);
    default: return run<f16>(k);
  }
}

}  // namespace NLL_ISA
}  // namespace nll
