#include "training/stochastic_round.h"

#include <array>
#include <limits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bitwise_and.h>
#include <ATen/ops/bitwise_right_shift.h>
#include <ATen/ops/bitwise_xor.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include "base/check.h"

namespace fastwan::training {
namespace {

constexpr int64_t kLow32 = 0xffffffff;
// Philox4x32 (base/rng.h).
constexpr int64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
constexpr uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
constexpr int kRounds = 10;

struct Product {
  at::Tensor high, low;  // 32 bits each
};

// The 64 bits of the product wrap around in int64 and are right; the shift drags the sign along,
// the mask takes it off.
Product product(const at::Tensor& x, int64_t multiplier) {
  const at::Tensor all = x * multiplier;
  return {.high = at::bitwise_and(at::bitwise_right_shift(all, 32), kLow32),
          .low = at::bitwise_and(all, kLow32)};
}

int64_t fits_32_bits(int64_t value) {
  invariant(value >= 0 && value <= kLow32, "a counter word fits 32 bits");
  return value;
}

}  // namespace

at::Tensor random_words(const RandomBits& bits, int64_t first, int64_t count, at::Device device) {
  const int64_t first_group = first / 4;
  const int64_t end_group = (first + count + 3) / 4;
  fits_32_bits(end_group);
  at::Tensor c0 =
      at::arange(first_group, end_group, at::TensorOptions(at::kLong).device(device));  // [groups]
  at::Tensor c1 = at::full_like(c0, fits_32_bits(bits.slot));
  at::Tensor c2 = at::full_like(c0, fits_32_bits(bits.step));
  at::Tensor c3 =
      at::full_like(c0, fits_32_bits(static_cast<int64_t>(bits.stream) | (bits.draw << 16)));
  auto key0 = static_cast<uint32_t>(bits.seed), key1 = static_cast<uint32_t>(bits.seed >> 32);
  for (int round = 0; round < kRounds; ++round) {
    const Product p0 = product(c0, kMultiplier0), p1 = product(c2, kMultiplier1);
    c0 = at::bitwise_xor(at::bitwise_xor(p1.high, c1), int64_t{key0});
    c2 = at::bitwise_xor(at::bitwise_xor(p0.high, c3), int64_t{key1});
    c1 = p1.low;
    c3 = p0.low;
    key0 += kWeyl0;
    key1 += kWeyl1;
  }
  return at::stack({c0, c1, c2, c3}, 1).flatten().narrow(0, first % 4, count);
}

at::Tensor stochastic_round(const at::Tensor& x, const RandomBits& bits, int64_t first) {
  invariant(x.scalar_type() == at::kFloat && x.dim() == 1 && x.is_contiguous(),
            "stochastic rounding takes a flat fp32 tensor");
  if (x.numel() == 0) {
    return x.to(at::kBFloat16);
  }
  const at::Tensor noise =
      at::bitwise_and(random_words(bits, first, x.size(0), x.device()), 0xffff).to(at::kInt);
  // bf16 is the upper half of fp32: noise below the cut carries into it in proportion to what is
  // cut off, away from zero on either side.
  const at::Tensor sum = x.view(at::kInt) + noise;
  const at::Tensor rounded = at::bitwise_right_shift(sum, 16).to(at::kShort).view(at::kBFloat16);
  return at::where(at::isfinite(x), rounded, x.to(at::kBFloat16));
}

}  // namespace fastwan::training
