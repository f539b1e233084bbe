#include "ops/block_attention.h"

#include <cmath>
#include <limits>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/rand.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/randperm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "kernels/block_attention/block_attention_problem.h"
#include "support/compare.h"

namespace fastwan::ops {
namespace {

struct Problem {
  at::Tensor q, k, v, index, count, q_sizes, kv_sizes;
};

using Sizes = kernels::testing::BlockAttentionCase;
using kernels::testing::block_attention_cases;

at::Tensor slots_with_nan(const Sizes& s, int64_t T, const at::Tensor& sizes) {
  const at::Tensor padding = at::arange(T, sizes.options()).ge(sizes.unsqueeze(1));  // [N, T]
  return at::randn({s.B, sizes.size(0), T, s.H, s.D}, at::kDouble)
      .masked_fill(padding.view({1, -1, T, 1, 1}), std::nan(""))
      .flatten(1, 2);
}

// Random lists of every length from 0 to K; entries behind the count point nowhere.
Problem make_problem(const Sizes& s, at::ScalarType type) {
  at::Generator generator = at::detail::getDefaultCPUGenerator();
  generator.set_current_seed(1);  // the same problem in every run
  Problem p;
  p.q_sizes = at::tensor(s.q_sizes, at::kInt);
  p.kv_sizes = at::tensor(s.kv_sizes, at::kInt);
  const int64_t Nq = p.q_sizes.size(0), Nk = p.kv_sizes.size(0);
  p.q = slots_with_nan(s, s.Tq, p.q_sizes).to(type);
  p.k = slots_with_nan(s, s.Tk, p.kv_sizes).to(type);
  p.v = slots_with_nan(s, s.Tk, p.kv_sizes).to(type);
  p.index = at::full({s.B, s.H, Nq, s.K}, 1 << 30, at::kInt);
  p.count = at::zeros({s.B, s.H, Nq}, at::kInt);
  int64_t turn = 0;
  for (int64_t b = 0; b < s.B; ++b) {
    for (int64_t h = 0; h < s.H; ++h) {
      for (int64_t n = 0; n < Nq; ++n, ++turn) {
        const int64_t count = turn % (s.K + 1);
        const at::Tensor chosen = at::randperm(Nk, at::kInt).narrow(0, 0, count);
        p.index[b][h][n].narrow(0, 0, count).copy_(std::get<0>(chosen.sort()));
        p.count[b][h][n].fill_(count);
      }
    }
  }
  return p;
}

std::tuple<at::Tensor, at::Tensor> attend(const Problem& p) {
  return block_attention(p.q, p.k, p.v, p.index, p.count, p.q_sizes, p.kv_sizes);
}

struct Result {
  at::Tensor out, lse;
};

// Row by row, key by key, in the type given; weights are rounded to another one before they meet
// values, as the kernels for bf16 may do.
Result by_hand(const Problem& p, at::ScalarType type, at::ScalarType weight_type) {
  const int64_t B = p.q.size(0), H = p.q.size(2), D = p.q.size(3);
  const int64_t Nq = p.q_sizes.size(0);
  const int64_t Tq = p.q.size(1) / Nq, Tk = p.k.size(1) / p.kv_sizes.size(0);
  const at::Tensor q = p.q.to(type), k = p.k.to(type), v = p.v.to(type);
  Result r{.out = at::zeros(q.sizes(), type),
           .lse = at::full({B, H, Nq * Tq}, -std::numeric_limits<double>::infinity(), type)};
  for (int64_t b = 0; b < B; ++b) {
    for (int64_t h = 0; h < H; ++h) {
      for (int64_t n = 0; n < Nq; ++n) {
        std::vector<at::Tensor> keys, values;
        for (int64_t i = 0; i < p.count[b][h][n].item<int64_t>(); ++i) {
          const auto m = p.index[b][h][n][i].item<int64_t>();
          const auto size = p.kv_sizes[m].item<int64_t>();
          keys.push_back(k.select(0, b).select(1, h).narrow(0, m * Tk, size));
          values.push_back(v.select(0, b).select(1, h).narrow(0, m * Tk, size));
        }
        if (keys.empty()) {
          continue;
        }
        const auto rows = p.q_sizes[n].item<int64_t>();
        const at::Tensor scores = at::matmul(q.select(0, b).select(1, h).narrow(0, n * Tq, rows),
                                             at::cat(keys).transpose(0, 1)) /
                                  std::sqrt(static_cast<double>(D));  // [rows, keys]
        r.out.select(0, b)
            .select(1, h)
            .narrow(0, n * Tq, rows)
            .copy_(at::matmul(scores.softmax(-1).to(weight_type).to(type), at::cat(values)));
        r.lse.select(0, b).select(0, h).narrow(0, n * Tq, rows).copy_(scores.logsumexp(-1));
      }
    }
  }
  return r;
}

Result by_hand(const Problem& p, at::ScalarType type) {
  return by_hand(p, type, type);
}

TEST(BlockAttention, AgreesWithSoftmaxOverTheListedKeysAndReadsNoPadding) {
  for (const Sizes& sizes : block_attention_cases()) {
    const Problem exact_problem = make_problem(sizes, at::kDouble);
    const Result exact = by_hand(exact_problem, at::kDouble);
    const auto [out64, lse64] = attend(exact_problem);
    EXPECT_LE((out64 - exact.out).abs().max().item<double>(), 1e-13);
    EXPECT_TRUE(lse64.isclose(exact.lse, 0, 1e-13).all().item<bool>());
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      Problem p = exact_problem;
      p.q = p.q.to(type), p.k = p.k.to(type), p.v = p.v.to(type);
      const auto [out, lse] = attend(p);
      const Result want = by_hand(p, at::kDouble);
      const Result plain = by_hand(p, at::kFloat, type);
      EXPECT_TRUE(testing::no_worse_than_plain(out, plain.out.to(type), want.out));
      const at::Tensor finite = want.lse.isfinite();
      EXPECT_TRUE(at::equal(lse.isfinite(), finite));
      EXPECT_TRUE(testing::no_worse_than_plain(lse.masked_select(finite),
                                               plain.lse.masked_select(finite),
                                               want.lse.masked_select(finite)));
    }
  }
}

TEST(BlockAttention, ScaleIsTheCallersOrTheRootOfTheHeadSize) {
  const Problem p = make_problem(block_attention_cases()[0], at::kFloat);
  const auto [by_default, lse_by_default] = attend(p);
  const auto [given, lse] = block_attention(p.q, p.k, p.v, p.index, p.count, p.q_sizes, p.kv_sizes,
                                            1.0 / std::sqrt(64.0));
  EXPECT_TRUE(testing::is_equal(given, by_default));
  EXPECT_TRUE(testing::is_equal(lse, lse_by_default));
  const auto [other, other_lse] =
      block_attention(p.q, p.k, p.v, p.index, p.count, p.q_sizes, p.kv_sizes, 0.5);
  EXPECT_FALSE(at::equal(other, by_default));
}

TEST(BlockAttention, AcceptsAnyStrides) {
  const Problem p = make_problem(block_attention_cases()[0], at::kFloat);
  Problem strided = p;
  for (at::Tensor* x : {&strided.q, &strided.k, &strided.v}) {
    *x = x->transpose(1, 2).contiguous().transpose(1, 2);  // heads outside tokens
    *x = at::stack({*x, *x}, 4).select(4, 1);              // D not innermost
  }
  strided.index = at::stack({p.index, p.index}, 4).select(4, 0);
  const auto [want, want_lse] = attend(p);
  const auto [got, got_lse] = attend(strided);
  EXPECT_TRUE(testing::is_equal(got, want));
  EXPECT_TRUE(testing::is_equal(got_lse, want_lse));
}

struct Gradients {
  at::Tensor q, k, v;
};

// d sum(out * w + lse * u), rows without keys left out of lse.
Gradients gradients(const Problem& p, const at::Tensor& w, const at::Tensor& u) {
  const at::Tensor q = p.q.detach().clone().requires_grad_();
  const at::Tensor k = p.k.detach().clone().requires_grad_();
  const at::Tensor v = p.v.detach().clone().requires_grad_();
  const auto [out, lse] = block_attention(q, k, v, p.index, p.count, p.q_sizes, p.kv_sizes);
  const at::Tensor finite = lse.isfinite();
  ((out * w.to(out.scalar_type())).sum() +
   (lse * u.to(lse.scalar_type())).masked_select(finite).sum())
      .backward();
  return {.q = q.grad(), .k = k.grad(), .v = v.grad()};
}

// The same through torch's own differentiation of `by_hand`.
Gradients gradients_by_hand(const Problem& p,
                            const at::Tensor& w,
                            const at::Tensor& u,
                            at::ScalarType type) {
  Problem copy = p;
  const at::Tensor q = p.q.detach().to(type).requires_grad_();
  const at::Tensor k = p.k.detach().to(type).requires_grad_();
  const at::Tensor v = p.v.detach().to(type).requires_grad_();
  copy.q = q, copy.k = k, copy.v = v;
  const Result r = by_hand(copy, type);
  const at::Tensor finite = r.lse.isfinite();
  ((r.out * w.to(type)).sum() + (r.lse * u.to(type)).masked_select(finite).sum()).backward();
  return {.q = q.grad(), .k = k.grad(), .v = v.grad()};
}

TEST(BlockAttention, GradientsAreThoseOfSoftmaxAttentionAndZeroInPadding) {
  for (const Sizes& sizes : block_attention_cases()) {
    const Problem exact_problem = make_problem(sizes, at::kDouble);
    const at::Tensor w = at::randn(exact_problem.q.sizes(), at::kDouble);
    const at::Tensor u = at::randn({w.size(0), w.size(2), w.size(1)}, at::kDouble);
    const Gradients got64 = gradients(exact_problem, w, u);
    const Gradients want64 = gradients_by_hand(exact_problem, w, u, at::kDouble);
    EXPECT_LE((got64.q - want64.q).abs().max().item<double>(), 1e-12);
    EXPECT_LE((got64.k - want64.k).abs().max().item<double>(), 1e-12);
    EXPECT_LE((got64.v - want64.v).abs().max().item<double>(), 1e-12);
    for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
      Problem p = exact_problem;
      p.q = p.q.to(type), p.k = p.k.to(type), p.v = p.v.to(type);
      const at::Tensor w_typed = w.to(type);
      const Gradients got = gradients(p, w_typed, u);
      const Gradients want = gradients_by_hand(p, w_typed, u, at::kDouble);
      const Gradients plain = gradients_by_hand(p, w_typed, u, at::kFloat);
      // the whole gradient at most twice as far off as torch's, plus one ulp
      const double ulp = type == at::kFloat ? 0x1p-23 : 0x1p-7;
      for (const auto member : {&Gradients::q, &Gradients::k, &Gradients::v}) {
        EXPECT_LE(testing::relative_l2(got.*member, want.*member),
                  2 * testing::relative_l2((plain.*member).to(type), want.*member) + ulp);
      }
    }
  }
}

TEST(BlockAttention, GivesTheSameBitsOnEveryNumberOfThreads) {
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16, at::kDouble}) {
    const Problem p = make_problem(block_attention_cases()[1], type);
    const at::Tensor w = at::randn(p.q.sizes(), type);
    const at::Tensor u = at::randn({w.size(0), w.size(2), w.size(1)}, at::kDouble);
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    const auto [want, want_lse] = attend(p);
    const Gradients want_grad = gradients(p, w, u);
    for (const int n : {1, 2, 3}) {
      at::set_num_threads(n);
      const auto [got, got_lse] = attend(p);
      const Gradients got_grad = gradients(p, w, u);
      EXPECT_TRUE(testing::is_equal(got, want));
      EXPECT_TRUE(testing::is_equal(got_lse, want_lse));
      EXPECT_TRUE(testing::is_equal(got_grad.q, want_grad.q));
      EXPECT_TRUE(testing::is_equal(got_grad.k, want_grad.k));
      EXPECT_TRUE(testing::is_equal(got_grad.v, want_grad.v));
    }
    at::set_num_threads(threads);
  }
}

TEST(BlockAttention, RefusesWhatDoesNotFit) {
  const Problem good = make_problem(block_attention_cases()[0], at::kFloat);
  const auto refuses = [&](auto change) {
    Problem bad = good;
    change(bad);
    EXPECT_THROW(attend(bad), c10::ValueError);
  };
  refuses([](Problem& p) { p.k = p.k.narrow(1, 0, 64); });
  refuses([](Problem& p) { p.v = p.v.narrow(3, 0, 63); });
  refuses([](Problem& p) { p.v = p.v.to(at::kBFloat16); });
  refuses([](Problem& p) { p.q = p.q.narrow(1, 0, 255); });
  refuses([](Problem& p) { p.q = p.q.to(at::kInt); });
  refuses([](Problem& p) { p.index = p.index.to(at::kLong); });
  refuses([](Problem& p) { p.index = p.index.narrow(2, 0, 3); });
  refuses([](Problem& p) { p.count = p.count.narrow(1, 0, 2); });
  refuses([](Problem& p) { p.q_sizes = p.q_sizes.unsqueeze(0); });
  // values, where reading them costs no synchronisation
  refuses([](Problem& p) { p.count = p.count + 4; });
  refuses([](Problem& p) { p.index = at::full_like(p.index, 5), p.count = p.count.clamp_min(1); });
  refuses([](Problem& p) { p.kv_sizes = p.kv_sizes + 1; });
  refuses([](Problem& p) { p.q_sizes = p.q_sizes - 2; });
}

}  // namespace
}  // namespace fastwan::ops
