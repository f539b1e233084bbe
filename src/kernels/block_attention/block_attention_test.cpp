#include "kernels/block_attention/block_attention.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>
#include <hwy/aligned_allocator.h>

#include "kernels/block_attention/block_attention_problem.h"
#include "kernels/common/every_target.h"

namespace fastwan::kernels {
namespace {

using testing::block_attention_cases;
using testing::BlockAttentionCase;
using testing::BlockAttentionProblem;

// As the operator calls it: the second head first, the query tiles in two runs.
template <class Element>
typename BlockAttentionProblem<Element>::Result run_cpu(
    const BlockAttentionProblem<Element>& problem, cpu::Bf16Products products) {
  auto result = problem.empty_result();
  const BlockAttentionArgs<Element> args = problem.args(result);
  const BlockAttentionDims& d = problem.dims;
  const auto packed = hwy::AllocateAligned<float>(static_cast<std::size_t>(cpu::packed_floats(d)));
  const auto scratch =
      hwy::AllocateAligned<float>(static_cast<std::size_t>(cpu::scratch_floats(d)));
  std::fill_n(packed.get(), cpu::packed_floats(d), std::numeric_limits<float>::quiet_NaN());
  std::fill_n(scratch.get(), cpu::scratch_floats(d), std::numeric_limits<float>::quiet_NaN());
  for (int64_t bh = d.B * d.H - 1; bh >= 0; --bh) {
    const cpu::PackedKeys keys{.data = packed.get(), .first_bh = bh, .products = products};
    cpu::pack_keys(args, keys, {.begin = bh * d.Nk, .end = (bh + 1) * d.Nk});
    const int64_t middle = bh * d.Nq + d.Nq / 2;
    cpu::block_attention(args, keys, scratch.get(), {.begin = middle, .end = (bh + 1) * d.Nq});
    cpu::block_attention(args, keys, scratch.get(), {.begin = bh * d.Nq, .end = middle});
  }
  return result;
}

// The textbook in float32: all scores of a row, then softmax, then the average.
template <class Element>
typename BlockAttentionProblem<float>::Result plain_float(
    const BlockAttentionProblem<Element>& problem) {
  const auto in_float = problem.template as<float>();
  auto result = in_float.empty_result();
  const BlockAttentionArgs<float> a = in_float.args(result);
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  std::fill(result.out.begin(), result.out.end(), 0.0F);
  std::fill(result.lse.begin(), result.lse.end(), -std::numeric_limits<float>::infinity());
  for (int64_t bhn = 0; bhn < B * H * Nq; ++bhn) {
    const int64_t b = bhn / (H * Nq), h = bhn / Nq % H, n = bhn % Nq;
    for (int64_t t = 0; t < a.list.q_sizes[n] && a.list.count[bhn] > 0; ++t) {
      std::vector<float> scores;
      std::vector<const float*> values;
      for (int32_t i = 0; i < a.list.count[bhn]; ++i) {
        const int64_t tile = a.list.index[bhn * K + i];
        for (int64_t j = 0; j < a.list.kv_sizes[tile]; ++j) {
          float sum = 0;
          for (int64_t c = 0; c < D; ++c) {
            sum += a.q.row(b, n * Tq + t, h)[c] * a.k.row(b, tile * Tk + j, h)[c];
          }
          scores.push_back(sum * static_cast<float>(a.scale));
          values.push_back(a.v.row(b, tile * Tk + j, h));
        }
      }
      const float top = *std::max_element(scores.begin(), scores.end());
      float total = 0;
      for (float& s : scores) {
        s = std::exp(s - top);
        total += s;
      }
      for (std::size_t i = 0; i < scores.size(); ++i) {
        for (int64_t c = 0; c < D; ++c) {
          a.out.row(b, n * Tq + t, h)[c] += scores[i] / total * values[i][c];
        }
      }
      a.lse[(b * H + h) * Nq * Tq + n * Tq + t] = top + std::log(total);
    }
  }
  return result;
}

// Off by at most twice the plain version's largest error plus one ulp, plus what its own element of
// `more` allows.
template <class Element, class Got, class Plain>
void expect_no_worse(const std::vector<Got>& got,
                     const std::vector<Plain>& plain,
                     const std::vector<double>& exact,
                     const std::vector<double>& more,
                     const char* what) {
  const double ulp = std::is_same_v<Element, float> ? 0x1p-23 : 0x1p-7;
  double plain_error = 0;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    if (std::isfinite(exact[i])) {
      Element rounded{};
      store(to_double(plain[i]), &rounded);
      plain_error = std::max(plain_error, std::abs(to_double(rounded) - exact[i]));
    }
  }
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double value = to_double(got[i]);
    if (std::isfinite(exact[i])) {
      const double allowed = 2 * plain_error + ulp * std::abs(exact[i]);
      ASSERT_LE(std::abs(value - exact[i]), allowed + (more.empty() ? 0 : more[i]))
          << what << ", element " << i << " is " << value << ", exactly " << exact[i];
    } else {
      ASSERT_EQ(value, exact[i]) << what << ", element " << i;
    }
  }
}

// How the chosen instruction set can multiply elements of this type.
template <class Element>
std::vector<cpu::Bf16Products> all_products() {
  std::vector<cpu::Bf16Products> all{cpu::Bf16Products::kWidened};
  if (std::is_same_v<Element, Bf16> && cpu::best_bf16_products() == cpu::Bf16Products::kPairs) {
    all.push_back(cpu::Bf16Products::kPairs);
  }
  return all;
}

// Unit roundoff of bf16, by which a rounded weight may be off.
constexpr double kBf16Roundoff = 0x1p-8;

// What rounding its weights does to an output. With w the exact weights, |d| <= u what rounding
// does to each, and their own sum as the divisor, it is off by
//   sum w (1 + d) v / sum w (1 + d) - out = sum w d (v - out) / sum w (1 + d)
struct WeightRounding {
  std::vector<double> most;    // u / (1 - u) sum w |v - out|
  std::vector<double> spread;  // u / (1 - u) sqrt(sum w^2 (v - out)^2): d is as often up as down
};

WeightRounding weight_rounding(const BlockAttentionArgs<double>& a) {
  const auto& [B, H, Nq, Nk, Tq, Tk, D, K] = a.dims;
  const double u = kBf16Roundoff / (1 - kBf16Roundoff);
  std::vector<double> most(static_cast<std::size_t>(B * Nq * Tq * H * D)), spread = most;
  for (int64_t bhn = 0; bhn < B * H * Nq; ++bhn) {
    const int64_t b = bhn / (H * Nq), h = bhn / Nq % H, n = bhn % Nq;
    for (int64_t t = 0; t < a.list.q_sizes[n] && a.list.count[bhn] > 0; ++t) {
      const int64_t s = n * Tq + t;
      const double* out = a.out.row(b, s, h);
      const auto at = static_cast<std::size_t>(out - a.out.data);
      for (int32_t i = 0; i < a.list.count[bhn]; ++i) {
        const int64_t tile = a.list.index[bhn * K + i];
        for (int64_t j = tile * Tk; j < tile * Tk + a.list.kv_sizes[tile]; ++j) {
          const double* q = a.q.row(b, s, h);
          const double dot = std::inner_product(q, q + D, a.k.row(b, j, h), 0.0);
          const double w = std::exp(a.scale * dot - a.lse[(b * H + h) * Nq * Tq + s]);
          for (int64_t c = 0; c < D; ++c) {
            const double share = w * std::abs(a.v.row(b, j, h)[c] - out[c]);
            most[at + static_cast<std::size_t>(c)] += u * share;
            spread[at + static_cast<std::size_t>(c)] += u * u * share * share;
          }
        }
      }
    }
  }
  std::transform(spread.begin(), spread.end(), spread.begin(),
                 [](double x) { return std::sqrt(x); });
  return {.most = most, .spread = spread};
}

double root_mean_square(const std::vector<double>& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0) /
                   static_cast<double>(x.size()));
}

std::vector<double> errors(const std::vector<Bf16>& got, const std::vector<double>& exact) {
  std::vector<double> error;
  for (std::size_t i = 0; i < exact.size(); ++i) {
    error.push_back(to_double(got[i]) - exact[i]);
  }
  return error;
}

// The root mean square of errors from independent roundings: of weights, and of the result.
double rounding_error(const WeightRounding& rounding, const std::vector<double>& exact) {
  return root_mean_square(rounding.spread) + kBf16Roundoff * root_mean_square(exact);
}

template <class Element>
void expect_agrees_on_every_target(const BlockAttentionCase& c) {
  const BlockAttentionProblem<Element> problem(c);
  const auto in_double = problem.template as<double>();
  auto exact = in_double.empty_result();
  const BlockAttentionArgs<double> exact_args = in_double.args(exact);
  ref::block_attention(exact_args);
  const auto plain = plain_float(problem);
  const WeightRounding rounding = weight_rounding(exact_args);
  const std::vector<double> none;
  testing::on_every_target([&](const char* target) {
    for (const cpu::Bf16Products products : all_products<Element>()) {
      const bool rounds = products == cpu::Bf16Products::kPairs;
      const auto got = run_cpu(problem, products);
      expect_no_worse<Element>(got.out, plain.out, exact.out, rounds ? rounding.most : none,
                               target);
      expect_no_worse<float>(got.lse, plain.lse, exact.lse, none, target);
      if constexpr (std::is_same_v<Element, Bf16>) {
        EXPECT_LE(root_mean_square(errors(got.out, exact.out)), rounding_error(rounding, exact.out))
            << target;
      }
    }
  });
}

TEST(BlockAttentionKernel, AgreesWithReferenceOnEveryInstructionSetAndReadsNoPadding) {
  for (const BlockAttentionCase& c : block_attention_cases()) {
    expect_agrees_on_every_target<float>(c);
    expect_agrees_on_every_target<Bf16>(c);
  }
}

TEST(BlockAttentionKernel, OneMissingKeyIsMoreThanRoundingDoes) {
  const BlockAttentionProblem<Bf16> problem(block_attention_cases()[1]);
  const auto in_double = problem.as<double>();
  auto exact = in_double.empty_result();
  const BlockAttentionArgs<double> exact_args = in_double.args(exact);
  ref::block_attention(exact_args);
  BlockAttentionProblem<Bf16> wrong = problem;
  --wrong.kv_sizes[1];
  const auto got = run_cpu(wrong, cpu::best_bf16_products());
  EXPECT_GT(root_mean_square(errors(got.out, exact.out)),
            rounding_error(weight_rounding(exact_args), exact.out));
}

TEST(BlockAttentionKernel, MultipliesPairsWhereTheMachineHasAvx512Bf16) {
#if HWY_ARCH_X86
  const bool expected = __builtin_cpu_supports("avx512bf16") != 0;
#else
  const bool expected = false;
#endif
  EXPECT_EQ(cpu::best_bf16_products() == cpu::Bf16Products::kPairs, expected);
  RecordProperty("bf16_products", expected ? "pairs" : "widened");
  if (expected) {  // and its bits show that it did
    const BlockAttentionProblem<Bf16> problem(block_attention_cases()[0]);
    const auto bits = [](const std::vector<Bf16>& x) {
      std::vector<uint16_t> all;
      std::transform(x.begin(), x.end(), std::back_inserter(all), [](Bf16 b) { return b.bits; });
      return all;
    };
    EXPECT_NE(bits(run_cpu(problem, cpu::Bf16Products::kPairs).out),
              bits(run_cpu(problem, cpu::Bf16Products::kWidened).out));
  }
}

template <class Element>
void expect_large_scores_stay_finite(const char* target) {
  BlockAttentionProblem<Element> problem(block_attention_cases()[0]);
  for (Element& x : problem.q) {
    store(to_double(x) * 300, &x);  // scores of some thousands
  }
  const auto in_double = problem.template as<double>();
  auto exact = in_double.empty_result();
  ref::block_attention(in_double.args(exact));
  for (const cpu::Bf16Products products : all_products<Element>()) {
    const auto got = run_cpu(problem, products);
    for (std::size_t i = 0; i < exact.lse.size(); ++i) {
      if (std::isfinite(exact.lse[i])) {
        // a dot product of 64 terms in float32, in any order
        EXPECT_NEAR(static_cast<double>(got.lse[i]), exact.lse[i], 64 * 0x1p-24 * 2e4) << target;
      } else {
        EXPECT_EQ(static_cast<double>(got.lse[i]), exact.lse[i]) << target;
      }
    }
    for (const Element x : got.out) {
      EXPECT_TRUE(std::isfinite(to_double(x))) << target;
    }
  }
}

TEST(BlockAttentionKernel, LargeScoresNeitherOverflowNorVanish) {
  testing::on_every_target([](const char* target) {
    expect_large_scores_stay_finite<float>(target);
    expect_large_scores_stay_finite<Bf16>(target);
  });
}

template <class Element>
void expect_nan_in_one_row(const char* target) {
  BlockAttentionCase c = block_attention_cases()[0];
  c.B = c.H = 1;
  BlockAttentionProblem<Element> problem(c);
  // query tile 3 attends to three tiles; poison its row 5
  const auto D = static_cast<std::size_t>(c.D);
  const std::size_t row = 3 * 64 + 5;
  store(std::numeric_limits<double>::quiet_NaN(), &problem.q[row * D + 7]);
  for (const cpu::Bf16Products products : all_products<Element>()) {
    const auto got = run_cpu(problem, products);
    for (std::size_t s = 0; s < got.lse.size(); ++s) {
      EXPECT_EQ(std::isnan(got.lse[s]), s == row) << target << ", row " << s;
      EXPECT_EQ(std::isnan(to_double(got.out[s * D])), s == row) << target << ", row " << s;
    }
  }
}

TEST(BlockAttentionKernel, NotANumberReachesTheOutputOfItsRowsAlone) {
  testing::on_every_target([](const char* target) {
    expect_nan_in_one_row<float>(target);
    expect_nan_in_one_row<Bf16>(target);
  });
}

}  // namespace
}  // namespace fastwan::kernels
