// Sums over the rows of a cross entropy: the labels' total weight and the first one out of range,
// and the total loss.
#pragma once

#include <vector>

#include "rows.h"

namespace nll {
namespace NLL_ISA {
namespace {

constexpr int64_t kCounted = 1 << 16;  // rows that are counted, or added up, as one

struct Census {
  double mass = 0,
         kept = 0;     // the total weight of the rows that count, without the labels' weights
  int64_t wrong = -1;  // the first row with a label out of range
};

// The rows from `begin` to `end`.
template <class A> Census census(const CrossEntropy& k, const A* weight, const A* row_factor,
                                 int64_t begin, int64_t end) {
  Census found;
  if (k.labels) {
    int64_t bad = 0, kept = 0;
    for (int64_t i = begin; i < end; i++) {
      int64_t label = k.labels[i], counts = label != k.ignore_index;
      kept += counts;
      bad += counts & int64_t(uint64_t(label) >= uint64_t(k.x.classes));
    }
    found.mass = found.kept = double(kept);
    for (int64_t i = begin; bad && found.wrong < 0; i++)
      if (k.labels[i] != k.ignore_index && uint64_t(k.labels[i]) >= uint64_t(k.x.classes))
        found.wrong = i;
  } else {
    found.mass = found.kept = double(end - begin);
  }
  if (found.wrong >= 0 || !(row_factor || (k.labels && weight))) return found;
  found.mass = found.kept = 0;
  for (int64_t i = begin; i < end; i++) {
    if (k.labels && k.labels[i] == k.ignore_index) continue;
    double factor = row_factor ? double(row_factor[i]) : 1.0;
    found.kept += factor;
    found.mass += factor * (k.labels && weight ? double(weight[k.labels[i]]) : 1.0);
  }
  return found;
}

// All rows, some at a time on each thread, added up in a fixed order.
template <class A>
Census census(const CrossEntropy& k, const A* weight, const A* row_factor, int threads) {
  const int64_t rows = k.x.outer * k.x.inner;
  std::vector<Census> parts(size_t((rows + kCounted - 1) / kCounted));
  parallel_each(int64_t(parts.size()), threads, [&](int64_t part) {
    int64_t begin = part * kCounted;
    parts[size_t(part)] = census(k, weight, row_factor, begin, std::min(rows, begin + kCounted));
  });
  Census all;
  for (const Census& part : parts) {
    all.mass += part.mass;
    all.kept += part.kept;
    if (all.wrong < 0) all.wrong = part.wrong;
  }
  return all;
}

// The sum of the rows' losses, in a fixed order.
template <class A> double total_loss(const A* loss, int64_t rows, int threads) {
  std::vector<double> parts(size_t((rows + kCounted - 1) / kCounted));
  parallel_each(int64_t(parts.size()), threads, [&](int64_t part) {
    double lane[8] = {};
    int64_t i = part * kCounted, end = std::min(rows, i + kCounted);
    for (; i + 8 <= end; i += 8)
      for (int j = 0; j < 8; j++) lane[j] += double(loss[i + j]);
    for (; i < end; i++) lane[0] += double(loss[i]);
    for (int j = 0; j < 8; j++) parts[size_t(part)] += lane[j];
  });
  double sum = 0;
  for (double part : parts) sum += part;
  return sum;
}

}  // namespace
}  // namespace NLL_ISA
}  // namespace nll
