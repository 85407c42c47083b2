// What the row loops share: vectors of one instruction set, exponentials, the four types, a loop
// over threads.
//
// Every loss's file is compiled once for each instruction set (NLL_ISA names its namespace), with
// GCC's and Clang's vector types: the width follows from the target, and one source serves AVX-512,
// AVX2, NEON and the baseline.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels.h"
#include "threads.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define NLL_INLINE inline __attribute__((always_inline))
#define NLL_INLINE_LAMBDA __attribute__((always_inline))

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
  using Element = int32_t;
  static constexpr int W = kBytes / 4;
};
template <> struct Simd<double> {
  typedef double V __attribute__((vector_size(kBytes)));
  typedef int64_t I __attribute__((vector_size(kBytes)));
  using Element = int64_t;
  static constexpr int W = kBytes / 8;
};
template <class A> using Vec = typename Simd<A>::V;

template <class A> NLL_INLINE Vec<A> splat(A a) { return a - Vec<A>{}; }
template <class V> NLL_INLINE V larger(V a, V b) { return a > b ? a : b; }  // of a NaN and b: b

// Numbers of 16 bits. bfloat16 is the upper half of a float32; rounding is to nearest, ties to
// even.
struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

template <class T> struct Accumulator {
  using type = float;
};
template <> struct Accumulator<double> {
  using type = double;
};
template <class T> using Acc = typename Accumulator<T>::type;

template <class A, class T> NLL_INLINE Vec<A> load(const T* p) {
  Vec<A> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <> NLL_INLINE Vec<float> load<float, bf16>(const bf16* p) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)),
                                       16);
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)),
                                       16);
#else
  Simd<float>::H half;
  std::memcpy(&half, p, sizeof half);
  return (Vec<float>)(__builtin_convertvector(half, Simd<float>::I) << 16);
#endif
}

template <class A, class T> NLL_INLINE void store(T* p, Vec<A> v) { std::memcpy(p, &v, sizeof v); }
template <> NLL_INLINE void store<float, bf16>(bf16* p, Vec<float> v) {
  // A NaN that comes from 16 bits, or from arithmetic, has room below: the addition leaves it one.
#if defined(__AVX512BF16__)
  __m256bh half = _mm512_cvtneps_pbh((__m512)v);  // what is below the least normal number becomes 0
#else
  Simd<float>::I bits = (Simd<float>::I)v;
  bits += 0x7fff + ((bits >> 16) & 1);
#if defined(__AVX512F__)
  __m256i half = _mm512_cvtepi32_epi16((__m512i)(bits >> 16));
#else
  Simd<float>::H half = __builtin_convertvector(bits >> 16, Simd<float>::H);
#endif
#endif
  std::memcpy(p, &half, sizeof half);
}
// Two vectors from 2 W neighbours, in whatever order comes cheapest.
template <class A, class T> NLL_INLINE void load_two(const T* p, Vec<A>* v) {
  v[0] = load<A>(p);
  v[1] = load<A>(p + Simd<A>::W);
}
template <> NLL_INLINE void load_two<float, bf16>(const bf16* p, Vec<float>* v) {
  Simd<float>::I bits;
  std::memcpy(&bits, p, sizeof bits);
  v[0] = (Vec<float>)(bits << 16);
  v[1] = (Vec<float>)(bits & int32_t(0xffff0000));
}

// float16: by the machine's instruction, or by arithmetic on bits.
NLL_INLINE float widen(f16 h) {
  uint32_t sign = uint32_t(h.bits & 0x8000) << 16, magnitude = h.bits & 0x7fff;
  float value = 0;
  if (magnitude >= 0x7c00) {  // infinity, NaN
    uint32_t bits = 0x7f800000 | (magnitude & 0x3ff) << 13;
    std::memcpy(&value, &bits, 4);
  } else if (magnitude <
             0x400) {  // subnormal: its bits moved would be one of float's, which count as 0 here
    value = float(magnitude) * 0x1p-24f;
  } else {
    uint32_t bits = (magnitude << 13) + 0x38000000;
    std::memcpy(&value, &bits, 4);
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
  _mm256_storeu_si256((__m256i*)p,
                      _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  _mm_storeu_si128((__m128i*)p,
                   _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#else
  for (int i = 0; i < Simd<float>::W; i++) p[i] = narrow(v[i]);
#endif
}

// Write W numbers past the caches, to an address that is a multiple of their size: a result larger
// than the caches would be read in only to be overwritten. `finish_streams` before another thread
// reads them.
template <class A, class T> NLL_INLINE void stream(T* p, Vec<A> v) {
  constexpr int bytes = Simd<A>::W * int(sizeof(T));
  alignas(bytes) T line[Simd<A>::W];
  store<A>(line, v);
#if defined(__AVX512F__)
  if constexpr (bytes == 64) return _mm512_stream_si512((__m512i*)p, *(const __m512i*)line);
#endif
#if defined(__AVX__)
  if constexpr (bytes == 32) return _mm256_stream_si256((__m256i*)p, *(const __m256i*)line);
#endif
#if defined(__SSE2__)
  if constexpr (bytes == 16) return _mm_stream_si128((__m128i*)p, *(const __m128i*)line);
#endif
  std::memcpy(p, line, bytes);
}
NLL_INLINE void finish_streams() {
#if defined(__SSE2__)
  _mm_sfence();
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
#if defined(__AVX512BW__)
NLL_INLINE __m256i some_of_16_bits(const void* p, int count) {
  return _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
}
template <> NLL_INLINE Vec<float> load_part<float, bf16>(const bf16* p, int count, float fill) {
  const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(some_of_16_bits(p, count)), 16);
  return (Vec<float>)_mm512_mask_mov_ps(_mm512_set1_ps(fill), __mmask16((1u << count) - 1),
                                        (__m512)wide);
}
template <> NLL_INLINE Vec<float> load_part<float, f16>(const f16* p, int count, float fill) {
  return (Vec<float>)_mm512_mask_cvtph_ps(_mm512_set1_ps(fill), __mmask16((1u << count) - 1),
                                          some_of_16_bits(p, count));
}
template <class T> NLL_INLINE void store_16_bits(T* p, Vec<float> v, int count) {
  T all[16];
  store<float>(all, v);
  _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), *(const __m256i_u*)all);
}
template <> NLL_INLINE void store_part<float, bf16>(bf16* p, Vec<float> v, int count) {
  store_16_bits(p, v, count);
}
template <> NLL_INLINE void store_part<float, f16>(f16* p, Vec<float> v, int count) {
  store_16_bits(p, v, count);
}
#endif
#if defined(__AVX512F__)
template <> NLL_INLINE Vec<float> load_part<float, float>(const float* p, int count, float fill) {
  return (Vec<float>)_mm512_mask_loadu_ps(_mm512_set1_ps(fill), __mmask16((1u << count) - 1), p);
}
template <> NLL_INLINE void store_part<float, float>(float* p, Vec<float> v, int count) {
  _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
}
template <>
NLL_INLINE Vec<double> load_part<double, double>(const double* p, int count, double fill) {
  return (Vec<double>)_mm512_mask_loadu_pd(_mm512_set1_pd(fill), __mmask8((1u << count) - 1), p);
}
template <> NLL_INLINE void store_part<double, double>(double* p, Vec<double> v, int count) {
  _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), (__m512d)v);
}
#elif defined(__AVX2__)
NLL_INLINE __m256i lanes_below(int count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
template <> NLL_INLINE Vec<float> load_part<float, float>(const float* p, int count, float fill) {
  __m256i some = lanes_below(count);
  return (Vec<float>)_mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, some),
                                      _mm256_castsi256_ps(some));
}
template <> NLL_INLINE void store_part<float, float>(float* p, Vec<float> v, int count) {
  _mm256_maskstore_ps(p, lanes_below(count), (__m256)v);
}
#endif
template <class A, class T> NLL_INLINE A load_one(const T* p) {
  if constexpr (std::is_same_v<A, T>) return *p;
  return load_part<A>(p, 1, A(0))[0];
}
template <class A, class T> NLL_INLINE void store_one(T* p, A a) {
  store_part<A>(p, splat<A>(a), 1);
}
template <class A, class T> NLL_INLINE Vec<A> load_part_or_all(const T* p, int count, A fill) {
  return count == Simd<A>::W ? load<A>(p) : load_part<A>(p, count, fill);
}
template <class A, class T> NLL_INLINE void put(T* p, Vec<A> v, int count) {
  count == Simd<A>::W ? store<A>(p, v) : store_part<A>(p, v, count);
}
// Zeros from lane `count` on.
template <class A> NLL_INLINE Vec<A> first_lanes(Vec<A> v, int count) {
  typename Simd<A>::I lane;
  for (int i = 0; i < Simd<A>::W; i++) lane[i] = i;
  return lane < count ? v : Vec<A>{};
}

// A byte of a mask; and which lanes of a vector count, those whose byte is not 0.
struct Flag {
  uint8_t byte;
};
#if defined(__AVX512BW__)
template <class A> using Lanes = __mmask16;
template <class A> NLL_INLINE Lanes<A> lanes(const Flag* p, int count = Simd<A>::W) {
  const __m128i bytes = count == 16 ? _mm_loadu_si128((const __m128i*)p)
                                    : _mm_maskz_loadu_epi8(__mmask16((1u << count) - 1), p);
  return _mm_test_epi8_mask(bytes, bytes);
}
NLL_INLINE Vec<float> where(__mmask16 some, Vec<float> v, Vec<float> other) {
  return (Vec<float>)_mm512_mask_blend_ps(some, (__m512)other, (__m512)v);
}
NLL_INLINE Vec<double> where(__mmask16 some, Vec<double> v, Vec<double> other) {
  return (Vec<double>)_mm512_mask_blend_pd(__mmask8(some), (__m512d)other, (__m512d)v);
}
#else
template <class A> using Lanes = typename Simd<A>::I;
template <class A> NLL_INLINE Lanes<A> lanes(const Flag* p, int count = Simd<A>::W) {
  typedef uint8_t Bytes __attribute__((vector_size(Simd<A>::W)));
  Bytes bytes = {};
  std::memcpy(&bytes, p, count == Simd<A>::W ? sizeof bytes : size_t(count));
  return __builtin_convertvector(bytes, Lanes<A>) != 0;
}
template <class I, class V> NLL_INLINE V where(I some, V v, V other) { return some ? v : other; }
#endif
// The same as a vector of numbers, all ones where it counts, to be moved about.
#if defined(__AVX512DQ__)
NLL_INLINE Vec<float> ones(__mmask16 some, float) { return (Vec<float>)_mm512_movm_epi32(some); }
NLL_INLINE Vec<double> ones(__mmask16 some, double) {
  return (Vec<double>)_mm512_movm_epi64(__mmask8(some));
}
NLL_INLINE __mmask16 lanes_of(Vec<float> ones) { return _mm512_movepi32_mask((__m512i)ones); }
NLL_INLINE __mmask16 lanes_of(Vec<double> ones) { return _mm512_movepi64_mask((__m512i)ones); }
#else
template <class I, class A> NLL_INLINE Vec<A> ones(I some, A) { return (Vec<A>)some; }
NLL_INLINE Lanes<float> lanes_of(Vec<float> ones) { return (Lanes<float>)ones; }
NLL_INLINE Lanes<double> lanes_of(Vec<double> ones) { return (Lanes<double>)ones; }
#endif
template <> NLL_INLINE Vec<float> load<float, Flag>(const Flag* p) {
  return ones(lanes<float>(p), 0.0f);
}
template <> NLL_INLINE Vec<double> load<double, Flag>(const Flag* p) {
  return ones(lanes<double>(p), 0.0);
}
template <> NLL_INLINE Vec<float> load_part<float, Flag>(const Flag* p, int count, float) {
  return ones(lanes<float>(p, count), 0.0f);
}
template <> NLL_INLINE Vec<double> load_part<double, Flag>(const Flag* p, int count, double) {
  return ones(lanes<double>(p, count), 0.0);
}

// As many numbers as a vector of doubles has, in float64 for a while.
template <class A> struct Narrow {
  typedef A V __attribute__((vector_size(sizeof(A) * Simd<double>::W)));
};
template <class A> NLL_INLINE Vec<double> widen(const A* p) {
  typename Narrow<A>::V v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec<double>);
}
// sum[l] += v[l] in float64.
template <class A> NLL_INLINE void add_to(double* sum, Vec<A> v) {
  A part[Simd<A>::W];
  store<A>(part, v);
  for (int l = 0; l < Simd<A>::W; l += Simd<double>::W)
    store<double>(sum + l, load<double>(sum + l) + widen(part + l));
}
template <class A> NLL_INLINE void narrow(A* p, Vec<double> wide) {
  auto v = __builtin_convertvector(wide, typename Narrow<A>::V);
  std::memcpy(p, &v, sizeof v);
}

// exp(x) = 2^n e^r with |r| <= log(2) / 2; e^r by a minimax polynomial (float32) or its Taylor
// series. Relative error below 1.5 * 2^-24 (float32; 1.7 without fused multiplication; the tests
// measure it) and about 2^-52; below the least normal number the result is 0 or as small. For
// numbers that come in 16 bits a shorter way: below 4 * 2^-24 + |x| * 2^-25.
//
// `exp_near` answers 0, infinity or NaN where |x| is too large for it, and never a wrong number: a
// sum shows it.
template <bool half = false> NLL_INLINE Vec<float> exp_near(Vec<float> x) {
#if defined(__AVX512F__)
  const Vec<float> bounded = x;
#else
  const float low = -87.33654f, high = 88.0f;
  Vec<float> bounded = x < low ? splat(low) : x > high ? splat(high) : x;  // NaN stays NaN
#endif
  Vec<float> n = (bounded * 1.44269504f + 12582912.0f) - 12582912.0f, r, p;
  if (half) {
    r = bounded - n * 0.69314718f;
    p = splat(8.31250473856926e-3f);
    p = p * r + 4.1890330612659454e-2f;
    p = p * r + 1.6667115688323975e-1f;
    p = p * r + 4.99992311000824e-1f;
  } else {
    r = bounded - n * 0.693359375f + n * 2.12194440e-4f;
    p = splat(1.3813930563628674e-3f);
    p = p * r + 8.368761278688908e-3f;
    p = p * r + 4.166840389370918e-2f;
    p = p * r + 1.666651964187622e-1f;
    p = p * r + 4.999999403953552e-1f;
  }
  p = p * r + 1.0f;
  p = p * r + 1.0f;
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)n);
#else
  p *= (Vec<float>)((__builtin_convertvector(n, Simd<float>::I) + 127) << 23);
  return x < low ? splat(0.0f) : x > high ? splat(std::numeric_limits<float>::infinity()) : p;
#endif
}
template <bool = false> NLL_INLINE Vec<double> exp_near(Vec<double> x) {
  const double low = -708.39641853226408, high = 709;
  Vec<double> bounded = x < low ? splat(low) : x > high ? splat(high) : x;
  Vec<double> n = (bounded * 1.4426950408889634 + 6755399441055744.0) - 6755399441055744.0;
  Vec<double> r = bounded - n * 6.93147180369123816490e-01 - n * 1.90821492927058770002e-10;
  Vec<double> p = splat(1.0 / 6227020800.0);
  const double inverse[] = {
      1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320, 1.0 / 5040,
      1.0 / 720,       1.0 / 120,      1.0 / 24,      1.0 / 6,      0.5};
  for (double c : inverse) p = p * r + c;
  p = p * (r * r) + r + 1.0;
  p *= (Vec<double>)((__builtin_convertvector(n, Simd<double>::I) + 1023) << 52);
  return x < low ? splat(0.0) : x > high ? splat(std::numeric_limits<double>::infinity()) : p;
}
// exp(x) of any x up to 88, infinity included.
template <bool half = false, class V> NLL_INLINE V exponential(V x) {
#if defined(__AVX512F__)
  // 2^n takes care of itself; at -105 the result is 0. Of max(a, b) with a NaN the result is b.
  if constexpr (std::is_same_v<V, Vec<float>>)
    return exp_near<half>((V)_mm512_max_ps(_mm512_set1_ps(-105.0f), (__m512)x));
#endif
  return exp_near<half>(x);
}

// tanh(x) = sign(x) (1 - e) / (1 + e) with e = exp(-2|x|); near 0 its odd series, where the
// difference would cancel.
template <class A> NLL_INLINE Vec<A> hyperbolic_tangent(Vec<A> x) {
  Vec<A> magnitude = x < 0 ? -x : x;
  Vec<A> e = exponential(A(-2) * magnitude);
  Vec<A> far = (A(1) - e) / (A(1) + e);
  Vec<A> q = x * x;
  Vec<A> near = splat<A>(A(0));
  const double series[] = {21844.0 / 6081075, -1382.0 / 155925, 62.0 / 2835,
                           -17.0 / 315,       2.0 / 15,         -1.0 / 3};
  for (double c : series) near = near * q + A(c);
  near = magnitude + magnitude * q * near;
  Vec<A> t = magnitude < A(sizeof(A) == 4 ? 0.25 : 0.03) ? near : far;
  return x < 0 ? -t : t;
}

// log(x) of positive normal x; infinity and NaN stay. x = 2^n m with m in [sqrt(1/2), sqrt(2)), and
// log m = 2 artanh((m - 1) / (m + 1)) by its series. Relative error about 2^-51.
NLL_INLINE Vec<double> logarithm(Vec<double> x) {
  using I = Simd<double>::I;
  const int64_t root_half = 0x3fe6a09e667f3bcd;
  I n = ((I)x - root_half) >> 52;
  Vec<double> m = (Vec<double>)((I)x - (n << 52)), whole = __builtin_convertvector(n, Vec<double>);
  Vec<double> f = (m - 1.0) / (m + 1.0), q = f * f, series = splat(1.0 / 21);
  const double odd[] = {1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13, 1.0 / 11,
                        1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3};
  for (double c : odd) series = series * q + c;
  Vec<double> log_m = 2.0 * (f + f * q * series);
  // log 2 in two parts, the first with room for n
  Vec<double> value =
      whole * 6.93147180369123816490e-01 + (whole * 1.90821492927058770002e-10 + log_m);
  return x <= std::numeric_limits<double>::max() ? value : x;
}

// Whether a comparison holds in any lane.
template <class M> NLL_INLINE bool any(M mask) {
  bool found = false;
  for (size_t i = 0; i < sizeof mask / sizeof mask[0]; i++) found = found || mask[i] != 0;
  return found;
}

// The sum of four vectors, in float64 and in a fixed order.
template <class A> NLL_INLINE double total(const Vec<A>* v) {
  constexpr int W = Simd<A>::W;
  A part[4][W];
  std::memcpy(part, v, sizeof part);
  double lane[W];
  for (int i = 0; i < W; i++)
    lane[i] = (double(part[0][i]) + double(part[1][i])) + (double(part[2][i]) + double(part[3][i]));
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lane[i] += lane[i + half];
  return lane[0];
}
template <class A> NLL_INLINE A largest(Vec<A> v) {
  A found = v[0];
  for (int i = 1; i < Simd<A>::W; i++) found = found > v[i] ? found : v[i];
  return found;
}

// While it lives, numbers below the least normal one count as 0: processors take a hundred times as
// long for them, and a softmax of far-off scores is full of them.
class FlushToZero {
#if defined(__SSE2__)
 public:
  FlushToZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }  // FTZ and DAZ
  ~FlushToZero() { _mm_setcsr(before_); }

 private:
  const unsigned before_;
#endif
};

// The parts of [0, count) that threads still have to do. Each takes the next when it is done with
// one: rows that are ignored and neighbours on the machine make equal shares unequal.
class Shares {
 public:
  Shares(int64_t count, int threads)
      : count_(count), step_(std::max<int64_t>(1, count / (16 * int64_t(threads)))) {}
  bool take(int64_t* begin, int64_t* end) {
    *begin = next_.fetch_add(step_, std::memory_order_relaxed);
    *end = std::min(count_, *begin + step_);
    return *begin < count_;
  }

 private:
  std::atomic<int64_t> next_{0};
  const int64_t count_, step_;
};

// Call work(shares) on so many threads.
template <class F> void parallel(int64_t count, int threads, F work) {
  threads = int(std::min<int64_t>(threads, count));
  Shares shares(count, std::max(threads, 1));
  auto flushed = [&] {
    FlushToZero flush;
    work(shares);
  };
  if (threads <= 1) return flushed();
  on_threads(threads, [](void* body) { (*static_cast<decltype(flushed)*>(body))(); }, &flushed);
}
// Call f(i) for every i in [0, count).
template <class F> void parallel_each(int64_t count, int threads, F f) {
  parallel(count, threads, [&](Shares& shares) {
    for (int64_t begin, end; shares.take(&begin, &end);)
      for (int64_t i = begin; i < end; i++) f(i);
  });
}

}  // namespace NLL_ISA
}  // namespace nll
