#include "diffusion/sample_noise.h"

#include <algorithm>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "support/compare.h"

namespace fastwan::diffusion {
namespace {

using testing::is_equal;

const NoiseKey kKey{
    .seed = 0x123456789abcdefULL, .stream = Stream::kFakeNoise, .step = 41, .draw = 2};

// The word a counter and a key give must not depend on who makes it: 5003 numbers are two pieces
// and a last group of three.
TEST(SampleNoise, IsTheStreamOfEachSamplesSlotWhateverTheBatch) {
  const at::Tensor like = at::zeros({3, 5003});
  const std::vector<int64_t> slots = {7, 0, 4000000000};
  const at::Tensor noise = noise_like(like, kKey, slots);
  for (std::size_t i = 0; i < slots.size(); ++i) {
    std::vector<float> want(5003);
    Philox(kKey.seed, kKey.stream, kKey.step, slots[i], kKey.draw).fill_normal(0, want);
    const at::Tensor row = noise[static_cast<int64_t>(i)];
    EXPECT_TRUE(std::equal(want.begin(), want.end(), row.const_data_ptr<float>())) << i;
    const std::vector<int64_t> alone = {slots[i]};
    EXPECT_TRUE(is_equal(noise_like(at::zeros({1, 5003}), kKey, alone)[0], row)) << i;
  }
}

TEST(SampleNoise, OtherSeedsStreamsStepsSlotsAndDrawsGiveOtherNumbers) {
  const at::Tensor like = at::zeros({1, 64});
  const std::vector<int64_t> slot = {3}, other_slot = {4};
  const at::Tensor noise = noise_like(like, kKey, slot);
  for (const NoiseKey& key : {NoiseKey{1, kKey.stream, kKey.step, kKey.draw},
                              NoiseKey{kKey.seed, Stream::kFakeStart, kKey.step, kKey.draw},
                              NoiseKey{kKey.seed, kKey.stream, 42, kKey.draw},
                              NoiseKey{kKey.seed, kKey.stream, kKey.step, 0}}) {
    EXPECT_FALSE(is_equal(noise_like(like, key, slot), noise));
  }
  EXPECT_FALSE(is_equal(noise_like(like, kKey, other_slot), noise));
}

// What a GPU computes, on the CPU: equal integers; fp64 functions that may differ in their last
// place, which fp32 rounding nearly always hides.
TEST(SampleNoise, TensorOperationsGiveTheSameNumbers) {
  const at::Tensor like = at::zeros({2, 3, 11, 13});
  const std::vector<int64_t> slots = {5, 4000000000};
  const at::Tensor want = noise_like(like, kKey, slots);
  const at::Tensor got = noise_by_tensor_operations(like, kKey, slots);
  EXPECT_LE(at::abs(got - want).max().item<double>(), 5 * 0x1p-23);
  EXPECT_GE(got.eq(want).sum().item<int64_t>(), want.numel() - 1);
}

TEST(SampleNoise, KeepsTheTypeOfItsModelAndIsFp32InIt) {
  const std::vector<int64_t> slots = {1};
  const at::Tensor wide = noise_like(at::zeros({1, 50}, at::kDouble), kKey, slots);
  ASSERT_EQ(wide.scalar_type(), at::kDouble);
  EXPECT_TRUE(is_equal(wide.to(at::kFloat), noise_like(at::zeros({1, 50}), kKey, slots)));
}

}  // namespace
}  // namespace fastwan::diffusion
