// The Python module: choose the instruction set of this machine once, take raw addresses, let go of the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <sys/mman.h>

#include <mutex>
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
  return {at<const void*>(data), nll::Type(type), outer, classes, inner, outer_stride, class_stride, inner_stride};
}

// ---- Memory for gradients: touching fresh pages costs more than the arithmetic. Large blocks come from huge pages, and
// the last three given back are kept for the next that fit: log_softmax and nll_loss in two calls have three at once.

constexpr size_t kHuge = size_t(1) << 21, kKept = 3;

struct Span {
  void* data;
  size_t bytes;
};

class Pool {
 public:
  Span take(size_t bytes) {
    {
      std::lock_guard<std::mutex> hold(lock_);
      for (auto span = kept_.begin(); span != kept_.end(); ++span)
        if (span->bytes >= bytes && span->bytes / 2 <= bytes) {
          Span found = *span;
          kept_.erase(span);
          return found;
        }
    }
    void* fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) return {nullptr, 0};
#if defined(MADV_HUGEPAGE)
    madvise(fresh, bytes, MADV_HUGEPAGE);
#endif
    return {fresh, bytes};
  }
  void give(Span span) {
    std::lock_guard<std::mutex> hold(lock_);
    kept_.push_back(span);
    if (kept_.size() > kKept) drop();
  }
  size_t kept() {
    std::lock_guard<std::mutex> hold(lock_);
    size_t sum = 0;
    for (const Span& span : kept_) sum += span.bytes;
    return sum;
  }
  void clear() {
    std::lock_guard<std::mutex> hold(lock_);
    while (!kept_.empty()) drop();
  }

 private:
  void drop() {  // the one that has waited longest
    munmap(kept_.front().data, kept_.front().bytes);
    kept_.erase(kept_.begin());
  }
  std::mutex lock_;
  std::vector<Span> kept_;
};
Pool& pool() {
  static Pool* one = new Pool;  // never destroyed: tensors may outlive the module
  return *one;
}

// A block of memory that Python's buffer protocol shows; the tensor over it keeps it alive.
struct Block {
  Span span;
  explicit Block(size_t wanted) : span(pool().take((wanted + kHuge - 1) / kHuge * kHuge)) {
    if (!span.data) throw std::bad_alloc();
  }
  ~Block() { pool().give(span); }
  Block(const Block&) = delete;
};
int block_buffer(PyObject* self, Py_buffer* view, int flags) {
  Block* block = nb::inst_ptr<Block>(self);
  return PyBuffer_FillInfo(view, self, block->span.data, Py_ssize_t(block->span.bytes), 0, flags);
}
PyType_Slot block_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(block_buffer)}, {0, nullptr}};

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
  nb::class_<Block>(m, "Block", nb::type_slots(block_slots)).def(nb::init<size_t>());
  m.def("kept_bytes", [] { return pool().kept(); });
  m.def("release", [] { pool().clear(); });

  m.def(
      "cross_entropy",
      [](Address data, int type, std::tuple<int64_t, int64_t, int64_t> sizes,
         std::tuple<int64_t, int64_t, int64_t> strides, int mode, Address gradient, bool in_place, Address labels,
         Address probabilities, Address weight, Address row_factor, int64_t ignore_index, double smoothing,
         double inverse_temperature, double softcap, double z_loss, int reduction, double upstream, Address loss,
         Address rows, Address shift, Address sum, int threads) {
        nll::CrossEntropy job{scores(data, type, sizes, strides),
                              nll::Mode(mode),
                              at<void*>(gradient),
                              in_place,
                              at<const int64_t*>(labels),
                              at<const void*>(probabilities),
                              at<const void*>(weight),
                              at<const void*>(row_factor),
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
        nll::LogSoftmax job{scores(data, type, sizes, strides), at<const void*>(result), at<void*>(out), threads};
        result ? chosen->log_softmax_backward(job) : chosen->log_softmax(job);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "statistics",
      [](Address data, int type, int64_t rows, int64_t classes, int64_t row_stride, Address gradient, Address labels,
         double inverse_temperature, double softcap, Address log_prob, Address lse, Address entropy, Address rank,
         Address by_log_prob, Address by_lse, Address by_entropy, int threads) {
        chosen->statistics({{at<const void*>(data), nll::Type(type), rows, classes, 1, row_stride, 1, 1},
                            at<void*>(gradient),
                            at<const int64_t*>(labels),
                            inverse_temperature,
                            softcap,
                            at<void*>(log_prob),
                            at<void*>(lse),
                            at<void*>(entropy),
                            at<int64_t*>(rank),
                            at<const void*>(by_log_prob),
                            at<const void*>(by_lse),
                            at<const void*>(by_entropy),
                            threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "softmax_sums",
      [](Address x, int type, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride, Address centre,
         Address scale, bool intercept, int64_t classes, Address labels, Address target, Address weight, Address offset,
         Address theta, Address direction, Address probabilities, bool known, int square, Address value, Address score, Address pairs, int threads) {
        chosen->softmax_sums({at<const void*>(x), nll::Type(type), rows, columns, row_stride, column_stride,
                              at<const double*>(centre), at<const double*>(scale), intercept, classes,
                              at<const int64_t*>(labels), at<const double*>(target), at<const double*>(weight),
                              at<const double*>(offset), at<const double*>(theta), at<const double*>(direction),
                              at<double*>(probabilities), known, nll::Square(square), at<double*>(value), at<double*>(score), at<double*>(pairs), threads});
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "zero", [](Address data, int64_t bytes, int threads) { chosen->zero(at<void*>(data), bytes, threads); },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "exponential", [](Address x, Address y, int64_t n) { chosen->exponential(at<const float*>(x), at<float*>(y), n); },
      nb::call_guard<nb::gil_scoped_release>());
}
