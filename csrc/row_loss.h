// Cross entropy of a row of scores z against a label or probabilities:
//
//   l = -sum_c q_c w_c log p_c,  p = softmax(z),  q = (1 - s) target + s / A
//   dl/dz_c = (sum_k q_k w_k) p_c - q_c w_c,      dlse^2/dz_c = 2 lse p_c
//
// over the A classes that are allowed; z = -inf and s = 0 for the others.
#pragma once

#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

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

// What label smoothing spreads over the allowed classes: s / A, and the sum of their weights.
template <class D> struct Smoothing {
  D share, weights;
};

template <class T> struct RowLoss {
  using A = Acc<T>;
  static constexpr int W = Simd<A>::W;
  const CrossEntropy& k;
  const int64_t C = k.x.classes, rows = k.x.outer * k.x.inner;
  const int threads = useful_threads(k.x, k.threads);
  const A inverse_temperature = A(k.inverse_temperature), softcap = A(k.softcap);
  const A *weight = static_cast<const A*>(k.weight),
          *row_factor = static_cast<const A*>(k.row_factor);
  const Flag* allowed = static_cast<const Flag*>(k.allowed);
  const bool plain = k.softcap == 0 && k.inverse_temperature == 1;
  // Part of the target is spread over the classes; alike over all that are allowed.
  const bool spread = k.probabilities != nullptr || k.smoothing > 0;
  const bool uneven = k.probabilities != nullptr || (k.smoothing > 0 && weight != nullptr);
  const bool smoothed_by_row = allowed && k.allowed_by_row && k.smoothing > 0;
  const bool streamed =
      !k.in_place && k.mode != Mode::forward && rows * C * int64_t(sizeof(T)) >= kStream;
  Smoothing<double> smoothing{};  // of every row, if all rows may have the same classes
  double slope = 1, z_slope = 0;  // what l and lse^2 of a row of factor 1 count for in the result

  explicit RowLoss(const CrossEntropy& job) : k(job) {
    if (!smoothed_by_row) smoothing = smoothing_over(allowed);
  }
  static int64_t count_of(const Flag* may, int64_t n) {
    int64_t count = 0;
    for (int64_t begin = 0; begin < n; begin += 128) {  // bytes that count up to 128
      uint8_t some = 0;
      for (int64_t i = begin; i < std::min(n, begin + 128); i++) some += may[i].byte != 0;
      count += some;
    }
    return count;
  }
  // Over the classes of a mask; null: all.
  Smoothing<double> smoothing_over(const Flag* may) const {
    if (k.smoothing == 0) return {};
    const double count = may ? double(count_of(may, C)) : double(C);
    double weights = 0;
    for (int64_t c = 0; weight && c < C; c++) weights += may && !may[c].byte ? 0 : weight[c];
    return {k.smoothing / count, weight ? weights : count};
  }

  // 0 log 0 = 0: what has no weight counts for nothing, be its loss infinite.
  template <class D> NLL_INLINE static D product(D weight, D loss) {
    return (weight == 0.0) & (loss * loss == kInfinity) ? D{} : weight * loss;
  }
  // From a row's sums: lse = shift + log_sum; nll = -log p of the label; at_label, its weight, and
  // `kept` are 0 where it is ignored. D is double, or a vector of them.
  template <class D>
  NLL_INLINE Finished<D> finish(D shift, D log_sum, D nll, D target, D mass, D at_label, D kept,
                                D factor, Smoothing<D> s) const {
    D loss, spread_share = D{} + 1.0;
    if (k.labels) {
      at_label = at_label * (1 - k.smoothing);
      spread_share = s.share;
      loss = product(at_label, nll);
      mass = at_label;
      if (k.smoothing > 0) {
        loss += s.share * (log_sum * s.weights - target);
        mass += s.share * s.weights;
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
};

}  // namespace
}  // namespace NLL_ISA
}  // namespace nll
