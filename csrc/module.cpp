// The Python module: choose the instruction set of this machine once, take raw addresses, let go of the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "kernels.h"

namespace nb = nanobind;
using Address = uintptr_t;

namespace {

std::vector<const nll::Kernels*> available() {
  std::vector<const nll::Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
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
// the last one given back is kept for the next gradient of that size.

constexpr size_t kHuge = size_t(1) << 21;

class Pool {
 public:
  void* take(size_t bytes) {
    {
      std::lock_guard<std::mutex> hold(lock_);
      if (kept_ && kept_bytes_ == bytes) {
        void* found = kept_;
        kept_ = nullptr;
        return found;
      }
    }
    void* fresh = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fresh == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
    madvise(fresh, bytes, MADV_HUGEPAGE);
#endif
    return fresh;
  }
  void give(void* block, size_t bytes) {
    std::lock_guard<std::mutex> hold(lock_);
    std::swap(kept_, block);
    std::swap(kept_bytes_, bytes);
    if (block) munmap(block, bytes);
  }
  size_t kept() {
    std::lock_guard<std::mutex> hold(lock_);
    return kept_ ? kept_bytes_ : 0;
  }
  void clear() { give(nullptr, 0); }

 private:
  std::mutex lock_;
  void* kept_ = nullptr;
  size_t kept_bytes_ = 0;
};
Pool& pool() {
  static Pool* one = new Pool;  // never destroyed: tensors may outlive the module
  return *one;
}

// A block of memory that Python's buffer protocol shows; the tensor over it keeps it alive.
struct Block {
  size_t bytes;
  void* data;
  explicit Block(size_t wanted) : bytes((wanted + kHuge - 1) / kHuge * kHuge), data(pool().take(bytes)) {
    if (!data) throw std::bad_alloc();
  }
  ~Block() { pool().give(data, bytes); }
  Block(const Block&) = delete;
};
int block_buffer(PyObject* self, Py_buffer* view, int flags) {
  Block* block = nb::inst_ptr<Block>(self);
  return PyBuffer_FillInfo(view, self, block->data, Py_ssize_t(block->bytes), 0, flags);
}
PyType_Slot block_slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(block_buffer)}, {0, nullptr}};

}  // namespace

NB_MODULE(_cpu, m) {
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
         Address probabilities, Address weight, int64_t ignore_index, double smoothing, double inverse_temperature,
         double softcap, Address loss, Address maximum, Address sum, Address slope, Address z_slope, double slope_all,
         double z_slope_all, int threads) {
        nll::CrossEntropy job{scores(data, type, sizes, strides), nll::Mode(mode), at<void*>(gradient), in_place,
                              at<const int64_t*>(labels), at<const void*>(probabilities), at<const void*>(weight),
                              ignore_index, smoothing, inverse_temperature, softcap, at<void*>(loss), at<void*>(maximum),
                              at<void*>(sum), at<const void*>(slope), at<const void*>(z_slope), slope_all, z_slope_all,
                              threads};
        return chosen->cross_entropy(job);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "log_softmax",
      [](Address data, int type, std::tuple<int64_t, int64_t, int64_t> sizes,
         std::tuple<int64_t, int64_t, int64_t> strides, Address result, Address out, int threads) {
        nll::LogSoftmax job{scores(data, type, sizes, strides), at<const void*>(result), at<void*>(out), threads};
        return result ? chosen->log_softmax_backward(job) : chosen->log_softmax(job);
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "zero",
      [](Address data, size_t bytes, int threads) {
        size_t share = (bytes / size_t(threads) + 4095) / 4096 * 4096;
        std::vector<std::thread> others;
        for (size_t begin = share; begin < bytes; begin += share)
          others.emplace_back([=] { std::memset(at<char*>(data) + begin, 0, std::min(share, bytes - begin)); });
        std::memset(at<char*>(data), 0, std::min(share, bytes));
        for (auto& thread : others) thread.join();
      },
      nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "exp_negative", [](Address x, Address y, int64_t n) { chosen->exp_negative(at<const float*>(x), at<float*>(y), n); },
      nb::call_guard<nb::gil_scoped_release>());
}
