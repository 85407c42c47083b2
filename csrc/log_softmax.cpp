// log softmax along a dimension, y = x - max - log sum exp(x - max), and its gradient, g - exp(y) sum g.
#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

// One row, or W of them side by side: element c of lane l is at c * stride + l.
template <class A> struct Lanes {
  static constexpr int W = Simd<A>::W;

  static NLL_INLINE void forward(A* z, int64_t classes, int64_t stride) {
    Vec<A> m = splat(-std::numeric_limits<A>::infinity());
    for (int64_t c = 0; c < classes; c++) m = larger(load<A>(z + c * stride), m);
    Vec<A> s = {};
    for (int64_t c = 0; c < classes; c++) s += exp_negative(load<A>(z + c * stride) - m);
    Vec<A> log_sum;
    for (int l = 0; l < W; l++) log_sum[l] = A(std::log(double(s[l])));
    for (int64_t c = 0; c < classes; c++) store<A>(z + c * stride, (load<A>(z + c * stride) - m) - log_sum);
  }
  static NLL_INLINE void backward(A* g, const A* y, int64_t classes, int64_t stride) {
    Vec<A> s = {};
    for (int64_t c = 0; c < classes; c++) s += load<A>(g + c * stride);
    for (int64_t c = 0; c < classes; c++)
      store<A>(g + c * stride, load<A>(g + c * stride) - exp_negative(load<A>(y + c * stride)) * s);
  }
};

// Visit a long row in vectors; f(vector, offset, count) sees `fill` beyond the end.
template <class A, class T, class F> NLL_INLINE void visit(const T* x, int64_t n, A fill, F f) {
  constexpr int W = Simd<A>::W;
  int64_t i = 0;
  for (; i + W <= n; i += W) f(load<A>(x + i), i, W);
  if (i < n) f(load_part<A>(x + i, int(n - i), fill), i, int(n - i));
}
template <class A, class T> NLL_INLINE void put(T* out, Vec<A> v, int count) {
  count == Simd<A>::W ? store<A>(out, v) : store_part<A>(out, v, count);
}
// Add vectors in float64 after every 64, so that long rows lose nothing.
template <class A> struct Sum {
  Vec<A> part = {};
  double all = 0;
  int held = 0;
  NLL_INLINE void add(Vec<A> v) {
    part += v;
    if (++held == 64) all += total<A>(part), part = Vec<A>{}, held = 0;
  }
  double value() { return all + total<A>(part); }
};

template <class T> void forward_row(const T* x, T* out, int64_t n) {
  using A = Acc<T>;
  const A none = -std::numeric_limits<A>::infinity();
  Vec<A> m = splat(none);
  visit<A>(x, n, none, [&](Vec<A> v, int64_t, int) { m = larger(v, m); });
  const A top = largest<A>(m);
  Sum<A> sum;
  visit<A>(x, n, none, [&](Vec<A> v, int64_t, int) { sum.add(exp_negative(v - top)); });
  const A log_sum = A(std::log(sum.value()));
  visit<A>(x, n, none, [&](Vec<A> v, int64_t i, int count) { put<A>(out + i, (v - top) - log_sum, count); });
}
template <class T> void backward_row(const T* g, const T* y, T* out, int64_t n) {
  using A = Acc<T>;
  Sum<A> sum;
  visit<A>(g, n, A(0), [&](Vec<A> v, int64_t, int) { sum.add(v); });
  const A all = A(sum.value());
  visit<A>(g, n, A(0), [&](Vec<A> v, int64_t i, int count) {
    Vec<A> p = exp_negative(count == Simd<A>::W ? load<A>(y + i) : load_part<A>(y + i, count, A(0)));
    put<A>(out + i, v - p * all, count);
  });
}

template <class T> void run(const LogSoftmax& k, bool back) {
  using A = Acc<T>;
  const int64_t C = k.x.classes;
  const T *x = static_cast<const T*>(k.x.data), *y = static_cast<const T*>(k.result);
  T* out = static_cast<T*>(k.out);
  int threads = useful_threads(k.x, k.threads);
  if (along_classes(k.x)) {
    parallel(k.x.outer * k.x.inner, threads, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        const T* row = x + r / k.x.inner * k.x.outer_stride + r % k.x.inner * k.x.inner_stride;
        back ? backward_row<T>(row, y + r * C, out + r * C, C) : forward_row<T>(row, out + r * C, C);
      }
    });
    return;
  }
  Tiling way(k.x, sizeof(A));
  const bool side = k.x.inner == 1;
  const int64_t dense_class = side ? 1 : way.positions, dense_position = side ? C : 1;
  parallel(way.count(), threads, [&](int64_t begin, int64_t end) {
    std::vector<A> z(size_t(C * way.width)), result(size_t(back ? C * way.width : 0));
    for (int64_t i = begin; i < end; i++) {
      int64_t n = i / way.per_outer(), first = i % way.per_outer() * way.width;
      int64_t count = std::min(way.width, way.positions - first);
      int64_t dense = side ? (n * way.positions + first) * C : n * C * way.positions + first;
      gather_tile<T, A>(x + n * way.outer_stride + first * way.position_stride, k.x.class_stride, way.position_stride, C,
                        count, way.width, z.data());
      if (back) gather_tile<T, A>(y + dense, dense_class, dense_position, C, count, way.width, result.data());
      for (int64_t l = 0; l < count; l += Simd<A>::W)
        back ? Lanes<A>::backward(z.data() + l, result.data() + l, C, way.width)
             : Lanes<A>::forward(z.data() + l, C, way.width);
      scatter_tile<T, A>(z.data(), way.width, C, count, dense_class, dense_position, out + dense);
    }
  });
}

int64_t dispatch(const LogSoftmax& k, bool back) {
  switch (k.x.type) {
    case Type::f32: run<float>(k, back); break;
    case Type::f64: run<double>(k, back); break;
    case Type::bf16: run<bf16>(k, back); break;
    default: run<f16>(k, back);
  }
  return -1;
}

void exponentials(const float* x, float* y, int64_t n) {
  visit<float>(x, n, 0.0f, [&](Vec<float> v, int64_t i, int count) { put<float>(y + i, exp_negative(v), count); });
}

}  // namespace

int64_t cross_entropy(const CrossEntropy&);

int64_t log_softmax(const LogSoftmax& k) { return dispatch(k, false); }
int64_t log_softmax_backward(const LogSoftmax& k) { return dispatch(k, true); }

#define NLL_TEXT(name) #name
#define NLL_NAME(name) NLL_TEXT(name)
extern const Kernels kernels = {NLL_NAME(NLL_ISA), cross_entropy, log_softmax, log_softmax_backward, exponentials};

}  // namespace NLL_ISA
}  // namespace nll
