#include "diffusion/sample_noise.h"

#include <algorithm>
#include <numbers>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/cos.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/log.h>
#include <ATen/ops/sin.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros_like.h>

#include "base/check.h"
#include "ops/sample_noise.h"

namespace fastwan::diffusion {
namespace {

constexpr int64_t kWord = 0xffffffff;

// Philox4x32-10 on int64 tensors that hold 32-bit words: a product wraps around at 64 bits, its
// upper word comes out of an arithmetic shift and a mask.
std::vector<at::Tensor> philox_words(std::vector<at::Tensor> counter, uint64_t seed) {
  constexpr int64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr int64_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  constexpr int kRounds = 10;
  auto key0 = static_cast<int64_t>(seed & kWord);
  auto key1 = static_cast<int64_t>(seed >> 32);
  const auto upper = [](const at::Tensor& x) { return x.__rshift__(32).bitwise_and(kWord); };
  for (int round = 0; round < kRounds; ++round) {
    const at::Tensor p0 = counter[0] * kMultiplier0, p1 = counter[2] * kMultiplier1;
    counter = {upper(p1).bitwise_xor(counter[1]).bitwise_xor(key0), p1.bitwise_and(kWord),
               upper(p0).bitwise_xor(counter[3]).bitwise_xor(key1), p0.bitwise_and(kWord)};
    key0 = (key0 + kWeyl0) & kWord;
    key1 = (key1 + kWeyl1) & kWord;
  }
  return counter;
}

at::Tensor uniform_of(const at::Tensor& word) {
  return (word.__rshift__(8).to(at::kDouble) + 0.5) * 0x1p-24;
}

// The two elements of a pair of words: [..., 2] fp64.
at::Tensor normal_pair(const at::Tensor& first, const at::Tensor& second) {
  const at::Tensor rho = at::sqrt(-2.0 * at::log(uniform_of(first)));
  const at::Tensor theta = 2.0 * std::numbers::pi * uniform_of(second);
  return at::stack({rho * at::cos(theta), rho * at::sin(theta)}, -1);
}

int64_t elements_of_a_sample(const at::Tensor& like, std::span<const int64_t> slots) {
  invariant(like.dim() > 0 && like.size(0) == static_cast<int64_t>(slots.size()),
            "a slot for each sample");
  return slots.empty() ? 0 : like.numel() / like.size(0);
}

at::Tensor slots_on(at::Device device, std::span<const int64_t> slots) {
  return at::tensor(at::ArrayRef<int64_t>(slots.data(), slots.size()), at::kLong).to(device);
}

// The fourth word of the counter.
int64_t tag_of(const NoiseKey& key) {
  return static_cast<int64_t>(key.stream) | (key.draw << 16);
}

}  // namespace

at::Tensor noise_by_tensor_operations(const at::Tensor& like,
                                      const NoiseKey& key,
                                      std::span<const int64_t> slots) {
  const int64_t count = elements_of_a_sample(like, slots), groups = (count + 3) / 4;
  const auto options = at::TensorOptions(at::kLong).device(like.device());
  const at::Tensor slot = slots_on(like.device(), slots).bitwise_and(kWord).unsqueeze(1);  // [B, 1]
  const at::Tensor group = at::arange(groups, options).unsqueeze(0);  // [1, groups]
  const at::Tensor zero = at::zeros_like(slot + group);               // [B, groups]
  const int64_t stream = tag_of(key);
  const auto words = philox_words(
      {zero + group, zero + slot, zero + (key.step & kWord), zero + (stream & kWord)}, key.seed);
  return at::cat({normal_pair(words[0], words[1]), normal_pair(words[2], words[3])}, -1)
      .flatten(1)           // [B, 4 groups]
      .narrow(1, 0, count)  // [B, count]
      .to(at::kFloat)       // rounded once
      .reshape(like.sizes())
      .to(like.scalar_type());
}

at::Tensor noise_like(const at::Tensor& like, const NoiseKey& key, std::span<const int64_t> slots) {
  if (!like.device().is_cpu()) {
    const at::Tensor on_device = slots_on(like.device(), slots);
    if (ops::has_sample_noise(on_device)) {
      return ops::sample_noise(on_device, elements_of_a_sample(like, slots),
                               {.seed = key.seed, .step = key.step, .tag = tag_of(key)})
          .reshape(like.sizes())
          .to(like.scalar_type());
    }
    return noise_by_tensor_operations(like, key, slots);
  }
  const int64_t count = elements_of_a_sample(like, slots);
  const at::Tensor out = at::empty(like.sizes(), at::kFloat);
  float* const values = out.mutable_data_ptr<float>();
  // Pieces of a multiple of four numbers, so that no group of words is made twice.
  constexpr int64_t kPiece = 4096;
  const int64_t pieces = (count + kPiece - 1) / kPiece;
  at::parallel_for(
      0, pieces * static_cast<int64_t>(slots.size()), 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t sample = i / pieces, first = (i % pieces) * kPiece;
          const Philox philox(key.seed, key.stream, key.step,
                              slots[static_cast<std::size_t>(sample)], key.draw);
          philox.fill_normal(first, {values + sample * count + first,
                                     static_cast<std::size_t>(std::min(kPiece, count - first))});
        }
      });
  return out.to(like.scalar_type());
}

}  // namespace fastwan::diffusion
