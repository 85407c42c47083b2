// Threads, whichever instruction set the loops are for.
#pragma once

namespace nll {

// Call body(data) on up to so many threads at once, this one among them, and wait for all.
void on_threads(int threads, void (*body)(void*), void* data);

}  // namespace nll
