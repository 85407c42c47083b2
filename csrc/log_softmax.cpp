// log softmax along a dimension, y = x - max - log sum exp(x - max), and its gradient, g - exp(y)
// sum g.
#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

// The sums of value(c) over the classes, for W rows side by side; in float64 after every 64.
template <class A, class F> NLL_INLINE void sums_of(int64_t classes, double* sum, F value) {
  std::fill(sum, sum + Simd<A>::W, 0.0);
  for (int64_t begin = 0; begin < classes; begin += 64) {
    Vec<A> part = {};
    for (int64_t c = begin, end = std::min(classes, begin + 64); c < end; c++) part += value(c);
    add_to<A>(sum, part);
  }
}
// W rows side by side: x(c) gives the scores of class c; `z` receives the result, or the gradient,
// `width` apart.
template <class A, class X>
NLL_INLINE void forward_lanes(A* z, int64_t classes, int64_t width, X x) {
  Vec<A> m = splat(-std::numeric_limits<A>::infinity());
  for (int64_t c = 0; c < classes; c++) m = larger(x(c), m);
  double sum[Simd<A>::W];
  sums_of<A>(classes, sum, [&](int64_t c) NLL_INLINE_LAMBDA { return exponential(x(c) - m); });
  A log_sum[Simd<A>::W];
  for (int l = 0; l < Simd<A>::W; l += Simd<double>::W)
    narrow(log_sum + l, logarithm(load<double>(sum + l)));
  for (int64_t c = 0; c < classes; c++) store<A>(z + c * width, (x(c) - m) - load<A>(log_sum));
}
template <class A, class G, class Y>
NLL_INLINE void backward_lanes(A* z, int64_t classes, int64_t width, G g, Y y) {
  double sum[Simd<A>::W];
  sums_of<A>(classes, sum, g);
  A all[Simd<A>::W];
  for (int l = 0; l < Simd<A>::W; l += Simd<double>::W) narrow(all + l, load<double>(sum + l));
  for (int64_t c = 0; c < classes; c++)
    store<A>(z + c * width, g(c) - exponential(y(c)) * load<A>(all));
}

// Visit a long row in vectors; f(vector, index) sees `fill` beyond the end. Returns the sum of what
// f returns, added up in float64 after every 64 vectors, so that long rows lose nothing.
template <class A, class T, class F> NLL_INLINE double sum_of(const T* x, int64_t n, A fill, F f) {
  constexpr int W = Simd<A>::W;
  double sum = 0;
  for (int64_t begin = 0; begin < n; begin += 256 * W) {
    Vec<A> part[4] = {};
    int64_t i = begin, end = std::min(n, begin + 256 * W);
    for (; i + 4 * W <= end; i += 4 * W)
      for (int j = 0; j < 4; j++) part[j] += f(load<A>(x + i + j * W));
    for (; i < end; i += W)
      part[0] += f(load_part_or_all<A>(x + i, int(std::min<int64_t>(W, end - i)), fill));
    sum += total<A>(part);
  }
  return sum;
}

template <class T> void forward_row(const T* x, T* out, int64_t n, bool streamed) {
  using A = Acc<T>;
  const A none = -std::numeric_limits<A>::infinity(), top = maximum(x, n);
  const A log_sum = A(std::log(
      sum_of<A>(x, n, none, [top](Vec<A> v) NLL_INLINE_LAMBDA { return exponential(v - top); })));
  write<A>(out, n, streamed, [=](int64_t i, int count) NLL_INLINE_LAMBDA {
    return (load_part_or_all<A>(x + i, count, A(0)) - top) - log_sum;
  });
}
template <class T> void backward_row(const T* g, const T* y, T* out, int64_t n, bool streamed) {
  using A = Acc<T>;
  const A all = A(sum_of<A>(g, n, A(0), [](Vec<A> v) NLL_INLINE_LAMBDA { return v; }));
  write<A>(out, n, streamed, [=](int64_t i, int count) NLL_INLINE_LAMBDA {
    Vec<A> p = exponential(load_part_or_all<A>(y + i, count, A(0)));
    return load_part_or_all<A>(g + i, count, A(0)) - p * all;
  });
}

template <class T> void run(const LogSoftmax& k, bool back) {
  using A = Acc<T>;
  const int64_t C = k.x.classes;
  const T *x = static_cast<const T*>(k.x.data), *y = static_cast<const T*>(k.result);
  T* out = static_cast<T*>(k.out);
  const int threads = useful_threads(k.x, k.threads);
  const bool streamed = k.x.outer * C * k.x.inner * int64_t(sizeof(T)) >= kStream;
  if (along_classes(k.x)) {
    parallel(k.x.outer, threads, [&](Shares& shares) {
      for (int64_t begin, end; shares.take(&begin, &end);)
        for (int64_t r = begin; r < end; r++) {
          const T* row = x + r * k.x.outer_stride;
          back ? backward_row<T>(row, y + r * C, out + r * C, C, streamed)
               : forward_row<T>(row, out + r * C, C, streamed);
        }
      finish_streams();
    });
    return;
  }
  Tiling way(k.x, sizeof(A));
  const bool side = k.x.inner == 1;
  const int64_t dense_class = side ? 1 : way.positions, dense_position = side ? C : 1;
  parallel(way.count(), threads, [&](Shares& shares) {
    const size_t size = size_t(C * way.width);
    std::vector<A> x_copy(size), y_copy(back ? size : 0), z(size);
    for (int64_t begin, end; shares.take(&begin, &end);)
      for (int64_t i = begin; i < end; i++) {
        int64_t n = i / way.per_outer(), first = i % way.per_outer() * way.width;
        int64_t count = std::min(way.width, way.positions - first);
        int64_t dense = side ? (n * way.positions + first) * C : n * C * way.positions + first;
        const TileReader<T, A> from({x + n * way.outer_stride + first * way.position_stride,
                                     k.x.class_stride, way.position_stride},
                                    C, count, way.width, x_copy.data());
        const TileReader<T, A> result({y + dense, dense_class, dense_position}, back ? C : 0, count,
                                      way.width, y_copy.data());
        for (int64_t l = 0; l < count; l += Simd<A>::W) {
          auto at = [&](int64_t c) NLL_INLINE_LAMBDA { return from(c, l); };
          auto y_at = [&](int64_t c) NLL_INLINE_LAMBDA { return result(c, l); };
          if (back) backward_lanes(z.data() + l, C, way.width, at, y_at);
          else forward_lanes(z.data() + l, C, way.width, at);
        }
        write_tile(Corner<T>{out + dense, dense_class, dense_position}, C, count, streamed,
                   [&](int64_t c, int64_t l)
                       NLL_INLINE_LAMBDA { return load<A>(&z[size_t(c * way.width + l)]); });
      }
    finish_streams();
  });
}

void dispatch(const LogSoftmax& k, bool back) {
  switch (k.x.type) {
    case Type::f32: return run<float>(k, back);
    case Type::f64: return run<double>(k, back);
    case Type::bf16: return run<bf16>(k, back);
    default: return run<f16>(k, back);
  }
}

void exponentials(const float* x, float* y, int64_t n) {
  write<float>(y, n, false, [x](int64_t i, int count) {
    return exponential(load_part_or_all<float>(x + i, count, 0.0f));
  });
}

}  // namespace

int64_t cross_entropy(const CrossEntropy&);
void statistics(const Statistics&);
void divergence(const Divergence&);
void softmax_sums(const SoftmaxSums&);
void sparse_sums(const SparseSums&);

void log_softmax(const LogSoftmax& k) { dispatch(k, false); }
void log_softmax_backward(const LogSoftmax& k) { dispatch(k, true); }
void zero(void* data, int64_t bytes, int threads) {
  const int64_t share = 1 << 20;
  parallel_each((bytes + share - 1) / share, threads, [&](int64_t i) {
    int64_t n = std::min(share, bytes - i * share);
    if (n % 4) std::memset(static_cast<char*>(data) + i * share, 0, size_t(n));
    else write_zeros(static_cast<float*>(data) + i * share / 4, n / 4, bytes >= kStream);
    finish_streams();
  });
}

#define NLL_TEXT(name) #name
#define NLL_NAME(name) NLL_TEXT(name)
extern const Kernels kernels = {NLL_NAME(NLL_ISA), cross_entropy, log_softmax,
                                log_softmax_backward, statistics, divergence,
                                softmax_sums, sparse_sums, zero, exponentials};

}  // namespace NLL_ISA
}  // namespace nll
