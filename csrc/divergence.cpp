// The KL divergence of two rows of scores, and its gradients by both, which overwrite them. With z
// the model's scores, p = softmax(z / T), and t the target's, q = softmax(t / S) or given:
//
//   KL(q || p) = sum q (log q - log p):  T d/dz = p sum q - q,  S d/dt = q (log q - log p - KL)
//   KL(p || q) = sum p (log p - log q):  T d/dz = p (log p - log q - KL),  S d/dt = q - p
//
// where a term whose first factor is 0 is 0. A row with factor 0 has gradients 0, even if its
// divergence is infinite.
#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

template <class T, bool layer, bool reverse> struct Row {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;
  static constexpr A none = -std::numeric_limits<A>::infinity();
  const Divergence& k;
  const int64_t n;
  const A inverse_temperature, target_inverse_temperature;
  T *z, *t;

  Row(const Divergence& job, int64_t row)
      : k(job), n(job.classes), inverse_temperature(A(job.inverse_temperature)),
        target_inverse_temperature(A(job.target_inverse_temperature)),
        z(static_cast<T*>(job.model) + row * n), t(static_cast<T*>(job.target) + row * n) {}

  // The sum over the classes of vectors f(i, count), 0 beyond `count`.
  template <class F> NLL_INLINE double sum(F f) const {
    double all = 0;
    Vec<A> part[4] = {};
    auto flush = [&]() NLL_INLINE_LAMBDA {
      all += total<A>(part);
      for (Vec<A>& v : part) v = Vec<A>{};
    };
    int64_t i = 0;
    for (; i + 4 * W <= n; i += 4 * W) {
      for (int j = 0; j < 4; j++) part[j] += f(i + j * W, W);
      if (i % (64 * W) == 60 * W) flush();
    }
    for (; i < n; i += W) part[0] += f(i, int(std::min<int64_t>(W, n - i)));
    flush();
    return all;
  }

  // log softmax(x / T) = (x / T - shift) - log_sum.
  struct LogSoftmax {
    A inverse_temperature, shift = 0, log_sum = 0;
    NLL_INLINE Vec<A> operator()(Vec<A> x) const {
      return (x * inverse_temperature - shift) - log_sum;
    }
  };
  LogSoftmax normalised(const T* x, A inverse) const {
    const A top = maximum(x, n) * inverse, shift = std::isfinite(top) ? top : A(0);
    const double all = sum([&](int64_t i, int count) NLL_INLINE_LAMBDA {
      const Vec<A> d = load_part_or_all<A>(x + i, count, none) * inverse - shift;
      return exponential(d > A(80) ? splat(-none) : d);  // of infinity alone
    });
    return {inverse, shift, A(std::log(all))};
  }

  struct Point {
    Vec<A> log_p, p, log_q, q;
    NLL_INLINE Vec<A> term() const {
      const Vec<A> first = reverse ? p : q, difference = reverse ? log_p - log_q : log_q - log_p;
      return first == A(0) ? Vec<A>{} : first * difference;
    }
  };
  NLL_INLINE Point at(int64_t i, int count, const LogSoftmax& of_z, const LogSoftmax& of_t) const {
    const Vec<A> log_p = of_z(load_part_or_all<A>(z + i, count, none)),
                 y = load_part_or_all<A>(t + i, count, layer ? none : A(0)),
                 log_q = layer ? of_t(y) : log_of(y);
    return {log_p, exponential(log_p), log_q, layer ? exponential(log_q) : y};
  }
  // In float64; at 0 any number, for its term is 0.
  NLL_INLINE static Vec<A> log_of(Vec<A> q) {
    A part[W];
    store<A>(part, q);
    for (int l = 0; l < W; l += Simd<double>::W) {
      const Vec<double> wide = widen(part + l);
      narrow(part + l, wide < 0 ? splat(std::nan("")) : logarithm(wide));
    }
    return load<A>(part);
  }

  // Return the divergence; overwrite the scores if their gradients are wanted.
  A operator()(A factor) const {
    const LogSoftmax of_z = normalised(z, inverse_temperature),
                     of_t = layer ? normalised(t, target_inverse_temperature) : LogSoftmax();
    const A divergence = A(sum([&](int64_t i, int count) NLL_INLINE_LAMBDA {
      return at(i, count, of_z, of_t).term();
    }));
    if (!k.by_model && !k.by_target) return divergence;
    if (factor == 0) {
      if (k.by_model) write_zeros(z, n, false);
      if (k.by_target) write_zeros(t, n, false);
      return divergence;
    }
    const A total_q = layer ? A(1) : A(sum([&](int64_t i, int count) NLL_INLINE_LAMBDA {
      return load_part_or_all<A>(t + i, count, A(0));
    }));
    const A by_z = factor * inverse_temperature, by_t = factor * target_inverse_temperature;
    choose([&](auto model, auto target) NLL_INLINE_LAMBDA {
      for (int64_t i = 0; i < n; i += W) {
        const int count = int(std::min<int64_t>(W, n - i));
        const Point x = at(i, count, of_z, of_t);
        if constexpr (model)
          put<A>(z + i, by_z * (reverse ? x.term() - x.p * divergence : x.p * total_q - x.q), count);
        if constexpr (target)
          put<A>(t + i, by_t * (reverse ? x.q - x.p : x.term() - x.q * divergence), count);
      }
    }, k.by_model, k.by_target);
    return divergence;
  }
};

template <class T> void run(const Divergence& k) {
  const Scores shape{k.model, k.type, k.rows, k.classes, 1, k.classes, 1, 1};
  choose([&](auto layer, auto reverse) {
    parallel_each(k.rows, useful_threads(shape, k.threads), [&](int64_t row) {
      using A = Acc<T>;
      const A factor = k.factor ? static_cast<const A*>(k.factor)[row] : A(1);
      static_cast<A*>(k.divergence)[row] = Row<T, layer, reverse>(k, row)(factor);
    });
  }, k.layer, k.reverse);
}

}  // namespace

void divergence(const Divergence& k) {
  switch (k.type) {
    case Type::f32: return run<float>(k);
    case Type::f64: return run<double>(k);
    default: return run<bf16>(k);
  }
}

}  // namespace NLL_ISA
}  // namespace nll
