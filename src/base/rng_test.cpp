#include "base/rng.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace fastwan {
namespace {

// The known answers that ship with Random123 (kat_vectors, philox4x32 with ten rounds).
TEST(Philox, GivesThePublishedKnownAnswers) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxWords{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox4x32({~0U, ~0U, ~0U, ~0U}, {~0U, ~0U}),
            (PhiloxWords{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxWords{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

std::vector<float> normals(const Philox& philox, int64_t first, std::size_t count) {
  std::vector<float> out(count);
  philox.fill_normal(first, out);
  return out;
}

TEST(Philox, GivesTheSameNumbersHoweverARangeIsSplit) {
  const Philox philox(7, Stream::kInitial, 0, 0);
  const std::vector<float> whole = normals(philox, 0, 41);
  for (const std::size_t cut : {1UL, 2UL, 3UL, 4UL, 5UL, 40UL}) {
    std::vector<float> parts = normals(philox, 0, cut);
    const std::vector<float> rest = normals(philox, static_cast<int64_t>(cut), 41 - cut);
    parts.insert(parts.end(), rest.begin(), rest.end());
    EXPECT_EQ(parts, whole) << "cut at " << cut;
  }
}

TEST(Philox, SeedStreamStepSlotAndDrawEachChangeEveryNumber) {
  const std::vector<float> base = normals(Philox(7, Stream::kInitial, 1, 2, 3), 0, 8);
  for (const Philox& other :
       {Philox(8, Stream::kInitial, 1, 2, 3), Philox(7 + (1ULL << 32), Stream::kInitial, 1, 2, 3),
        Philox(7, Stream::kRenoise, 1, 2, 3), Philox(7, Stream::kInitial, 2, 2, 3),
        Philox(7, Stream::kInitial, 1, 3, 3), Philox(7, Stream::kInitial, 1, 2, 4)}) {
    const std::vector<float> changed = normals(other, 0, 8);
    for (std::size_t i = 0; i < base.size(); ++i) {
      EXPECT_NE(changed[i], base[i]) << i;
    }
  }
}

// 2^18 draws: the mean of n normals has deviation n^-1/2, that of their squares (2 / n)^1/2; five
// deviations.
TEST(Philox, NormalsHaveMeanZeroAndVarianceOne) {
  constexpr std::size_t kCount = std::size_t{1} << 18;
  double sum = 0;
  double squares = 0;
  for (const float z : normals(Philox(20, Stream::kInitial, 0, 0), 0, kCount)) {
    ASSERT_TRUE(std::isfinite(z));
    sum += static_cast<double>(z);
    squares += static_cast<double>(z) * static_cast<double>(z);
  }
  constexpr auto kN = static_cast<double>(kCount);
  EXPECT_LT(std::abs(sum / kN), 5 / std::sqrt(kN));
  EXPECT_LT(std::abs(squares / kN - 1), 5 * std::sqrt(2 / kN));
}

}  // namespace
}  // namespace fastwan
