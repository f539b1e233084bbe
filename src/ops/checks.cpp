#include "ops/checks.h"

#include <string>

namespace fastwan::ops {

void check_shape(std::string_view op, const Named& x, const std::vector<Dim>& dims) {
  bool fits = x.tensor.dim() == static_cast<int64_t>(dims.size());
  for (std::size_t i = 0; fits && i < dims.size(); ++i) {
    fits = x.tensor.sym_size(static_cast<int64_t>(i)) == dims[i].size;
  }
  if (fits) {
    return;
  }
  std::string wanted;
  for (const Dim& dim : dims) {
    wanted += c10::str(wanted.empty() ? "" : ", ", dim.letter, "=", dim.size);
  }
  TORCH_CHECK_VALUE(false, op, ": ", x.name, " must be [", wanted, "], got ", x.tensor.sym_sizes());
}

void check_rank(std::string_view op, const Named& x, int64_t rank, std::string_view letters) {
  TORCH_CHECK_VALUE(x.tensor.dim() == rank, op, ": ", x.name, " must be [", letters, "], got ",
                    x.tensor.sym_sizes());
}

void check_floating(std::string_view op, const Named& x) {
  const at::ScalarType type = x.tensor.scalar_type();
  TORCH_CHECK_VALUE(
      type == at::kFloat || type == at::kBFloat16 || type == at::kHalf || type == at::kDouble, op,
      ": ", x.name, " must be float16, bfloat16, float32 or float64, got ", x.tensor.dtype());
}

void check_int32(std::string_view op, const Named& x) {
  TORCH_CHECK_VALUE(x.tensor.scalar_type() == at::kInt, op, ": ", x.name, " must be int32, got ",
                    x.tensor.dtype());
}

void check_alike(std::string_view op, const Named& first, std::initializer_list<Named> others) {
  for (const Named& other : others) {
    TORCH_CHECK_VALUE(other.tensor.scalar_type() == first.tensor.scalar_type(), op, ": ",
                      other.name, " must have the type of ", first.name, ", ", first.tensor.dtype(),
                      ", got ", other.tensor.dtype());
  }
  check_device(op, first, others);
}

void check_device(std::string_view op, const Named& first, std::initializer_list<Named> others) {
  for (const Named& other : others) {
    TORCH_CHECK_VALUE(other.tensor.device() == first.tensor.device(), op, ": ", other.name,
                      " must be on the device of ", first.name, ", ", first.tensor.device(),
                      ", got ", other.tensor.device());
  }
}

void check_values(
    std::string_view op, const Named& x, int64_t low, int64_t high, std::string_view what) {
  const int32_t* values = x.tensor.const_data_ptr<int32_t>();
  for (int64_t i = 0; i < x.tensor.numel(); ++i) {
    TORCH_CHECK_VALUE(values[i] >= low && values[i] <= high, op, ": ", x.name, " holds ", what,
                      ": each from ", low, " to ", high, ", got ", values[i], " at position ", i);
  }
}

}  // namespace fastwan::ops
