#include "training/module_step.h"

#include <ATen/TensorOperators.h>
#include <c10/core/GradMode.h>

namespace fastwan::training {

at::Tensor add_gradient(Units& units, double share, const std::function<at::Tensor()>& loss) {
  const auto gathered = units.gather_all();
  for (int64_t i = 0; i < units.count(); ++i) {
    units.open_gradients(i);
  }
  const c10::AutoGradMode with_gradient(true);
  const at::Tensor value = loss();
  (value * share).backward();
  for (int64_t i = 0; i < units.count(); ++i) {
    units.close_gradients(i);
  }
  return value.detach();
}

}  // namespace fastwan::training
