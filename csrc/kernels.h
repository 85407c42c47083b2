// The loops that each instruction set provides, and their arguments: raw buffers, strides counted
// in elements.
//
// A tensor of scores is (outer, classes, inner); a "row" is one (outer, inner) pair, numbered outer
// * inner_size + inner. A is the type that is summed in: double for float64, else float.
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
  forward = 0,   // loss, shift, sum
  gradient = 1,  // these and, in the same pass over memory, the gradient
  backward = 2,  // the gradient from the stored shift and sum
};

enum class Reduction : int { none = 0, mean = 1, sum = 2 };

// Row i counts f_i (l_i / M + z_loss lse_i^2 / K), with l_i = -sum_c q_c w_c log p_c and, for the
// mean, M = sum f_i w_label and K = sum f_i over the rows that are kept; else M = K = 1.
struct CrossEntropy {
  Scores x;
  Mode mode;
  void* gradient;  // contiguous (outer, classes, inner), or the scores' own buffer and strides
  bool in_place;   // whether it is the latter
  const int64_t* labels;      // (rows), or null
  const void* probabilities;  // contiguous (outer, classes, inner) of A, or null
  const void* weight;         // (classes) of A, or null
  const void* row_factor;     // (rows) of A: f, or null for ones
  const void* allowed;  // bytes, 0 for a class of probability 0: (classes) or, by row, contiguous
  bool allowed_by_row;  // (outer, classes, inner); null: all are allowed
  int64_t ignore_index;
  double smoothing, inverse_temperature, softcap;  // softcap 0: none
  double z_loss;
  Reduction reduction;
  double upstream;  // the gradient of the result
  void* loss;  // (1) of A: the sum of what the rows count, NaN for the mean of none; unless reduced
               // by none
  void *rows, *shift, *sum;  // (rows) of A: what each counts; log-sum-exp = shift + log(sum)
  int threads;
};

struct LogSoftmax {
  Scores x;            // backward: the gradient of the result
  const void* result;  // backward: the result, contiguous
  void* out;           // contiguous
  int threads;
};

// Rows of neighbouring scores; inner is 1. The labels are classes.
struct Statistics {
  Scores x;
  void* gradient;  // null, or the scores' own buffer, contiguous: they are overwritten with their
                   // gradient
  const int64_t* labels;  // (rows)
  const void* allowed;  // bytes, (classes) or, by row, (rows, classes); null: all classes
  bool allowed_by_row;
  double inverse_temperature, softcap;
  void *log_prob, *lse,
      *entropy;  // (rows) of A; for the gradient the entropy of the forward pass, and
  void *shift,
      *log_sum;  // (rows) of A: lse = shift + log_sum, apart, for the sum of both may lose digits
  int64_t* rank;
  const void *by_log_prob, *by_lse, *by_entropy;  // (rows) of A: the slopes
  int threads;
};

// Contiguous rows of two models' scores of the same classes.
struct Divergence {
  void *model, *target;  // (rows, classes), overwritten with their gradients
  Type type;             // f32, f64 or bf16
  int64_t rows, classes;
  bool layer;  // whether the target is scores, or probabilities: not reversed, not overwritten
  double inverse_temperature, target_inverse_temperature;
  bool reverse;
  const void* factor;  // (rows) of A: what a row's gradients are multiplied by; null: 1
  bool by_model, by_target;  // whether the gradients are wanted
  void* divergence;          // (rows) of A
  int threads;
};

enum class Square : int {
  none = 0,
  information = 1,
  scores = 2,  // the outer product of the rows' scores, a weight being how often a row was seen
  weighted_scores = 3,  // a weight being a factor of the row's score
};

// The sums over rows of a softmax regression, added to what is there. Column j of x counts as (x_j
// - centre_j) scale_j; an intercept's ones come first. Everything but x is float64.
struct SoftmaxSums {
  const void* x;
  Type type;  // f32 or f64
  int64_t rows, columns, row_stride, column_stride;
  const double *centre, *scale;  // (columns)
  bool intercept;
  int64_t classes;          // K
  const int64_t* labels;    // (rows), or null
  const double* target;     // (rows, K), how often each class was seen, where there are no labels
  const double* weight;     // (rows), or null for ones
  const double* offset;     // (rows, K), added to the scores, or null
  const double* theta;      // (K - 1, columns with the intercept)
  const double* direction;  // the same, or null
  double* probabilities;    // (K, rows) to be written or, if known, read; or null
  bool known;
  Square square;
  double *value, *score;  // (1); as theta: the score, or the information times the direction
  double* pairs;          // (K (K - 1) / 2, p (p + 1) / 2): classes k >= l by columns i >= j
  int threads;
};

// The same on sparse columns, rows of few numbers. Everything is float64 and as given.
struct SparseSums {
  const int64_t* start;   // (rows + 1): where the numbers of each row begin
  const int32_t* column;  // of each number
  const double* number;
  int64_t rows, columns, classes;
  const int64_t* labels;                  // (rows)
  const double* weight;                   // (rows), or null for ones
  const double* offset;                   // (rows, K), added to the scores, or null
  const double *slopes, *constants;       // (columns, K - 1), (K - 1)
  const double *direction, *direction_constants;  // the same, or null
  double* probabilities;  // (rows, K - 1) to be written or, for a direction, read; or null
  double *value, *products;  // (1); (columns + 1, K - 1): the sums of r_k x_j, then of r_k
  int threads;
};

struct Kernels {
  const char* name;
  int64_t (*cross_entropy)(const CrossEntropy&);  // -1, or the first row whose label is out of
                                                  // range: nothing is done then
  void (*log_softmax)(const LogSoftmax&);
  void (*log_softmax_backward)(const LogSoftmax&);
  void (*statistics)(const Statistics&);
  void (*divergence)(const Divergence&);
  void (*softmax_sums)(const SoftmaxSums&);
  void (*sparse_sums)(const SparseSums&);
  void (*zero)(void* data, int64_t bytes, int threads);
  void (*exponential)(const float* x, float* y, int64_t n);  // for its test
};

namespace baseline {
extern const Kernels kernels;
}
#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Kernels kernels;
}
#endif

}  // namespace nll
