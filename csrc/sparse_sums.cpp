// What the rows of a softmax regression on sparse columns add up to: log-likelihood and score, or
// the information times a direction d.
//
// With scores z_k = b_k' x + c_k (z_0 = 0) and p = softmax(z), each row adds r_k x and r_k, with
//
//   r_k = w ([y = k] - p_k),  or  r_k = w p_k (m_k - sum_l p_l m_l),  m_k = d_k' x + e_k
//
// A row's numbers are few; vectors run along the classes. The rows are added up in parts whose
// number does not depend on the threads, so that the sums do not either.
#include "common.h"

namespace nll {
namespace NLL_ISA {
namespace {

using V = Vec<double>;
constexpr int W = Simd<double>::W;
constexpr int64_t kParts = 16, kPartRows = 4096;
constexpr int64_t kNumbers = 1 << 24;  // of all parts' sums
const double none = -std::numeric_limits<double>::infinity();

#if defined(__AVX512F__)
NLL_INLINE double sum_of(V v) { return _mm512_reduce_add_pd((__m512d)v); }
NLL_INLINE double largest_of(V v) { return _mm512_reduce_max_pd((__m512d)v); }
#else
NLL_INLINE double sum_of(V v) {
  double sum = v[0];
  for (int i = 1; i < W; i++) sum += v[i];
  return sum;
}
NLL_INLINE double largest_of(V v) { return largest<double>(v); }
#endif

// Coefficients (columns, K - 1) and constants (K - 1) with a column of zeros for class 0, the last,
// and padded to whole vectors.
struct Padded {
  int64_t width;
  std::vector<double> slopes, constants;
  Padded(const double* b, const double* c, int64_t columns, int64_t others, double fill)
      : width((others + W) / W * W), slopes(size_t(columns * width)),
        constants(size_t(width), fill) {
    for (int64_t j = 0; j < columns; j++)
      std::copy_n(b + j * others, others, slopes.data() + j * width);
    if (c) std::copy_n(c, others, constants.data());
    constants[size_t(others)] = 0;
  }
};

// `vectors` of classes in a row; 0: any number.
template <int vectors> struct Job {
  const SparseSums& k;
  const Padded &theta, &direction;
  const int64_t others = k.classes - 1, width = vectors ? vectors * W : theta.width;

  const Simd<double>::I lane = counting();
  static Simd<double>::I counting() {
    Simd<double>::I lane;
    for (int i = 0; i < W; i++) lane[i] = i;
    return lane;
  }

  // f(l) for each vector of classes.
  template <class F> NLL_INLINE void each(F f) const {
    if constexpr (vectors) {
      for (int l = 0; l < vectors * W; l += W) f(l);
    } else {
      for (int64_t l = 0; l < width; l += W) f(l);
    }
  }
  template <class F> NLL_INLINE double sum(F f) const {
    V all{};
    each([&](int64_t l) NLL_INLINE_LAMBDA { all += f(l); });
    return sum_of(all);
  }

  // out = c + sum_j x_j b_j of a row.
  NLL_INLINE void scores(const Padded& of, int64_t row, double* out) const {
    const int64_t begin = k.start[row], end = k.start[row + 1];
    const double *b = of.slopes.data(), *c = of.constants.data();
    each([&](int64_t l) NLL_INLINE_LAMBDA {
      V sum = load<double>(c + l);
      for (int64_t i = begin; i < end; i++)
        sum += k.number[i] * load<double>(b + k.column[i] * width + l);
      store<double>(out + l, sum);
    });
  }
  // sums += x r' of a row; the last row of the sums is that of the constant.
  NLL_INLINE void add(int64_t row, const double* r, double* sums) const {
    const int64_t begin = k.start[row], end = k.start[row + 1];
    each([&](int64_t l) NLL_INLINE_LAMBDA {
      const V residual = load<double>(r + l);
      auto to = [&](int64_t j, double x) NLL_INLINE_LAMBDA {
        double* at = sums + j * width + l;
        store<double>(at, load<double>(at) + x * residual);
      };
      for (int64_t i = begin; i < end; i++) to(k.column[i], k.number[i]);
      to(k.columns, 1.0);
    });
  }
  NLL_INLINE void add_offsets(int64_t row, double* z) const {
    const double* offset = k.offset + row * k.classes;
    z[others] += offset[0];
    for (int64_t l = 0; l < others; l++) z[l] += offset[l + 1];
  }
  NLL_INLINE int64_t label(int64_t row) const {
    return k.labels[row] ? k.labels[row] - 1 : others;
  }

  // A row's log-probability; z becomes p. `rest` is 1 - p_y, the sum of the others.
  NLL_INLINE double probabilities(int64_t row, double* z, double* rest) const {
    scores(theta, row, z);
    if (k.offset) add_offsets(row, z);
    const int64_t y = label(row);
    const double of_label = z[y];
    V highest = load<double>(z);
    each([&](int64_t l) NLL_INLINE_LAMBDA { highest = larger(load<double>(z + l), highest); });
    const double top = largest_of(highest);
    each([&](int64_t l) NLL_INLINE_LAMBDA {
      store<double>(z + l, exponential(load<double>(z + l) - top));
    });
    const double own = z[y], less = sum([&](int64_t l) NLL_INLINE_LAMBDA {
      return lane + (l - y) == 0 ? V{} : load<double>(z + l);
    });
    const double inverse = 1 / (own + less);
    each([&](int64_t l) NLL_INLINE_LAMBDA { store<double>(z + l, load<double>(z + l) * inverse); });
    *rest = less * inverse;
    return 4 * less <= own ? -std::log1p(less / own) : (of_label - top) - std::log(own + less);
  }

  NLL_INLINE void copy(const double* from, double* to) const {
    for (int64_t l = 0; l < others; l += W) {
      const int some = int(std::min<int64_t>(W, others - l));
      put<double>(to + l, load_part_or_all<double>(from + l, some, 0.0), some);
    }
  }
  double part(int64_t begin, int64_t end, double* sums) const {
    std::vector<double> buffer(size_t(2 * width));
    double *p = buffer.data(), *moved = p + width, value = 0;
    for (int64_t i = begin; i < end; i++) {
      const double w = k.weight ? k.weight[i] : 1.0;
      double *kept = k.probabilities ? k.probabilities + i * others : nullptr, rest = 0;
      if (k.direction && kept) copy(kept, p);  // class 0, which does not move, stays 0
      else if (const double log_p = probabilities(i, p, &rest); w != 0) value += w * log_p;
      if (k.direction) {
        scores(direction, i, moved);
        const double mean = sum([&](int64_t l) NLL_INLINE_LAMBDA {
          return load<double>(p + l) * load<double>(moved + l);
        });
        each([&](int64_t l) NLL_INLINE_LAMBDA {
          store<double>(p + l, w * load<double>(p + l) * (load<double>(moved + l) - mean));
        });
      } else {
        if (kept) copy(p, kept);
        const int64_t y = label(i);
        each([&](int64_t l) NLL_INLINE_LAMBDA {
          store<double>(p + l, lane + (l - y) == 0 ? splat(w * rest) : -w * load<double>(p + l));
        });
      }
      add(i, p, sums);
    }
    return value;
  }

  void run() const {
    const int64_t size = (k.columns + 1) * width,
                  most = std::max<int64_t>(1, std::min(kParts, kNumbers / size)),
                  parts = std::max<int64_t>(1, std::min(most, k.rows / kPartRows));
    std::vector<double> sums(size_t(parts * size)), values(static_cast<size_t>(parts));
    parallel_each(parts, k.threads, [&](int64_t i) {
      values[size_t(i)] =
          part(k.rows * i / parts, k.rows * (i + 1) / parts, sums.data() + i * size);
    });
    *k.value = 0;
    for (double value : values) *k.value += value;
    for (int64_t j = 0; j <= k.columns; j++)
      for (int64_t l = 0; l < others; l++) {
        double sum = 0;
        for (int64_t i = 0; i < parts; i++) sum += sums[size_t(i * size + j * width + l)];
        k.products[j * others + l] = sum;
      }
  }
};

}  // namespace

void sparse_sums(const SparseSums& k) {
  const int64_t others = k.classes - 1;
  const Padded theta(k.slopes, k.constants, k.columns, others, none);
  const bool moves = k.direction != nullptr;
  const Padded direction(k.direction, k.direction_constants, moves ? k.columns : 0,
                         moves ? others : 0, 0.0);
  if (theta.width == W) Job<1>{k, theta, direction}.run();
  else Job<0>{k, theta, direction}.run();
}

}  // namespace NLL_ISA
}  // namespace nll
