// Cross entropy: which of the two ways the rows go, and what they add up to.
#include "census.h"
#include "long_rows.h"
#include "tiles.h"

namespace nll {
namespace NLL_ISA {
namespace {

template <class T, class Way> int64_t run(const CrossEntropy& k, Way job) {
  using A = Acc<T>;
  Census counted;
  if (k.labels || k.reduction == Reduction::mean)
    counted = census(k, job.weight, job.row_factor, job.threads);
  if (counted.wrong >= 0) return counted.wrong;
  const bool mean = k.reduction == Reduction::mean;
  // Where nothing counts the loss is NaN, and its gradient 0.
  job.slope = !mean ? 1 : counted.mass == 0 ? 0 : 1 / counted.mass;
  job.z_slope = !mean ? k.z_loss : counted.kept == 0 ? 0 : k.z_loss / counted.kept;
  job.run();
  if (k.reduction != Reduction::none && k.mode != Mode::backward) {
    double loss = total_loss(static_cast<const A*>(k.rows), job.rows, job.threads);
    const bool of_none =
        mean && counted.mass == 0 && std::isfinite(loss);  // 0 / 0, whatever z_loss adds
    *static_cast<A*>(k.loss) = of_none ? std::numeric_limits<A>::quiet_NaN() : A(loss);
  }
  return -1;
}
template <class T> int64_t run(const CrossEntropy& k) {
  return along_classes(k.x) ? run<T>(k, LongRows<T>(k)) : run<T>(k, Tiles<T>(k));
}

}  // namespace

int64_t cross_entropy(const CrossEntropy& k) {
  switch (k.x.type) {
    case Type::f32: return run<float>(k);
    case Type::f64: return run<double>(k);
    case Type::bf16: return run<bf16>(k);
    default: return run<f16>(k);
  }
}

}  // namespace NLL_ISA
}  // namespace nll
