// The threads of the OpenMP runtime that PyTorch has loaded: for a while after each of its
// operators they wait at work, and whoever comes with threads of its own then has to share the
// processors with them. Without a runtime, and in a forked process, where its threads are gone,
// threads are started for the call.
#include "threads.h"

#include <dlfcn.h>
#include <pthread.h>

#include <system_error>
#include <thread>
#include <vector>

namespace nll {
namespace {

// What a compiler makes of `#pragma omp parallel`; the runtimes of GCC, LLVM and Intel all have it.
using Parallel = void (*)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

Parallel find_runtime() { return reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel")); }

bool forked = false;
const int watching = pthread_atfork(nullptr, nullptr, [] { forked = true; });

void start_threads(int threads, void (*body)(void*), void* data) {
  std::vector<std::thread> others;
  try {
    for (int t = 1; t < threads; t++) others.emplace_back(body, data);
  } catch (const std::system_error&) {  // no more threads for this process: the others do its share
  }
  body(data);
  for (std::thread& thread : others) thread.join();
}

}  // namespace

void on_threads(int threads, void (*body)(void*), void* data) {
  static const Parallel runtime = find_runtime();
  if (runtime && !forked && watching == 0) runtime(body, data, unsigned(threads), 0);
  else start_threads(threads, body, data);
}

}  // namespace nll
