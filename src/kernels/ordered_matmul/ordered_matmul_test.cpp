#include "kernels/ordered_matmul/ordered_matmul.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

struct Order {
  bool a_by_columns, b_by_columns;
};

// Values of both signs, at most 1.
std::vector<float> make_values(int64_t count, double step) {
  std::vector<float> x(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(std::sin(step * static_cast<double>(i)));
  }
  return x;
}

// With a pad behind each matrix's rows, so that no stride is the number of columns.
Matrices matrices(const std::vector<float>& x, int64_t rows, int64_t columns, bool by_columns) {
  const int64_t row = by_columns ? 1 : columns + 1, column = by_columns ? rows + 1 : 1;
  return {.data = x.data(),
          .matrix = by_columns ? columns * (rows + 1) : rows * (columns + 1),
          .row = row,
          .column = column};
}

std::vector<float> multiply(const OrderedMatmulArgs& wanted, const std::vector<Range>& ranges) {
  const MatmulDims& d = wanted.dims;
  std::vector<float> out(static_cast<std::size_t>(d.G * d.M * d.N), -7.0F);
  const auto scratch =
      hwy::AllocateAligned<float>(static_cast<std::size_t>(cpu::ordered_matmul_scratch(d)));
  OrderedMatmulArgs args = wanted;
  args.out = out.data();
  for (const Range& range : ranges) {
    cpu::ordered_matmul(args, scratch.get(), range);
  }
  return out;
}

TEST(OrderedMatmul, AgreesWithReferenceOnEveryInstructionSetWhateverTheSplit) {
  testing::on_every_target([](const char* target) {
    for (const MatmulDims& d : {MatmulDims{1, 1, 1, 1}, MatmulDims{2, 7, 33, 5},
                                MatmulDims{3, 13, 8, 64}, MatmulDims{2, 6, 65, 128}}) {
      for (const Order& order : {Order{false, false}, Order{true, false}, Order{false, true}}) {
        const std::vector<float> a = make_values(d.G * (d.M + 1) * (d.K + 1), 0.37);
        const std::vector<float> b = make_values(d.G * (d.K + 1) * (d.N + 1), 0.61);
        const OrderedMatmulArgs args{.a = matrices(a, d.M, d.K, order.a_by_columns),
                                     .b = matrices(b, d.K, d.N, order.b_by_columns),
                                     .out = nullptr,
                                     .dims = d};
        std::vector<double> want(static_cast<std::size_t>(d.G * d.M * d.N));
        ref::ordered_matmul(args, want.data());
        const int64_t pieces = d.G * cpu::ordered_matmul_panels(d);
        const std::vector<float> got = multiply(args, {{.begin = 0, .end = pieces}});
        for (std::size_t i = 0; i < want.size(); ++i) {
          // Higham's bound of a sum of K products of numbers up to 1, without fusing
          const auto depth = static_cast<double>(d.K);
          ASSERT_NEAR(static_cast<double>(got[i]), want[i], depth * depth * 0x1p-24)
              << target << ", element " << i << ", depth " << d.K;
        }
        std::vector<Range> one_by_one;
        for (int64_t piece = pieces - 1; piece >= 0; --piece) {
          one_by_one.push_back({.begin = piece, .end = piece + 1});
        }
        EXPECT_EQ(multiply(args, one_by_one), got) << target;
      }
    }
  });
}

TEST(OrderedMatmul, SumsInAscendingOrderOfTheDepth) {
  // 2^25 + 1 - 2^25 + 1: in this order the first 1 is lost, in the other one nothing is.
  const std::vector<float> a{0x1p25F, 1, -0x1p25F, 1}, reversed{1, -0x1p25F, 1, 0x1p25F};
  const std::vector<float> ones(4, 1.0F);
  const auto sum = [&](const std::vector<float>& x) {
    return multiply({.a = {.data = x.data(), .matrix = 4, .row = 4, .column = 1},
                     .b = {.data = ones.data(), .matrix = 4, .row = 1, .column = 1},
                     .out = nullptr,
                     .dims = {.G = 1, .M = 1, .N = 1, .K = 4}},
                    {{.begin = 0, .end = 1}})[0];
  };
  testing::on_every_target([&](const char* target) {
    EXPECT_EQ(sum(a), 1.0F) << target;
    EXPECT_EQ(sum(reversed), 0.0F) << target;
  });
}

TEST(OrderedMatmul, NoDepthGivesZeros) {
  const std::vector<float> nothing{0};
  const Matrices x{.data = nothing.data(), .matrix = 0, .row = 0, .column = 0};
  EXPECT_EQ(multiply({.a = x, .b = x, .out = nullptr, .dims = {.G = 1, .M = 2, .N = 3, .K = 0}},
                     {{.begin = 0, .end = 1}}),
            std::vector<float>(6, 0.0F));
}

}  // namespace
}  // namespace fastwan::kernels
