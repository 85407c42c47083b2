// What the row loops share: vectors of one instruction set, exponentials, the four types, a loop over threads.
//
// Every loss's file is compiled once for each instruction set (NLL_ISA names its namespace), with GCC's and Clang's
// vector types: the width follows from the target, and one source serves AVX-512, AVX2, NEON and the baseline.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <thread>
#include <vector>

#include "kernels.h"

#if defined(__F16C__) || defined(__AVX512F__)
#include <immintrin.h>
#endif

#define NLL_INLINE inline __attribute__((always_inline))

namespace nll {
namespace NLL_ISA {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

template <class A> struct Simd;
template <> struct Simd<float> {
  typedef float V __attribute__((vector_size(kBytes)));
  typedef int32_t I __attribute__((vector_size(kBytes)));
  typedef uint16_t H __attribute__((vector_size(kBytes / 2)));
  static constexpr int W = kBytes / 4;
};
template <> struct Simd<double> {
  typedef double V __attribute__((vector_size(kBytes)));
  typedef int64_t I __attribute__((vector_size(kBytes)));
  static constexpr int W = kBytes / 8;
};
template <class A> using Vec = typename Simd<A>::V;

template <class A> NLL_INLINE Vec<A> splat(A a) { return a - Vec<A>{}; }
template <class V> NLL_INLINE V larger(V a, V b) { return a > b ? a : b; }  // of a NaN and b: b

// Numbers of 16 bits. bfloat16 is the upper half of a float32; rounding is to nearest, ties to even.
struct bf16 { uint16_t bits; };
struct f16 { uint16_t bits; };

template <class T> struct Accumulator { using type = float; };
template <> struct Accumulator<double> { using type = double; };
template <class T> using Acc = typename Accumulator<T>::type;

template <class A, class T> NLL_INLINE Vec<A> load(const T* p) {
  Vec<A> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <> NLL_INLINE Vec<float> load<float, bf16>(const bf16* p) {
  Simd<float>::H half;
  std::memcpy(&half, p, sizeof half);
  return (Vec<float>)(__builtin_convertvector(half, Simd<float>::I) << 16);
}

template <class A, class T> NLL_INLINE void store(T* p, Vec<A> v) { std::memcpy(p, &v, sizeof v); }
template <> NLL_INLINE void store<float, bf16>(bf16* p, Vec<float> v) {
  // A NaN that comes from 16 bits, or from arithmetic, has room below: the addition leaves it one.
  Simd<float>::I bits = (Simd<float>::I)v;
  bits += 0x7fff + ((bits >> 16) & 1);
  Simd<float>::H half = __builtin_convertvector(bits >> 16, Simd<float>::H);
  std::memcpy(p, &half, sizeof half);
}

// float16: by the machine's instruction, or by arithmetic on bits.
NLL_INLINE float widen(f16 h) {
  uint32_t sign = uint32_t(h.bits & 0x8000) << 16, magnitude = h.bits & 0x7fff;
  float value;
  if (magnitude >= 0x7c00) {  // infinity, NaN
    uint32_t bits = 0x7f800000 | (magnitude & 0x3ff) << 13;
    std::memcpy(&value, &bits, 4);
  } else {  // 2^112 moves the exponent, and makes subnormals normal
    uint32_t bits = magnitude << 13;
    std::memcpy(&value, &bits, 4);
    value *= 0x1p112f;
  }
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits |= sign;
  std::memcpy(&value, &bits, 4);
  return value;
}
NLL_INLINE f16 narrow(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  uint32_t sign = (bits >> 16) & 0x8000;
  bits &= 0x7fffffff;
  if (bits > 0x7f800000) return f16{uint16_t(sign | 0x7e00)};
  if (bits >= 0x477ff000) return f16{uint16_t(sign | 0x7c00)};
  if (bits < 0x38800000) {  // subnormal: the addition rounds to a multiple of 2^-24
    float magnitude;
    std::memcpy(&magnitude, &bits, 4);
    magnitude += 0.5f;
    std::memcpy(&bits, &magnitude, 4);
    return f16{uint16_t(sign | (bits - 0x3f000000))};
  }
  bits += 0xfff + ((bits >> 13) & 1);
  return f16{uint16_t(sign | ((bits - 0x38000000) >> 13))};
}
template <> NLL_INLINE Vec<float> load<float, f16>(const f16* p) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__)
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  Vec<float> v;
  for (int i = 0; i < Simd<float>::W; i++) v[i] = widen(p[i]);
  return v;
#endif
}
template <> NLL_INLINE void store<float, f16>(f16* p, Vec<float> v) {
#if defined(__AVX512F__)
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < Simd<float>::W; i++) p[i] = narrow(v[i]);
#endif
}

// The last vector of a row: what lies beyond its end reads as `fill`, and is not written.
template <class A, class T> NLL_INLINE Vec<A> load_part(const T* p, int count, A fill) {
  T part[Simd<A>::W] = {};
  std::memcpy(part, p, size_t(count) * sizeof(T));
  Vec<A> v = load<A>(part);
  for (int i = count; i < Simd<A>::W; i++) v[i] = fill;
  return v;
}
template <class A, class T> NLL_INLINE void store_part(T* p, Vec<A> v, int count) {
  T part[Simd<A>::W];
  store<A>(part, v);
  std::memcpy(p, part, size_t(count) * sizeof(T));
}
template <class A, class T> NLL_INLINE A load_one(const T* p) { return load_part<A>(p, 1, A(0))[0]; }
template <class A, class T> NLL_INLINE void store_one(T* p, A a) { store_part<A>(p, splat<A>(a), 1); }

// exp(x) for x <= 0: 2^n e^r with |r| <= log(2) / 2, e^r by its Taylor series or a minimax polynomial. Below the
// least normal number the result is 0. Relative error below 1.5 * 2^-24 (float32; the tests measure it) and about 2^-52.
NLL_INLINE Vec<float> exp_negative(Vec<float> x) {
  const Vec<float> low = splat(-87.33654f);
#if defined(__AVX512F__)
  // Below, 2^n takes care of itself; at -105 the result is 0. Of max(a, b) with a NaN the result is b.
  Vec<float> bounded = (Vec<float>)_mm512_max_ps(_mm512_set1_ps(-105.0f), (__m512)x);
#else
  Vec<float> bounded = x < low ? low : x;  // NaN stays NaN
#endif
  Vec<float> n = (bounded * 1.44269504f + 12582912.0f) - 12582912.0f;
  Vec<float> r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
  Vec<float> p = splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
#if defined(__AVX512F__)
  (void)low;
  return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  Vec<float> scale = (Vec<float>)((__builtin_convertvector(n, Simd<float>::I) + 127) << 23);
  return x < low ? splat(0.0f) : p * scale;
#endif
}
NLL_INLINE Vec<double> exp_negative(Vec<double> x) {
  const Vec<double> low = splat(-708.39641853226408);
  Vec<double> bounded = x < low ? low : x;
  Vec<double> n = (bounded * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0;
  Vec<double> r = bounded - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
  Vec<double> p = splat(1.0 / 6227020800.0);
  const double inverse[] = {1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
                            1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
  for (double c : inverse) p = p * r + c;
  p = p * (r * r) + r + 1.0;
  Vec<double> scale = (Vec<double>)((__builtin_convertvector(n, Simd<double>::I) + 1023) << 52);
  return x < low ? splat(0.0) : p * scale;
}

// tanh(x) = sign(x) (1 - e) / (1 + e) with e = exp(-2|x|); near 0 its odd series, where the difference would cancel.
template <class A> NLL_INLINE Vec<A> hyperbolic_tangent(Vec<A> x) {
  Vec<A> magnitude = x < 0 ? -x : x;
  Vec<A> e = exp_negative(A(-2) * magnitude);
  Vec<A> far = (A(1) - e) / (A(1) + e);
  Vec<A> q = x * x;
  Vec<A> near = splat<A>(A(0));
  const double series[] = {21844.0 / 6081075, -1382.0 / 155925, 62.0 / 2835, -17.0 / 315, 2.0 / 15, -1.0 / 3};
  for (double c : series) near = near * q + A(c);
  near = magnitude + magnitude * q * near;
  Vec<A> t = magnitude < A(sizeof(A) == 4 ? 0.25 : 0.03) ? near : far;
  return x < 0 ? -t : t;
}

template <class A> NLL_INLINE double total(Vec<A> v) {  // in a fixed order, whatever the call
  double sum = 0;
  for (int i = 0; i < Simd<A>::W; i++) sum += double(v[i]);
  return sum;
}
template <class A> NLL_INLINE A largest(Vec<A> v) {
  A found = v[0];
  for (int i = 1; i < Simd<A>::W; i++) found = found > v[i] ? found : v[i];
  return found;
}

// Call f(begin, end) for parts of [0, count) on so many threads. Threads live for one call: starting one costs some
// 20 microseconds, which `threads` takes into account, and nothing is left that a fork could break.
template <class F> void parallel(int64_t count, int threads, F f) {
  int64_t parts = std::min<int64_t>(threads, count);
  if (parts <= 1) return count > 0 ? f(int64_t(0), count) : void();
  std::vector<std::thread> others;
  others.reserve(size_t(parts - 1));
  for (int64_t t = 1; t < parts; t++) others.emplace_back(f, count * t / parts, count * (t + 1) / parts);
  f(int64_t(0), count / parts);
  for (std::thread& thread : others) thread.join();
}

}  // namespace NLL_ISA
}  // namespace nll
