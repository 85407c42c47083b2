// The loops that each instruction set provides, and their arguments: raw buffers, strides counted in elements.
//
// A tensor of scores is (outer, classes, inner); a "row" is one (outer, inner) pair, numbered outer * inner_size + inner.
// A is the type that is summed in: double for float64, else float.
#pragma once

#include <cstdint>

namespace nll {

enum class Type : int { f32 = 0, f64 = 1, bf16 = 2, f16 = 3 };

struct Scores {
  const void* data;
  Type type;
  int64_t outer, classes, inner;
  int64_t outer_stride, class_stride, inner_stride;
};

enum class Mode : int {
  forward = 0,   // loss, maximum, sum
  gradient = 1,  // these and, in the same pass over memory, the gradient
  backward = 2,  // the gradient from the stored maximum and sum
};

struct CrossEntropy {
  Scores x;
  Mode mode;
  void* gradient;            // contiguous (outer, classes, inner), or the scores' own buffer and strides
  bool in_place;             // whether it is the latter
  const int64_t* labels;     // (rows), or null
  const void* probabilities; // contiguous (outer, classes, inner) of A, or null
  const void* weight;        // (classes) of A, or null
  int64_t ignore_index;
  double smoothing, inverse_temperature, softcap;  // softcap 0: none
  void *loss, *maximum, *sum;                      // (rows) of A: -sum q w log p; log-sum-exp = maximum + log(sum)
  const void *slope, *z_slope;                     // (rows) of A or null: the upstream gradient of loss and of lse^2
  double slope_all, z_slope_all;                   // in their place where null
  int threads;
};

struct LogSoftmax {
  Scores x;            // backward: the gradient of the result
  const void* result;  // backward: the result, contiguous
  void* out;           // contiguous
  int threads;
};

// Each returns -1, or the number of the first row whose label is out of range.
struct Kernels {
  const char* name;
  int64_t (*cross_entropy)(const CrossEntropy&);
  int64_t (*log_softmax)(const LogSoftmax&);
  int64_t (*log_softmax_backward)(const LogSoftmax&);
  void (*exp_negative)(const float* x, float* y, int64_t n);  // for its test
};

namespace baseline { extern const Kernels kernels; }
#if defined(__x86_64__)
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
#endif

}  // namespace nll
