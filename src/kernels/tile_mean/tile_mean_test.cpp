#include "kernels/tile_mean/tile_mean.h"

#include <array>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

struct Case {
  int64_t B, H, D;
  std::vector<int32_t> len;
};

// Values of both signs without a pattern that a wrong stride could keep; NaN in the padding.
template <class Element>
std::vector<Element> make_input(const Case& c, int64_t T) {
  const auto N = static_cast<int64_t>(c.len.size());
  const int64_t row = c.H * c.D;
  std::vector<Element> x(static_cast<std::size_t>(c.B * N * T * row));
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int64_t slot = static_cast<int64_t>(i) / row;
    const bool padding = slot % T >= c.len[static_cast<std::size_t>(slot / T % N)];
    const double value = std::sin(0.37 * static_cast<double>(i)) * std::exp2(slot % 5);
    store(padding ? std::numeric_limits<double>::quiet_NaN() : value, &x[i]);
  }
  return x;
}

// Higham's bound for a sum in order: (len - 1) half ulps of the sum of magnitudes; then one
// division and the store's own rounding, at most one ulp each.
template <class Element>
void expect_agrees(const Case& c, const char* target) {
  constexpr int64_t T = 64;
  const double ulp = std::is_same_v<Element, float> ? 0x1p-23 : 0x1p-7;
  const auto N = static_cast<int64_t>(c.len.size());
  const std::vector<Element> x = make_input<Element>(c, T);
  std::vector<double> exact_x(x.size()), want(static_cast<std::size_t>(c.B * N * c.H * c.D));
  for (std::size_t i = 0; i < x.size(); ++i) {
    exact_x[i] = to_double(x[i]);
  }
  std::vector<Element> got(want.size());
  const TileDims dims{.B = c.B, .N = N, .T = T, .H = c.H, .D = c.D};
  ref::tile_mean<double>(
      {.x = exact_x.data(), .len = c.len.data(), .out = want.data(), .dims = dims});
  // two ranges: the split must not matter
  const TileMeanArgs<Element> args{
      .x = x.data(), .len = c.len.data(), .out = got.data(), .dims = dims};
  cpu::tile_mean(args, {.begin = 1, .end = c.B * N});
  cpu::tile_mean(args, {.begin = 0, .end = 1});
  for (std::size_t i = 0; i < want.size(); ++i) {
    const double largest = 16;  // of |x|
    const double bound = 63 * 0x1p-24 * largest + 0x1p-23 * largest + ulp * std::abs(want[i]);
    ASSERT_NEAR(to_double(got[i]), want[i], bound) << target << ", element " << i;
  }
}

TEST(TileMean, AgreesWithReferenceOnEveryInstructionSetAndReadsNoPadding) {
  testing::on_every_target([](const char* target) {
    for (const Case& c : {Case{1, 12, 128, {1, 63, 64, 2}}, Case{2, 1, 1, {64}},
                          Case{2, 3, 17, {5, 64}}, Case{1, 1, 7, {1, 1, 1}}}) {
      expect_agrees<float>(c, target);
      expect_agrees<Bf16>(c, target);
    }
  });
}

TEST(TileMean, RoundsBf16ToNearestEven) {
  // 1 + 2^-8 lies between two bf16 values, half way: 1 is even. 1 + 3 * 2^-8: 1 + 2^-6 is.
  for (const auto& [first, second, want] :
       {std::array{1.0F, 1.0F + 0x1p-7F, 1.0F},
        std::array{1.0F + 0x1p-7F, 1.0F + 0x1p-6F, 1.0F + 0x1p-6F}}) {
    const std::vector<Bf16> x{to_bf16(first), to_bf16(second)};
    const int32_t len = 2;
    testing::on_every_target([&](const char* target) {
      Bf16 out{};
      cpu::tile_mean(TileMeanArgs<Bf16>{.x = x.data(),
                                        .len = &len,
                                        .out = &out,
                                        .dims = {.B = 1, .N = 1, .T = 2, .H = 1, .D = 1}},
                     {.begin = 0, .end = 1});
      EXPECT_EQ(to_double(out), static_cast<double>(want)) << target;
    });
  }
}

}  // namespace
}  // namespace fastwan::kernels
