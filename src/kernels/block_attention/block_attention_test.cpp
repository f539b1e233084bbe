#include "kernels/block_attention/block_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
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
    const BlockAttentionProblem<Element>& problem) {
  auto result = problem.empty_result();
  const BlockAttentionArgs<Element> args = problem.args(result);
  const BlockAttentionDims& d = problem.dims;
  const auto packed = hwy::AllocateAligned<float>(static_cast<std::size_t>(cpu::packed_floats(d)));
  const auto scratch =
      hwy::AllocateAligned<float>(static_cast<std::size_t>(cpu::scratch_floats(d)));
  std::fill_n(packed.get(), cpu::packed_floats(d), std::numeric_limits<float>::quiet_NaN());
  std::fill_n(scratch.get(), cpu::scratch_floats(d), std::numeric_limits<float>::quiet_NaN());
  for (int64_t bh = d.B * d.H - 1; bh >= 0; --bh) {
    const cpu::PackedKeys keys{.data = packed.get(), .first_bh = bh};
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

// Off by at most twice the plain version's largest error plus one ulp.
template <class Element, class Got, class Plain>
void expect_no_worse(const std::vector<Got>& got,
                     const std::vector<Plain>& plain,
                     const std::vector<double>& exact,
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
      ASSERT_LE(std::abs(value - exact[i]), 2 * plain_error + ulp * std::abs(exact[i]))
          << what << ", element " << i << " is " << value << ", exactly " << exact[i];
    } else {
      ASSERT_EQ(value, exact[i]) << what << ", element " << i;
    }
  }
}

template <class Element>
void expect_agrees_on_every_target(const BlockAttentionCase& c) {
  const BlockAttentionProblem<Element> problem(c);
  const auto in_double = problem.template as<double>();
  auto exact = in_double.empty_result();
  ref::block_attention(in_double.args(exact));
  const auto plain = plain_float(problem);
  testing::on_every_target([&](const char* target) {
    const auto got = run_cpu(problem);
    expect_no_worse<Element>(got.out, plain.out, exact.out, target);
    expect_no_worse<float>(got.lse, plain.lse, exact.lse, target);
  });
}

TEST(BlockAttentionKernel, AgreesWithReferenceOnEveryInstructionSetAndReadsNoPadding) {
  for (const BlockAttentionCase& c : block_attention_cases()) {
    expect_agrees_on_every_target<float>(c);
    expect_agrees_on_every_target<Bf16>(c);
  }
}

TEST(BlockAttentionKernel, LargeScoresNeitherOverflowNorVanish) {
  testing::on_every_target([](const char* target) {
    BlockAttentionProblem<float> problem(block_attention_cases()[0]);
    for (float& x : problem.q) {
      x *= 300;  // scores of some thousands
    }
    const auto in_double = problem.as<double>();
    auto exact = in_double.empty_result();
    ref::block_attention(in_double.args(exact));
    const auto got = run_cpu(problem);
    for (std::size_t i = 0; i < exact.lse.size(); ++i) {
      if (std::isfinite(exact.lse[i])) {
        // a dot product of 64 terms in float32, in any order
        EXPECT_NEAR(static_cast<double>(got.lse[i]), exact.lse[i], 64 * 0x1p-24 * 2e4) << target;
      } else {
        EXPECT_EQ(static_cast<double>(got.lse[i]), exact.lse[i]) << target;
      }
    }
    for (const float x : got.out) {
      EXPECT_TRUE(std::isfinite(x)) << target;
    }
  });
}

TEST(BlockAttentionKernel, NotANumberReachesTheOutputOfItsRowsAlone) {
  testing::on_every_target([](const char* target) {
    BlockAttentionCase c = block_attention_cases()[0];
    c.B = c.H = 1;
    BlockAttentionProblem<float> problem(c);
    // query tile 3 attends to three tiles; poison its row 5
    const auto D = static_cast<std::size_t>(c.D);
    const std::size_t row = 3 * 64 + 5;
    problem.q[row * D + 7] = std::numeric_limits<float>::quiet_NaN();
    const auto got = run_cpu(problem);
    for (std::size_t s = 0; s < got.lse.size(); ++s) {
      EXPECT_EQ(std::isnan(got.lse[s]), s == row) << target << ", row " << s;
      EXPECT_EQ(std::isnan(got.out[s * D]), s == row) << target << ", row " << s;
    }
  });
}

}  // namespace
}  // namespace fastwan::kernels
