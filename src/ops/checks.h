// Checks at the operators' doors. They read symbolic sizes, so that Meta tensors pass them too.
#pragma once

#include <initializer_list>
#include <string_view>

#include <ATen/core/Tensor.h>

namespace fastwan::ops {

struct Named {
  std::string_view name;
  const at::Tensor& tensor;
};

// A size that a dimension must have, with its letter.
struct Dim {
  std::string_view letter;
  c10::SymInt size;
};

// "block_attention: k must be [B=1, S=128, H=2, D=64], got [1, 127, 2, 64]"
void check_shape(std::string_view op, const Named& x, const std::vector<Dim>& dims);
// Number of dimensions; `letters` names them in the message: "B S H D".
void check_rank(std::string_view op, const Named& x, int64_t rank, std::string_view letters);
void check_floating(std::string_view op, const Named& x);
void check_int32(std::string_view op, const Named& x);
// Each of `others` has the type and device of `first`.
void check_alike(std::string_view op, const Named& first, std::initializer_list<Named> others);
void check_device(std::string_view op, const Named& first, std::initializer_list<Named> others);
// Every value lies in [low, high]. Reads the values: CPU only.
void check_values(
    std::string_view op, const Named& x, int64_t low, int64_t high, std::string_view what);

}  // namespace fastwan::ops
