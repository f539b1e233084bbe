#include "kernels/block_attention/block_attention_backward.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
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

// A problem with its forward result and random gradients of that, NaN in their padding.
template <class Element>
struct Backward {
  BlockAttentionProblem<Element> problem;
  typename BlockAttentionProblem<Element>::Result forward, grad_out;
  std::vector<Element> grad_q, grad_k, grad_v;

  explicit Backward(const BlockAttentionProblem<Element>& of)
      : problem(of),
        forward(of.empty_result()),
        grad_out(of.empty_result()),
        grad_q(nans(of.q.size())),
        grad_k(nans(of.k.size())),
        grad_v(nans(of.v.size())) {
    ref::block_attention(problem.args(forward));
    fill_grad_out();
  }

  BlockAttentionBackwardArgs<Element> args(bool with_lse) {
    const BlockAttentionArgs<Element> a = problem.args(forward);
    const auto like = [](auto tokens, auto* data) {
      return Tokens<std::remove_pointer_t<decltype(data)>>{
          .data = data, .batch = tokens.batch, .token = tokens.token, .head = tokens.head};
    };
    return {.q = a.q,
            .k = a.k,
            .v = a.v,
            .out = like(a.q, static_cast<const Element*>(forward.out.data())),
            .grad_out = like(a.q, static_cast<const Element*>(grad_out.out.data())),
            .lse = forward.lse.data(),
            .grad_lse = with_lse ? grad_out.lse.data() : nullptr,
            .grad_q = like(a.q, grad_q.data()),
            .grad_k = like(a.k, grad_k.data()),
            .grad_v = like(a.k, grad_v.data()),
            .list = a.list,
            .scale = a.scale,
            .dims = a.dims};
  }

 private:
  static std::vector<Element> nans(std::size_t count) {
    std::vector<Element> x(count);
    for (Element& value : x) {
      store(std::numeric_limits<double>::quiet_NaN(), &value);
    }
    return x;
  }
  void fill_grad_out() {
    std::mt19937_64 random(7);
    std::normal_distribution<double> normal;
    const BlockAttentionDims& d = problem.dims;
    const auto is_padding = [&](int64_t s) {
      return s % d.Tq >= problem.q_sizes[static_cast<std::size_t>(s / d.Tq)];
    };
    for (std::size_t i = 0; i < grad_out.out.size(); ++i) {
      if (!is_padding(static_cast<int64_t>(i) / (d.H * d.D) % (d.Nq * d.Tq))) {
        store(normal(random), &grad_out.out[i]);
      }
    }
    for (std::size_t i = 0; i < grad_out.lse.size(); ++i) {
      if (!is_padding(static_cast<int64_t>(i) % (d.Nq * d.Tq))) {
        grad_out.lse[i] = static_cast<float>(normal(random));
      }
    }
  }
};

// In double, from the very values that the other type holds.
template <class Element>
Backward<double> in_double(const Backward<Element>& from) {
  Backward<double> to(from.problem.template as<double>());
  for (std::size_t i = 0; i < to.forward.out.size(); ++i) {
    to.forward.out[i] = to_double(from.forward.out[i]);
    to.grad_out.out[i] = to_double(from.grad_out.out[i]);
  }
  for (std::size_t i = 0; i < to.forward.lse.size(); ++i) {
    to.forward.lse[i] = to_double(from.forward.lse[i]);
    to.grad_out.lse[i] = to_double(from.grad_out.lse[i]);
  }
  return to;
}

template <class Element>
void run_cpu(const BlockAttentionBackwardArgs<Element>& args, int64_t segments) {
  const BlockAttentionDims& d = args.dims;
  const cpu::BackwardFloats floats = cpu::backward_floats(d);
  const auto allocate = [](int64_t count) {
    auto x = hwy::AllocateAligned<float>(static_cast<std::size_t>(count));
    std::fill_n(x.get(), count, std::numeric_limits<float>::quiet_NaN());
    return x;
  };
  const auto packed = allocate(floats.packed), sums = allocate(floats.sums * segments);
  const auto scratch = allocate(floats.scratch);
  for (int64_t bh = d.B * d.H - 1; bh >= 0; --bh) {
    const cpu::BackwardWork work{
        .packed = packed.get(), .sums = sums.get(), .first_bh = bh, .segments = segments};
    const Range key_tiles{.begin = bh * d.Nk, .end = (bh + 1) * d.Nk};
    cpu::pack_keys(args, work, key_tiles);
    for (int64_t segment = segments - 1; segment >= 0; --segment) {
      const int64_t i = bh * segments + segment;
      cpu::accumulate(args, work, scratch.get(), {.begin = i, .end = i + 1});
    }
    cpu::store_key_gradients(args, work, key_tiles);
  }
}

// Each weight p is exp of a difference of scores of size 10 (2^-24 * 10 off, and 2^-22 from exp2);
// D terms a product, then the sum over at most 4 * 130 pairs; magnitudes as random values have
// them. 100 units of rounding of the largest gradient bound that with room for the worst element; a
// wrong term is off by whole units. bf16 adds the rounding of the result.
template <class Element>
void expect_close(const std::vector<Element>& got,
                  const std::vector<double>& want,
                  const char* what) {
  double largest = 0;
  for (const double x : want) {
    largest = std::max(largest, std::abs(x));
  }
  const double ulp = std::is_same_v<Element, float> ? 0x1p-23 : 0x1p-7;
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_NEAR(to_double(got[i]), want[i], 100 * 0x1p-23 * largest + ulp * std::abs(want[i]))
        << what << ", element " << i;
  }
}

template <class Element>
void expect_agrees_on_every_target(const BlockAttentionCase& c) {
  for (const bool with_lse : {false, true}) {
    const Backward<Element> given{BlockAttentionProblem<Element>(c)};
    Backward<double> exact = in_double(given);
    ref::block_attention_backward(exact.args(with_lse));
    testing::on_every_target([&](const char* target) {
      Backward<Element> backward = given;  // its gradients are NaN
      for (const int64_t segments : {1, 3}) {
        run_cpu(backward.args(with_lse), segments);
        expect_close(backward.grad_q, exact.grad_q, target);
        expect_close(backward.grad_k, exact.grad_k, target);
        expect_close(backward.grad_v, exact.grad_v, target);
      }
    });
  }
}

TEST(BlockAttentionBackwardKernel, AgreesWithReferenceOnEveryInstructionSetAndReadsNoPadding) {
  for (const BlockAttentionCase& c : block_attention_cases()) {
    expect_agrees_on_every_target<float>(c);
    expect_agrees_on_every_target<Bf16>(c);
  }
}

TEST(BlockAttentionBackwardReference, IsTheDerivativeOfTheForwardReference) {
  BlockAttentionCase c = block_attention_cases()[2];
  Backward<double> backward{BlockAttentionProblem<double>(c)};
  ref::block_attention_backward(backward.args(true));
  // loss = sum over tokens of out * grad_out + lse * grad_lse
  const auto loss = [&] {
    auto result = backward.problem.empty_result();
    ref::block_attention(backward.problem.args(result));
    double sum = 0;
    for (std::size_t i = 0; i < result.out.size(); ++i) {
      sum += result.out[i] != 0 ? result.out[i] * backward.grad_out.out[i] : 0;
    }
    for (std::size_t i = 0; i < result.lse.size(); ++i) {
      sum += std::isfinite(result.lse[i]) ? result.lse[i] * backward.grad_out.lse[i] : 0;
    }
    return sum;
  };
  const double h = 1e-5;
  const auto expect_derivative = [&](std::vector<double>& x, const std::vector<double>& grad) {
    for (std::size_t i = 0; i < x.size(); i += 7) {
      if (std::isnan(x[i])) {
        EXPECT_EQ(grad[i], 0);
        continue;
      }
      const double kept = x[i];
      x[i] = kept + h;
      const double above = loss();
      x[i] = kept - h;
      const double below = loss();
      x[i] = kept;
      EXPECT_NEAR(grad[i], (above - below) / (2 * h), 1e-7) << "element " << i;
    }
  };
  expect_derivative(backward.problem.q, backward.grad_q);
  expect_derivative(backward.problem.k, backward.grad_k);
  expect_derivative(backward.problem.v, backward.grad_v);
}

}  // namespace
}  // namespace fastwan::kernels
