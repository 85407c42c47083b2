// The Python module: choose the instruction set of this machine once, take raw addresses, let go of
// the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <sys/mman.h>

#include <string>
#include <vector>

#include "kernels.h"

namespace nb = nanobind;
using Address = uintptr_t;

namespace {

std::vector<const nll::Kernels*> available() {
  std::vector<const nll::Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4") && __builtin_cpu_supports("avx512bf16"))
    found.push_back(&nll::avx512_bf16::kernels);
  if (__builtin_cpu_supports("x86-64-v4")) found.push_back(&nll::avx512::kernels);
  if (__builtin_cpu_supports("x86-64-v3")) found.push_back(&nll::avx2::kernels);
#endif
  found.push_back(&nll::baseline::kernels);
  return found;
}

const nll::Kernels* chosen = available().front();

template <class P> P at(Address address) { return reinterpret_cast<P>(address); }

nll::Scores scores(Address data, int type, std::tuple<int64_t, int64_t, int64_t> sizes,
                   std::tuple<int64_t, int64_t, int64_t> strides) {
  auto [outer, classes, inner] = sizes;
  auto [outer_stride, class_stride, inner_stride] = strides;
  return {at<const void*>(data), nll::Type(type), outer,       classes, inner,
          outer_stride,          class_stride,    inner_stride};
}

// Fresh memory in huge pages: a page is cleared when it is first touched, which costs more than the
// arithmetic.
void use_huge_pages(Address data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  constexpr Address page = 4096;
  const Address begin = (data + page - 1) / page * page, end = (data + bytes) / page * page;
  if (end > begin) madvise(at<void*>(begin), size_t(end - begin), MADV_HUGEPAGE);
#endif
}

}  // namespace

NB_MODULE(_cpu, m) {
  nb::set_leak_warnings(false);  // a gradient may outlive the interpreter's end
  m.attr("isa") = chosen->name;
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (auto* set : available()) names.emplace_back(set->name);
    return names;
  });
  m.def("use_instruction_set", [](const std::string& name) {
    for (auto* set : available())
      if (name == set->name) return chosen = set, void();
    throw nb::value_error("not an instruction set of this machine");
  });
  m.def("use_huge_pages", &use_huge_pages);

  m.def(
      "cross_entropy",
      [](Address data, int type, std::tuple<int64_t, int64_t, int64_t> sizes,
         std::tuple<int64_t, int64_t, int64_t> strides, int mode, Address gradient, bool in_place,
         Address labels, Address probabilities, Address weight, Address row_factor, Address allowed,
         bool allowed_by_row, int64_t ignore_index, double smoothing, double inverse_temperature, double softcap,
         double z_loss, int reduction, double upstream, Address loss, Address rows, Address shift,
         Address sum, int threads) {
        nll::CrossEntropy job{scores(data, type, sizes, strides),
                              nll::Mode(mode),
                              at<void*>(gradient),
                              in_place,
                              at<const int64_t*>(labels),
                              at<const void*>(probabilities),
                              at<const void*>(weight),
                              at<const void*>(row_factor),
                              at<const void*>(allowed),
                              allowed_by_row,
                              ignore_index,
                              smoothing,
                              inverse_temperature,
                              softcap,
                              z_loss,
                              nll::Reduction(reduction),
                              upstream,
                              at<void*>(loss),
                              at<void*>(rows),
                              at<void*>(shift),
                              at<void*>(sum),
                              threads};
        return chosen->cross_entropy(job);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "log_softmax",
      [](Address data, int type, std::tuple<int64_t, int64_t, int64_t> sizes,
         std::tuple<int64_t, int64_t, int64_t> strides, Address result, Address out, int threads) {
        nll::LogSoftmax job{scores(data, type, sizes, strides), at<const void*>(result),
                            at<void*>(out), threads};
        result ? chosen->log_softmax_backward(job) : chosen->log_softmax(job);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "statistics",
      [](Address data, int type, int64_t rows, int64_t classes, int64_t row_stride,
         Address gradient, Address labels, Address allowed, bool allowed_by_row,
         double inverse_temperature, double softcap, Address log_prob, Address lse, Address entropy, Address shift, Address log_sum,
         Address rank, Address by_log_prob, Address by_lse, Address by_entropy, int threads) {
        chosen->statistics(
            {{at<const void*>(data), nll::Type(type), rows, classes, 1, row_stride, 1, 1},
             at<void*>(gradient),
             at<const int64_t*>(labels),
             at<const void*>(allowed),
             allowed_by_row,
             inverse_temperature,
             softcap,
             at<void*>(log_prob),
             at<void*>(lse),
             at<void*>(entropy),
             at<void*>(shift),
             at<void*>(log_sum),
             at<int64_t*>(rank),
             at<const void*>(by_log_prob),
             at<const void*>(by_lse),
             at<const void*>(by_entropy),
             threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "divergence",
      [](Address model, Address target, int type, int64_t rows, int64_t classes, bool layer,
         double inverse_temperature, double target_inverse_temperature, bool reverse,
         Address factor, bool by_model, bool by_target, Address divergence, int threads) {
        chosen->divergence({at<void*>(model), at<void*>(target), nll::Type(type), rows, classes,
                            layer, inverse_temperature, target_inverse_temperature, reverse,
                            at<const void*>(factor), by_model, by_target, at<void*>(divergence),
                            threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "softmax_sums",
      [](Address x, int type, int64_t rows, int64_t columns, int64_t row_stride,
         int64_t column_stride, Address centre, Address scale, bool intercept, int64_t classes,
         Address labels, Address target, Address weight, Address offset, Address theta,
         Address direction, Address probabilities, bool known, int square, Address value,
         Address score, Address pairs, int threads) {
        chosen->softmax_sums({at<const void*>(x),
                              nll::Type(type),
                              rows,
                              columns,
                              row_stride,
                              column_stride,
                              at<const double*>(centre),
                              at<const double*>(scale),
                              intercept,
                              classes,
                              at<const int64_t*>(labels),
                              at<const double*>(target),
                              at<const double*>(weight),
                              at<const double*>(offset),
                              at<const double*>(theta),
                              at<const double*>(direction),
                              at<double*>(probabilities),
                              known,
                              nll::Square(square),
                              at<double*>(value),
                              at<double*>(score),
                              at<double*>(pairs),
                              threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "sparse_sums",
      [](Address start, Address column, Address number, int64_t rows, int64_t columns,
         int64_t classes, Address labels, Address weight, Address offset, Address slopes,
         Address constants, Address direction, Address direction_constants, Address probabilities,
         Address value, Address products, int threads) {
        chosen->sparse_sums({at<const int64_t*>(start), at<const int32_t*>(column),
                             at<const double*>(number), rows, columns, classes,
                             at<const int64_t*>(labels), at<const double*>(weight),
                             at<const double*>(offset), at<const double*>(slopes),
                             at<const double*>(constants), at<const double*>(direction),
                             at<const double*>(direction_constants), at<double*>(probabilities),
                             at<double*>(value), at<double*>(products), threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "zero",
      [](Address data, int64_t bytes, int threads) {
        chosen->zero(at<void*>(data), bytes, threads);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "exponential",
      [](Address x, Address y, int64_t n) {
        chosen->exponential(at<const float*>(x), at<float*>(y), n);
      },
      nb::call_guard<nb::gil_scoped_release>());
}
