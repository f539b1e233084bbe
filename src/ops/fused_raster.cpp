#include "ops/fused_raster.h"

#include <array>

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

namespace fastwan::ops {
namespace {

using Takes = bool(const at::Tensor&, at::IntArrayRef);
using Run = at::Tensor(const at::Tensor&,
                       const at::Tensor&,
                       const at::Tensor&,
                       const std::optional<at::Tensor>&,
                       at::IntArrayRef,
                       int64_t);

bool wants_gradient(const AttentionInputs& in) {
  const auto wants = [](const at::Tensor& x) { return x.defined() && x.requires_grad(); };
  return c10::GradMode::is_enabled() &&
         (wants(in.q) || wants(in.k) || wants(in.v) || wants(in.gate));
}

bool is_traced(const at::Tensor& x) {
  return x.unsafeGetTensorImpl()->is_python_dispatch() ||
         c10::impl::TorchDispatchModeTLS::any_modes_set();
}

}  // namespace

std::optional<at::Tensor> fused_raster(const AttentionInputs& in,
                                       const RasterGrid& grid,
                                       int64_t topk) {
  if (!in.q.is_cuda() || wants_gradient(in) || is_traced(in.q)) {
    return std::nullopt;
  }
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto takes = dispatcher.findSchema({"fastwan::_video_sparse_attn_fused_takes", ""});
  const auto run = dispatcher.findSchema({"fastwan::_video_sparse_attn_fused", ""});
  const std::array<int64_t, 3> sides{grid.T, grid.H, grid.W};
  if (!takes || !run || !takes->typed<Takes>().call(in.q, sides)) {
    return std::nullopt;
  }
  const std::optional<at::Tensor> gate =
      in.gate.defined() ? std::optional<at::Tensor>(in.gate) : std::nullopt;
  return run->typed<Run>().call(in.q, in.k, in.v, gate, sides, topk);
}

}  // namespace fastwan::ops
