#include "ops/frame_conv.h"

#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "kernels/frame_conv/frame_conv.h"
#include "ops/checks.h"
#include "ops/element.h"

namespace fastwan::ops {
namespace {

constexpr const char* kOp = "frame_conv";
// Transformed weights held at once, in floats; more output channels than these allow go in groups.
constexpr int64_t kTransformedFloats = int64_t{8} << 20;
constexpr int64_t kSpots = 36;      // transformed weights of one in, out and time
constexpr int64_t kGroupStep = 32;  // output channels; whole panels on every instruction set

void check(const FrameConvInputs& in) {
  check_rank(kOp, {"x", in.x}, 5, "B T H W C");
  check_rank(kOp, {"weight", in.weight}, 5, "N C D 3 3");
  const at::Tensor &x = in.x, &weight = in.weight;
  check_shape(kOp, {"weight", weight},
              {{"N", weight.size(0)}, {"C", x.size(4)}, {"D", weight.size(2)}, {"i", 3}, {"j", 3}});
  check_shape(kOp, {"bias", in.bias}, {{"N", weight.size(0)}});
  check_alike(kOp, {"x", x}, {{"weight", weight}, {"bias", in.bias}});
  if (in.history.defined()) {
    check_shape(kOp, {"history", in.history},
                {{"B", x.size(0)},
                 {"p", in.history.size(1)},
                 {"H", x.size(2)},
                 {"W", x.size(3)},
                 {"C", x.size(4)}});
    TORCH_CHECK_VALUE(in.history.size(1) < weight.size(2), kOp, ": history must have fewer than ",
                      weight.size(2), " frames, got ", in.history.size(1));
  }
  if (in.residual.defined()) {
    check_shape(kOp, {"residual", in.residual},
                {{"B", x.size(0)},
                 {"T", x.size(1)},
                 {"U*H", in.upsample * x.size(2)},
                 {"U*W", in.upsample * x.size(3)},
                 {"N", weight.size(0)}});
  }
}

void run(const kernels::FrameConvArgs<float>& args) {
  const kernels::cpu::FrameConvPlan plan = kernels::cpu::plan_frame_conv(args.dims);
  const at::Tensor transformed = at::empty({plan.transformed_floats}, at::kFloat);
  const at::Tensor scratch = at::empty({at::get_num_threads(), plan.scratch_floats}, at::kFloat);
  at::parallel_for(0, plan.weight_pieces, 1, [&](int64_t begin, int64_t end) {
    kernels::cpu::transform_weights(args, write<float>(transformed), {.begin = begin, .end = end});
  });
  at::parallel_for(0, plan.blocks, 1, [&](int64_t begin, int64_t end) {
    kernels::cpu::frame_conv(args, read<float>(transformed),
                             write<float>(scratch) + at::get_thread_num() * plan.scratch_floats,
                             {.begin = begin, .end = end});
  });
}

}  // namespace

bool has_frame_conv(const at::Tensor& x, const at::Tensor& weight) {
  return !at::GradMode::is_enabled() && x.is_cpu() && x.scalar_type() == at::kFloat &&
         weight.scalar_type() == at::kFloat;
}

at::Tensor frame_conv(const FrameConvInputs& in) {
  check(in);
  const at::Tensor x = in.x.contiguous(), weight = in.weight.contiguous();
  const at::Tensor bias = in.bias.contiguous();
  const at::Tensor history = in.history.defined() ? in.history.contiguous() : at::Tensor();
  const at::Tensor residual = in.residual.defined() ? in.residual.contiguous() : at::Tensor();
  const int64_t B = x.size(0), T = x.size(1), H = x.size(2), W = x.size(3), C = x.size(4);
  const int64_t N = weight.size(0), stored = weight.size(2), U = in.upsample;
  const int64_t p = history.defined() ? history.size(1) : 0;
  const int64_t D = std::min(stored, p + T);  // no output frame has more
  const int64_t frame = H * W * C, out_frames = T * U * H * U * W * N;
  at::Tensor out = at::empty({B, T, U * H, U * W, N}, x.options());
  const int64_t group =
      std::max(kGroupStep, kTransformedFloats / (kSpots * D * C) / kGroupStep * kGroupStep);
  for (int64_t b = 0; b < B; ++b) {
    std::vector<const float*> frames(static_cast<std::size_t>(D - 1 - p), nullptr);
    for (int64_t f = 0; f < p; ++f) {
      frames.push_back(read<float>(history) + (b * p + f) * frame);
    }
    for (int64_t t = 0; t < T; ++t) {
      frames.push_back(read<float>(x) + (b * T + t) * frame);
    }
    for (int64_t n = 0; n < N; n += group) {
      const int64_t at = b * out_frames + n;
      run({.frames = frames.data(),
           .weight = read<float>(weight) + (n * C * stored + stored - D) * 9,
           .weight_n = C * stored * 9,
           .weight_c = stored * 9,
           .bias = read<float>(bias) + n,
           .residual = residual.defined() ? read<float>(residual) + at : nullptr,
           .out = write<float>(out) + at,
           .out_pixel = N,
           .dims = {.F = D - 1 + T,
                    .D = D,
                    .H = H,
                    .W = W,
                    .U = U,
                    .C = C,
                    .N = std::min(group, N - n)}});
    }
  }
  return out;
}

}  // namespace fastwan::ops
