// What the rows of a softmax regression add up to: log-likelihood, score, and the products that its
// information is made of.
//
// With scores z_k = b_k' x (z_0 = 0), p = softmax(z) and residuals r_k = w ([y = k] - p_k):
//
//   log L = sum w log p_y,   score_k = sum r_k x,   information_kl = sum c_kl x x',  c_kl = w p_k
//   ([k = l] - p_l)
//
// c and x x' are both symmetric: of the information's (K - 1)^2 p^2 numbers a quarter are
// different, and these are the products of the columns c_kl (k >= l) with the columns x_i x_j (i >=
// j), formed a tile of rows at a time in the cache. The outer product of the rows' scores has the
// same form, with c_kl = r_k r_l.
//
// A tile holds its rows as columns: every loop runs along them. 1 - p_k of the largest p_k is the
// sum of the others, not a difference, so that a row which is fitted almost surely counts with all
// its digits.
#include <sys/mman.h>

#include <new>
#include <utility>

#include "common.h"

namespace nll {
namespace NLL_ISA {
namespace {

using V = Vec<double>;
using I = Simd<double>::I;
constexpr int W = Simd<double>::W;
constexpr int kGroup = 5;  // columns whose products are summed at once
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 5;  // with so many others: the sums stay in registers
#else
constexpr int kRows = 2;
#endif
constexpr int kBatch = 3 * kGroup;  // columns x_i x_j that are formed at once
constexpr int kSpan = 4 * W;        // rows of a tile that are scored at once

int64_t rounded_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

NLL_INLINE double sum_of(V v) {
  double sum = 0;
  for (int l = 0; l < W; l++) sum += v[l];
  return sum;
}

// Five vectors with names: an array of so many would live in memory, not in registers.
struct Five {
  V a{}, b{}, c{}, d{}, e{};
  static NLL_INLINE Five at(const double* x, int64_t apart) {
    return {load<double>(x), load<double>(x + apart), load<double>(x + 2 * apart),
            load<double>(x + 3 * apart), load<double>(x + 4 * apart)};
  }
  NLL_INLINE void add(V left, const Five& right) {
    a += left * right.a, b += left * right.b, c += left * right.c, d += left * right.d,
        e += left * right.e;
  }
  NLL_INLINE void put(double* to) const {
    store<double>(to, a), store<double>(to + W, b), store<double>(to + 2 * W, c),
        store<double>(to + 3 * W, d), store<double>(to + 4 * W, e);
  }
};

// sums[i] = the sum of the W numbers [i], for `count` of them, a multiple of 4.
NLL_INLINE void sum_each(const double* lanes, int count, double* sums) {
#if defined(__AVX__)
  typedef double Four __attribute__((vector_size(32)));
  for (int i = 0; i < count; i += 4, lanes += 4 * W) {
    Four v[4];
    for (int l = 0; l < 4; l++) {
      v[l] = (Four)_mm256_load_pd(lanes + l * W);
      if (W > 4) v[l] += (Four)_mm256_load_pd(lanes + l * W + 4);
    }
    const __m256d low = _mm256_hadd_pd((__m256d)v[0], (__m256d)v[1]),
                  high = _mm256_hadd_pd((__m256d)v[2], (__m256d)v[3]);
    const Four crossed = (Four)_mm256_permute2f128_pd(low, high, 0x21),
               kept = (Four)_mm256_blend_pd(low, high, 0b1100);
    _mm256_store_pd(sums + i, (__m256d)(crossed + kept));
  }
#else
  for (int i = 0; i < count; i++, lanes += W) {
    sums[i] = lanes[0];
    for (int l = 1; l < W; l++) sums[i] += lanes[l];
  }
#endif
}

// out[m][n] += the sum of the W numbers [m][n]. Not inlined: where it is, GCC 12 keeps the sums in
// memory all along.
template <int M>
__attribute__((noinline)) void add_sums(const double* lanes, double* out, int64_t width) {
  constexpr int padded = (M * kGroup + 3) / 4 * 4;
  alignas(kBytes) double sums[padded];
  sum_each(lanes, padded, sums);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < kGroup; n++) out[m * width + n] += sums[m * kGroup + n];
}

// out[m][n] += a_m' b_n for M columns a and five columns b of so many rows.
template <int M> NLL_INLINE void dots(const double* a, const double* b, int64_t apart, int64_t rows,
                                      double* out, int64_t width) {
  Five s0, s1, s2, s3, s4;
  for (int64_t t = 0; t < rows; t += W) {
    const Five right = Five::at(b + t, apart);
    s0.add(load<double>(a + t), right);
    if (M > 1) s1.add(load<double>(a + apart + t), right);
    if (M > 2) s2.add(load<double>(a + 2 * apart + t), right);
    if (M > 2) s3.add(load<double>(a + 3 * apart + t), right);
    if (M > 2) s4.add(load<double>(a + 4 * apart + t), right);
  }
  alignas(kBytes) double lanes[(M * kGroup + 3) / 4 * 4 * W];
  s0.put(lanes);
  if (M > 1) s1.put(lanes + kGroup * W);
  if (M > 2)
    s2.put(lanes + 2 * kGroup * W), s3.put(lanes + 3 * kGroup * W), s4.put(lanes + 4 * kGroup * W);
  add_sums<M>(lanes, out, width);
}
// The same for `count` columns a and `groups` of five columns b, which stay in the nearest cache
// meanwhile.
void dots_of(const double* a, int64_t count, const double* b, int64_t groups, int64_t apart,
             int64_t rows, double* out, int64_t width) {
  for (int64_t m = 0; m < count;) {
    const bool many = m + kRows <= count;
    for (int64_t g = 0; g < groups; g++) {
      const double* right = b + g * kGroup * apart;
      if (many) dots<kRows>(a + m * apart, right, apart, rows, out + m * width + g * kGroup, width);
      else dots<1>(a + m * apart, right, apart, rows, out + m * width + g * kGroup, width);
    }
    m += many ? kRows : 1;
  }
}

// z_m = sum_j b_mj x_j for a span of rows.
template <size_t... I, size_t... MI>
NLL_INLINE void scores_of(std::index_sequence<I...>, std::index_sequence<MI...>, const double* b,
                          const double* x, int64_t columns, int64_t apart, double* z) {
  V sum[] = {(void(MI), V{})...};
  for (int64_t j = 0; j < columns; j++) {
    const V xj[] = {load<double>(x + j * apart + int64_t(I) * W)...};
    ((sum[MI] += b[int64_t(MI / 4) * columns + j] * xj[MI % 4]), ...);
  }
  (store<double>(z + int64_t(MI / 4) * apart + int64_t(MI % 4) * W, sum[MI]), ...);
}
template <int M> NLL_INLINE void scores_of(const double* b, const double* x, int64_t columns,
                                           int64_t apart, double* z) {
  scores_of(std::make_index_sequence<4>(), std::make_index_sequence<4 * M>(), b, x, columns, apart,
            z);
}

// Zeros, from an address at which no vector lies across two lines of the cache. Large ones come
// from the system, which has them back at once: the heap would keep them beside the results.
class Buffer {
 public:
  explicit Buffer(int64_t size) : size_(size) {
    if (!large()) {
      data_ = static_cast<double*>(::operator new(size_t(size) * 8, kLine));
      std::fill_n(data_, size, 0.0);
      return;
    }
    void* fresh =
        mmap(nullptr, size_t(size) * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<double*>(fresh);
  }
  Buffer(Buffer&& other) : size_(other.size_), data_(std::exchange(other.data_, nullptr)) {}
  ~Buffer() {
    if (!data_) return;
    if (large()) munmap(data_, size_t(size_) * 8);
    else ::operator delete(data_, kLine);
  }
  double* data() const { return data_; }
  double* begin() const { return data_; }
  double* end() const { return data_ + size_; }
  double& operator[](int64_t i) const { return data_[i]; }

 private:
  bool large() const { return size_ > 1 << 17; }
  static constexpr std::align_val_t kLine{64};
  const int64_t size_;
  double* data_;
};

// What one thread adds up, and the tile it works on.
class Part {
 public:
  explicit Part(const SoftmaxSums& job)
      : k(job),
        squared(job.square != Square::none),
        p(job.columns + job.intercept),
        others(job.classes - 1),
        pairs(others * (others + 1) / 2),
        wide(rounded_up(p, kGroup)),
        squares(rounded_up(p * (p + 1) / 2, kBatch)),
        tile(tile_of(job)),
        apart(tile + 8),  // columns a power of two apart would share the lines of the cache
        x(wide * apart),
        z(job.classes * apart),
        r(others * apart),
        u(job.direction ? others * apart : 0),
        c(squared ? pairs * apart : 0),
        xx(kBatch * apart),
        w(apart),
        score(others * wide),
        square(squared ? pairs * squares : 0) {}

  void add(int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row += tile) add_tile(row, std::min(tile, end - row));
  }
  // Sum into the results; the parts one after the other.
  void deliver() const {
    *k.value += value;
    for (int64_t m = 0; m < others; m++)
      for (int64_t j = 0; j < p; j++) k.score[m * p + j] += score[m * wide + j];
    const int64_t own = p * (p + 1) / 2;
    for (int64_t m = 0; squared && m < pairs; m++)
      for (int64_t j = 0; j < own; j++)
        k.pairs[m * own + j] += square[(j / kBatch * pairs + m) * kBatch + j % kBatch];
  }

 private:
  const SoftmaxSums& k;
  const bool squared;
  const int64_t p, others, pairs, wide, squares, tile, apart;
  Buffer x, z, r, u, c, xx, w, score, square;
  std::vector<int64_t> label = std::vector<int64_t>(size_t(apart));
  double value = 0;

  static int64_t tile_of(const SoftmaxSums& job) {
    const int64_t others = job.classes - 1,
                  columns = job.columns + 3 * job.classes +
                            (job.square != Square::none ? others * job.classes / 2 : 0);
    int64_t rows = 256;
    while (rows > kSpan && rows * columns * 8 > (int64_t(3) << 19)) rows /= 2;
    return rows;
  }

  void add_tile(int64_t row, int64_t count) {
    const int64_t rows = rounded_up(count, kSpan);
    k.type == Type::f32 ? take<float>(row, count, rows) : take<double>(row, count, rows);
    if (k.direction) linear(k.direction, u.data(), rows);
    if (k.known) {
      for (int64_t m = 0; m < k.classes; m++)
        std::copy_n(k.probabilities + m * k.rows + row, count, z.data() + m * apart);
    } else {
      linear(k.theta, z.data() + apart, rows);
      std::fill_n(z.data(), rows, 0.0);
      for (int64_t t = 0; k.offset && t < count; t++)
        for (int64_t m = 0; m < k.classes; m++)
          z[m * apart + t] += k.offset[(row + t) * k.classes + m];
    }
    for (int64_t t = 0; t < rows; t += W) {
      if (k.target) softmax<true>(row, count, t);
      else softmax<false>(row, count, t);
    }
    for (int64_t m = 0; k.probabilities && !k.known && m < k.classes; m++)
      std::copy_n(z.data() + m * apart, count, k.probabilities + m * k.rows + row);
    dots_of(r.data(), others, x.data(), wide / kGroup, apart, rows, score.data(), wide);
    if (squared) add_squares(rows);
  }

  // The columns of a tile, standardised; zeros beyond the last row.
  template <class T> void take(int64_t row, int64_t count, int64_t rows) {
    const T* from = static_cast<const T*>(k.x) + row * k.row_stride;
    double* to = x.data() + (k.intercept ? apart : 0);
    if (k.intercept) std::fill_n(x.data(), rows, 1.0);
    if (k.row_stride == 1) {
      for (int64_t j = 0; j < k.columns; j++)
        for (int64_t t = 0; t < count; t++)
          to[j * apart + t] = (double(from[j * k.column_stride + t]) - k.centre[j]) * k.scale[j];
    } else {
      for (int64_t t = 0; t < count; t++)
        for (int64_t j = 0; j < k.columns; j++)
          to[j * apart + t] =
              (double(from[t * k.row_stride + j * k.column_stride]) - k.centre[j]) * k.scale[j];
    }
    for (int64_t j = 0; j < k.columns; j++)
      std::fill(to + j * apart + count, to + j * apart + rows, 0.0);
    for (int64_t t = 0; t < rows; t++) {
      w[t] = t >= count ? 0.0 : k.weight ? k.weight[row + t] : 1.0;
      label[size_t(t)] = t < count && k.labels ? k.labels[row + t] : 0;
    }
  }

  void linear(const double* b, double* out, int64_t rows) const {
    for (int64_t t = 0; t < rows; t += kSpan) {
      int64_t m = 0;
      for (; m + 4 <= others; m += 4)
        scores_of<4>(b + m * p, x.data() + t, p, apart, out + m * apart + t);
      for (; m < others; m++) scores_of<1>(b + m * p, x.data() + t, p, apart, out + m * apart + t);
    }
  }

  // Scores become probabilities, residuals and the columns c, for W rows.
  template <bool counted> NLL_INLINE void softmax(int64_t row, int64_t count, int64_t t) {
    double* const z = this->z.data() + t;
    const V weight = load<double>(w.data() + t);
    I y, which = {};
    std::memcpy(&y, label.data() + t, sizeof y);
    V trials = splat(1.0), beside = {}, inverse = splat(1.0);
    for (int64_t m = 0; counted && m < k.classes; m++)
      trials = (m ? trials : V{}) + target(row, count, t, m);
    if (!k.known) {
      V top = load<double>(z), own = {}, rest = {};
      for (int64_t m = 0; m < k.classes; m++) {
        const V zm = load<double>(z + m * apart);
        which = zm > top ? I{} + m : which;
        top = zm > top ? zm : top;
        if (!counted) own = y == m ? zm : own;
      }
      if (!counted) own -= top;
      for (int64_t m = 0; counted && m < k.classes; m++)
        own += target(row, count, t, m) * (load<double>(z + m * apart) - top);
      for (int64_t m = 0; m < k.classes; m++) {
        const V e = exp_near(load<double>(z + m * apart) - top);
        store<double>(z + m * apart, e);
        rest += which == m ? V{} : e;
      }
      const V sum = rest + 1.0;
      inverse = 1.0 / sum, beside = rest * inverse;  // 1 - p of the largest
      const V log_sum = logarithm(sum) + (rest - (sum - 1.0)) * inverse;
      value += sum_of(weight * (own - trials * log_sum));
    }
    V mean = {};  // of the direction's scores
    for (int64_t m = 0; m < k.classes; m++) {
      const V pm = load<double>(z + m * apart) * inverse;
      store<double>(z + m * apart, pm);
      if (m && k.direction) mean += pm * load<double>(u.data() + (m - 1) * apart + t);
    }
    for (int64_t m = 1; m < k.classes; m++) {
      const V pm = load<double>(z + m * apart), not_m = which == m ? beside : 1.0 - pm;
      V residual;
      if (k.direction)
        residual = trials * pm * (load<double>(u.data() + (m - 1) * apart + t) - mean);
      else if (counted) residual = target(row, count, t, m) - trials * pm;
      else residual = y == m ? not_m : -pm;
      store<double>(r.data() + (m - 1) * apart + t, weight * residual);
      if (k.square == Square::information) {
        double* to = c.data() + m * (m - 1) / 2 * apart + t;
        const V part = weight * trials * pm;
        for (int64_t l = 1; l < m; l++)
          store<double>(to + (l - 1) * apart, -part * load<double>(z + l * apart));
        store<double>(to + (m - 1) * apart, part * not_m);
      }
    }
    if (k.square == Square::scores || k.square == Square::weighted_scores) {
      // A frequency of w is w rows with the score r / w each.
      const V again = k.square == Square::weighted_scores ? splat(1.0)
                      : weight > 0.0                      ? 1.0 / weight
                                                          : V{};
      double* to = c.data() + t;
      for (int64_t m = 0; m < others; m++) {
        const V rm = again * load<double>(r.data() + m * apart + t);
        for (int64_t l = 0; l <= m; l++, to += apart)
          store<double>(to, rm * load<double>(r.data() + l * apart + t));
      }
    }
  }
  NLL_INLINE V target(int64_t row, int64_t count, int64_t t, int64_t m) const {
    V q = {};
    for (int i = 0; i < W && t + i < count; i++) q[i] = k.target[(row + t + i) * k.classes + m];
    return q;
  }

  // square[batch][kl][ij in it] += c_kl' (x_i x_j): in the order in which memory is gone through.
  void add_squares(int64_t rows) {
    int64_t filled = 0;
    double* sums = square.data();
    for (int64_t i = 0; i < p; i++)
      for (int64_t j = 0; j <= i; j++) {
        for (int64_t t = 0; t < rows; t += W)
          store<double>(xx.data() + filled * apart + t, load<double>(x.data() + i * apart + t) *
                                                            load<double>(x.data() + j * apart + t));
        if (++filled < kBatch && j < p - 1) continue;
        const int64_t groups = (filled + kGroup - 1) / kGroup;
        std::fill(xx.begin() + filled * apart, xx.begin() + groups * kGroup * apart, 0.0);
        dots_of(c.data(), pairs, xx.data(), groups, apart, rows, sums, kBatch);
        sums += pairs * kBatch, filled = 0;
      }
  }
};

}  // namespace

void softmax_sums(const SoftmaxSums& k) {
  const int threads = int(std::max<int64_t>(1, std::min<int64_t>(k.threads, k.rows / 256)));
  std::vector<Part> parts;
  parts.reserve(size_t(threads));
  for (int t = 0; t < threads; t++) parts.emplace_back(k);
  const int64_t each = (k.rows + threads - 1) / threads;
  parallel_each(threads, threads, [&](int64_t t) {
    parts[size_t(t)].add(t * each, std::min(k.rows, (t + 1) * each));
  });
  for (const Part& part : parts) part.deliver();
}

}  // namespace NLL_ISA
}  // namespace nll
