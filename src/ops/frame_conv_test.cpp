#include "ops/frame_conv.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/conv3d.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "support/compare.h"

namespace fastwan::ops {
namespace {

struct Sizes {
  int64_t B, T, p, D, H, W, C, N, U = 1;
  bool has_residual = false;
};

FrameConvInputs inputs(const Sizes& s) {
  FrameConvInputs in{.x = at::randn({s.B, s.T, s.H, s.W, s.C}),
                     .weight = at::randn({s.N, s.C, s.D, 3, 3}),
                     .bias = at::randn({s.N}),
                     .upsample = s.U};
  if (s.p > 0) {
    in.history = at::randn({s.B, s.p, s.H, s.W, s.C});
  }
  if (s.has_residual) {
    in.residual = at::randn({s.B, s.T, s.U * s.H, s.U * s.W, s.N});
  }
  return in;
}

// The same with torch's convolution in float64, zeros in place of what is absent.
at::Tensor plain(const FrameConvInputs& in) {
  const at::ScalarType type = at::kDouble;
  const at::Tensor x = in.x.to(type);
  const int64_t D = in.weight.size(2), p = in.history.defined() ? in.history.size(1) : 0;
  std::vector<int64_t> absent = x.sizes().vec();
  absent[1] = D - 1 - p;
  std::vector<at::Tensor> frames = {at::zeros(absent, x.options())};
  if (in.history.defined()) {
    frames.push_back(in.history.to(type));
  }
  frames.push_back(x);
  const at::Tensor joined = at::cat(frames, 1)
                                .repeat_interleave(in.upsample, 2)
                                .repeat_interleave(in.upsample, 3);  // [B, D - 1 + T, U*H, U*W, C]
  const std::vector<int64_t> padding = {0, 1, 1};
  const at::Tensor y = at::conv3d(joined.movedim(-1, 1).contiguous(), in.weight.to(type),
                                  in.bias.to(type), 1, padding)
                           .movedim(1, -1);
  return (in.residual.defined() ? y + in.residual.to(type) : y).contiguous();
}

// One convolution in float32 is off by 0.6e-6 to 0.95e-6 relative L2 whatever its width, as the
// sums are made in runs (docs/kernels/frame_conv.md); twice that is allowed.
constexpr double kRelative = 2e-6;

TEST(FrameConv, AgreesWithTorchsConvolutionInFp64WhateverTheHistoryAndTheGroups) {
  for (const Sizes& s :
       {Sizes{.B = 2, .T = 4, .p = 2, .D = 3, .H = 9, .W = 14, .C = 32, .N = 24},
        Sizes{.B = 1, .T = 2, .p = 1, .D = 3, .H = 8, .W = 8, .C = 16, .N = 3},
        Sizes{.B = 2, .T = 1, .p = 0, .D = 3, .H = 5, .W = 4, .C = 8, .N = 8},
        Sizes{.B = 1, .T = 1, .p = 1, .D = 3, .H = 5, .W = 4, .C = 8, .N = 40},
        Sizes{.B = 2, .T = 3, .p = 0, .D = 1, .H = 4, .W = 6, .C = 12, .N = 6, .U = 2},
        // more transformed weights than are held at once
        Sizes{.B = 1, .T = 3, .p = 0, .D = 3, .H = 4, .W = 4, .C = 512, .N = 330}}) {
    for (const bool has_residual : {false, true}) {
      Sizes sizes = s;
      sizes.has_residual = has_residual;
      const FrameConvInputs in = inputs(sizes);
      EXPECT_LE(testing::relative_l2(frame_conv(in), plain(in)), kRelative)
          << "C " << s.C << ", p " << s.p << ", residual " << has_residual;
    }
  }
}

TEST(FrameConv, ChunksWithTheirHistoryAreTheWholeBitForBit) {
  FrameConvInputs whole =
      inputs({.B = 1, .T = 5, .p = 0, .D = 3, .H = 12, .W = 8, .C = 16, .N = 16});
  const at::Tensor want = frame_conv(whole);
  FrameConvInputs chunk = whole;
  chunk.x = whole.x.narrow(1, 3, 2);
  chunk.history = whole.x.narrow(1, 1, 2);
  EXPECT_TRUE(testing::is_equal(frame_conv(chunk), want.narrow(1, 3, 2).contiguous()));
  chunk.x = whole.x.narrow(1, 1, 1);
  chunk.history = whole.x.narrow(1, 0, 1);
  EXPECT_TRUE(testing::is_equal(frame_conv(chunk), want.narrow(1, 1, 1).contiguous()));
  chunk.history = whole.x.narrow(1, 2, 1);
  EXPECT_FALSE(testing::is_equal(frame_conv(chunk), want.narrow(1, 1, 1).contiguous()));
}

TEST(FrameConv, LeavesGradientsAndOtherTypesToOthersAndRefusesWhatDoesNotFit) {
  FrameConvInputs in = inputs({.B = 1, .T = 2, .p = 1, .D = 3, .H = 4, .W = 4, .C = 4, .N = 4});
  EXPECT_FALSE(has_frame_conv(in.x, in.weight));
  {
    const at::NoGradGuard no_grad;
    EXPECT_TRUE(has_frame_conv(in.x, in.weight));
    EXPECT_FALSE(has_frame_conv(in.x.to(at::kDouble), in.weight.to(at::kDouble)));
  }
  FrameConvInputs wrong = in;
  wrong.history = at::randn({1, 3, 4, 4, 4});
  EXPECT_THROW(frame_conv(wrong), c10::ValueError);
  wrong = in;
  wrong.bias = at::randn({5});
  EXPECT_THROW(frame_conv(wrong), c10::ValueError);
  wrong = in;
  wrong.x = at::randn({1, 2, 4, 4, 5});
  EXPECT_THROW(frame_conv(wrong), c10::ValueError);
  wrong = in;
  wrong.residual = at::randn({1, 2, 8, 8, 4});
  EXPECT_THROW(frame_conv(wrong), c10::ValueError);
}

}  // namespace
}  // namespace fastwan::ops
