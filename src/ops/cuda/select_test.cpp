#include "ops/cuda/select.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

namespace fastwan::ops {
namespace {

constexpr Capability kAmpere{8, 0}, kAda{8, 9}, kHopperGpu{9, 0}, kBlackwell{10, 0}, kTuring{7, 5};

TEST(GpuKernels, HopperTakesBf16AndThePortableKernelsServeEveryOtherModernGpu) {
  EXPECT_EQ(kernel_for(kHopperGpu, at::kBFloat16, 128), GpuKernel::kHopper);
  EXPECT_EQ(kernel_for(kHopperGpu, at::kBFloat16, 64), GpuKernel::kHopper);
  EXPECT_EQ(kernel_for(kHopperGpu, at::kHalf, 128), GpuKernel::kPortable);
  for (const Capability& gpu : {kAmpere, kAda, kBlackwell, Capability{9, 1}, Capability{12, 0}}) {
    EXPECT_EQ(kernel_for(gpu, at::kBFloat16, 128), GpuKernel::kPortable) << gpu.major;
    EXPECT_EQ(kernel_for(gpu, at::kHalf, 64), GpuKernel::kPortable) << gpu.major;
  }
}

TEST(GpuKernels, OtherTypesHeadSizesAndOldGpusTakeThePlainVersion) {
  EXPECT_EQ(kernel_for(kTuring, at::kHalf, 128), GpuKernel::kPlain);
  for (const Capability& gpu : {kAmpere, kHopperGpu, kBlackwell}) {
    EXPECT_EQ(kernel_for(gpu, at::kFloat, 128), GpuKernel::kPlain);
    EXPECT_EQ(kernel_for(gpu, at::kDouble, 64), GpuKernel::kPlain);
    for (const int64_t size : {1, 63, 65, 96, 127, 129, 256}) {
      EXPECT_EQ(kernel_for(gpu, at::kBFloat16, size), GpuKernel::kPlain) << size;
    }
  }
}

constexpr AttentionCall kCall{.B = 1,
                              .H = 12,
                              .D = 128,
                              .query_tiles = 3,
                              .key_tiles = 5,
                              .query_slots = 192,
                              .key_slots = 320,
                              .scale = 0.1};

GpuKernel chosen(const Capability& gpu, AttentionCall call, void (*change)(AttentionCall&)) {
  change(call);
  return select_block_attention(gpu, at::kBFloat16, call);
}

TEST(GpuKernels, BlockAttentionWithTilesOf64TakesTheKernelOfItsGpu) {
  const auto as_it_is = [](AttentionCall&) {};
  EXPECT_EQ(chosen(kHopperGpu, kCall, as_it_is), GpuKernel::kHopper);
  EXPECT_EQ(chosen(kAda, kCall, as_it_is), GpuKernel::kPortable);
  EXPECT_EQ(select_block_attention(kHopperGpu, at::kHalf, kCall), GpuKernel::kPortable);
}

TEST(GpuKernels, BlockAttentionThatTheKernelsCannotTakeIsPlain) {
  for (const auto& change :
       {+[](AttentionCall& c) { c.query_slots = 191; },
        +[](AttentionCall& c) { c.key_slots = 5 * 32; },
        +[](AttentionCall& c) { c.key_tiles = c.key_slots = 0; },
        +[](AttentionCall& c) { c.query_tiles = c.query_slots = 0; },
        +[](AttentionCall& c) { c.B = 0; }, +[](AttentionCall& c) { c.D = 96; },
        +[](AttentionCall& c) { c.scale = 0; }, +[](AttentionCall& c) { c.scale = -0.1; },
        +[](AttentionCall& c) { c.scale = std::nan(""); }}) {
    EXPECT_EQ(chosen(kHopperGpu, kCall, change), GpuKernel::kPlain);
    EXPECT_EQ(chosen(kAda, kCall, change), GpuKernel::kPlain);
  }
}

TEST(GpuKernels, BlockAttentionCountsTilesIn32Bits) {
  AttentionCall most = kCall;
  most.B = std::numeric_limits<int32_t>::max() / (12 * 5);
  EXPECT_EQ(select_block_attention(kHopperGpu, at::kBFloat16, most), GpuKernel::kHopper);
  most.B += 1;
  EXPECT_EQ(select_block_attention(kHopperGpu, at::kBFloat16, most), GpuKernel::kPlain);
}

TEST(GpuKernels, TheFusedOperationIsForHopperAndGridsThatItsKernelsCanHold) {
  const RasterCall video{.T = 21, .H = 30, .W = 52, .head_size = 128};
  EXPECT_TRUE(takes_fused_raster(kHopperGpu, at::kBFloat16, video));
  EXPECT_FALSE(takes_fused_raster(kAda, at::kBFloat16, video));
  EXPECT_FALSE(takes_fused_raster(kHopperGpu, at::kHalf, video));
  const auto takes = [](int64_t T, int64_t H, int64_t W) {
    return takes_fused_raster(kHopperGpu, at::kBFloat16,
                              {.T = T, .H = H, .W = W, .head_size = 128});
  };
  EXPECT_TRUE(takes(40, 80, 120));   // 6,000 tiles
  EXPECT_FALSE(takes(40, 80, 121));  // 6,200
  EXPECT_TRUE(takes(2040, 1, 1));
  EXPECT_FALSE(takes(2041, 1, 1));
  EXPECT_FALSE(takes(0, 4, 4));
}

}  // namespace
}  // namespace fastwan::ops
