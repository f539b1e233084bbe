#include "ops/norm_silu.h"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>

#include "kernels/norm_silu/norm_silu.h"
#include "ops/checks.h"
#include "ops/element.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "norm_silu";
constexpr int64_t kElementsPerTask = 16384;  // below that a second thread costs more than it saves

void into(const at::Tensor& out, const at::Tensor& x, const at::Tensor& gamma_any) {
  check_shape(kOp, {"gamma", gamma_any}, {{"C", x.size(-1)}});
  const at::Tensor gamma = gamma_any.contiguous();
  const int64_t C = std::max<int64_t>(1, x.size(-1));
  const kernels::NormSiluArgs<float> args{
      .x = read<float>(x), .gamma = read<float>(gamma), .out = write<float>(out), .C = C};
  at::parallel_for(0, x.numel() / C, std::max<int64_t>(1, kElementsPerTask / C),
                   [&](int64_t begin, int64_t end) {
                     kernels::cpu::norm_silu(args, {.begin = begin, .end = end});
                   });
}

}  // namespace

bool has_norm_silu(const at::Tensor& x, const at::Tensor& gamma) {
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat &&
         gamma.scalar_type() == at::kFloat;
}

at::Tensor norm_silu(const at::Tensor& x, const at::Tensor& gamma) {
  const at::Tensor dense = x.contiguous();
  at::Tensor out = at::empty_like(dense);
  into(out, dense, gamma);
  return out;
}

void norm_silu_(at::Tensor& x, const at::Tensor& gamma) {
  TORCH_CHECK_VALUE(x.is_contiguous(), kOp, ": x must be dense to be changed in place");
  into(x, x, gamma);
}

}  // namespace fastwan::ops
