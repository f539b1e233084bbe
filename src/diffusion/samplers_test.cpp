#include "diffusion/samplers.h"

#include <bit>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "diffusion/flow.h"
#include "diffusion/noise.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::diffusion {
namespace {

using testing::Golden;
using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;
using testing::Tolerance;

constexpr Tolerance kTight{.of_range = 1e-6, .relative_l2 = 1e-6};
constexpr NoiseShape kShape{.channels = 3, .frames = 4, .height = 4, .width = 6};

at::Tensor scalar(double value, at::ScalarType type = at::kFloat) {
  return at::full({1, 1, 1, 1, 1}, value, type);
}

// The velocity of the toy traces: 0.5 x - 0.25 + sigma.
at::Tensor toy_velocity(const at::Tensor& x, const NoiseLevel& level, int64_t /*step*/) {
  return x * 0.5 - 0.25 + level.sigma;
}

// A sampler's states are the arguments of its velocity, and its result.
template <class Sampler>
std::vector<at::Tensor> states_of(const Sampler& sampler, const Denoiser& velocity) {
  std::vector<at::Tensor> states;
  const auto recorded = [&](const at::Tensor& x, const NoiseLevel& level, int64_t step) {
    if (step > 0) {
      states.push_back(x);
    }
    return velocity(x, level, step);
  };
  const at::Tensor last = sampler(recorded);
  states.push_back(last);
  return states;
}

// --- few-step ------------------------------------------------------------------------------------

TEST(FewStep, FollowsTheTraceWorkedOutByHand) {
  const auto levels = few_step_levels({1000, 757, 522}, 8.0);
  const auto noise_at = [](int64_t step) { return scalar(step == 1 ? 0.3 : -0.7); };
  std::vector<double> estimates;
  const auto on_step = [&](int64_t, int64_t, const at::Tensor& x0) {
    estimates.push_back(x0.item<double>());
  };
  const at::Tensor x0 = sample_few_step(scalar(1.0), levels, toy_velocity, noise_at, on_step);
  ASSERT_EQ(estimates.size(), 3U);
  EXPECT_NEAR(estimates[0], -0.25, 1e-7);
  EXPECT_NEAR(estimates[1], -0.2801680, 1e-7);
  EXPECT_NEAR(x0.item<double>(), -0.5107588, 1e-7);
}

// Nearest even, by the bits.
float to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7FFFU + ((bits >> 16) & 1U)) & 0xFFFF0000U);
}

float through_bf16(double value) {
  return to_bf16(static_cast<float>(value));
}

TEST(FewStep, RoundsToBf16WhereTheReferenceDoes) {
  const auto levels = few_step_levels({1000, 757, 522}, 8.0);
  const auto source = torch_noise(1024, kShape, DrawOrder::kFramesFirst, at::kBFloat16);
  const at::Tensor noise = source->initial();
  const std::vector<at::Tensor> renoise = {source->renoise(1), source->renoise(2)};
  const auto velocity = [](const at::Tensor& x, const NoiseLevel& level, int64_t step) {
    return toy_velocity(x.to(at::kBFloat16).to(at::kFloat), level, step).to(at::kBFloat16);
  };
  const at::Tensor got =
      sample_few_step(noise, levels, velocity,
                      [&](int64_t step) { return renoise[static_cast<std::size_t>(step - 1)]; }, {},
                      {.state = at::kBFloat16, .impose = {}});
  EXPECT_EQ(got.scalar_type(), at::kBFloat16);

  at::Tensor want = at::zeros(noise.sizes(), at::kFloat);
  for (int64_t k = 0; k < noise.numel(); ++k) {
    float x = noise.view({-1})[k].item<float>(), x0 = 0;
    for (std::size_t i = 0; i < levels.size(); ++i) {
      const auto sigma = static_cast<float>(levels[i].sigma);
      if (i > 0) {
        const float kept = x0 * (1.0F - sigma);
        const float added = renoise[i - 1].view({-1})[k].item<float>() * sigma;
        x = to_bf16(kept + added);
      }
      const float half = to_bf16(x) * 0.5F;
      const float v = to_bf16(half - 0.25F + sigma);
      x0 = through_bf16(static_cast<double>(x) - static_cast<double>(v) * levels[i].sigma);
    }
    want.view({-1})[k] = x0;
  }
  EXPECT_TRUE(is_equal(got.to(at::kFloat), want));
}

TEST(FewStep, ReturnsTheContentThatATrueVelocityPointsTo) {
  const at::Tensor content = golden_tensor("few_step", "content", {1, 3, 4, 4, 6});
  const auto source = philox_noise(1, kShape);
  const auto velocity = [&](const at::Tensor& x, const NoiseLevel& level, int64_t) {
    return (x - content) / level.sigma;
  };
  const at::Tensor x0 =
      sample_few_step(source->initial(), few_step_levels({1000, 500, 3}, 3.0), velocity,
                      [&](int64_t i) { return source->renoise(i); }, {});
  EXPECT_TRUE(is_close(x0, content, kTight));
}

// --- image to video ------------------------------------------------------------------------------

at::Tensor first_frame() {
  return golden_tensor("impose", "image", {1, 3, 1, 4, 6});
}

at::Tensor put_first_frame(const at::Tensor& x) {
  return at::cat({first_frame().to(x.scalar_type()), x.slice(2, 1)}, 2);
}

// Checks what the model sees; frame 0 of the velocity is large, so that a sampler that forgets to
// impose shows.
Denoiser watched_velocity(bool* saw_the_image) {
  return [saw_the_image](const at::Tensor& x, const NoiseLevel& level, int64_t step) {
    *saw_the_image = *saw_the_image && at::equal(x.slice(2, 0, 1).to(at::kFloat), first_frame());
    const at::Tensor v = toy_velocity(x.to(at::kFloat), level, step);
    return at::cat({v.slice(2, 0, 1) + 100.0, v.slice(2, 1)}, 2);
  };
}

using Sampling = std::function<at::Tensor(const Denoiser&, const OnStep&, const Impose&)>;

std::vector<std::pair<std::string, Sampling>> all_samplings() {
  const at::Tensor noise = philox_noise(5, kShape)->initial();
  return {
      {"few-step",
       [=](const Denoiser& v, const OnStep& on_step, const Impose& impose) {
         return sample_few_step(noise, few_step_levels({1000, 757, 522}, 8.0), v,
                                [](int64_t step) { return philox_noise(5, kShape)->renoise(step); },
                                on_step, {.state = at::kFloat, .impose = impose});
       }},
      {"unipc",
       [=](const Denoiser& v, const OnStep& on_step, const Impose& impose) {
         return sample_unipc(noise, unipc_levels(4, 5.0, SigmaSchedule::kDiffusers), v, on_step,
                             impose);
       }},
      {"euler",
       [=](const Denoiser& v, const OnStep& on_step, const Impose& impose) {
         return sample_euler(noise, euler_levels(4, 5.0), v, on_step, impose);
       }},
  };
}

TEST(Impose, KeepsTheFrameBeforeEveryForwardInEveryEstimateAndAtTheEnd) {
  for (const auto& [name, sampling] : all_samplings()) {
    bool model_saw_the_image = true, estimates_hold_it = true;
    const auto on_step = [&](int64_t, int64_t, const at::Tensor& x0) {
      estimates_hold_it = estimates_hold_it && at::equal(x0.slice(2, 0, 1), first_frame());
    };
    const at::Tensor x = sampling(watched_velocity(&model_saw_the_image), on_step, put_first_frame);
    EXPECT_TRUE(model_saw_the_image) << name;
    EXPECT_TRUE(estimates_hold_it) << name;
    EXPECT_TRUE(is_equal(x.slice(2, 0, 1), first_frame())) << name;

    bool unused = true;
    const at::Tensor free = sampling(watched_velocity(&unused), {}, {});
    EXPECT_FALSE(at::equal(free.slice(2, 0, 1), first_frame())) << name;
    // This velocity acts on each element alone: the other frames do not notice.
    EXPECT_TRUE(is_equal(x.slice(2, 1), free.slice(2, 1))) << name;
  }
}

// --- the course of steps -------------------------------------------------------------------------

TEST(Samplers, ReportEachStepAndStopWithinOne) {
  for (const auto& [name, sampling] : all_samplings()) {
    int64_t forwards = 0, reports = 0;
    const auto velocity = [&](const at::Tensor& x, const NoiseLevel& level, int64_t step) {
      EXPECT_EQ(step, forwards) << name;
      ++forwards;
      return toy_velocity(x, level, step);
    };
    const auto stop_after_two = [&](int64_t done, int64_t total, const at::Tensor&) {
      EXPECT_EQ(done, ++reports) << name;
      EXPECT_EQ(total, name == "few-step" ? 3 : 4);
      if (done == 2) {
        throw Stopped();
      }
    };
    EXPECT_THROW(sampling(velocity, stop_after_two, {}), Stopped);
    EXPECT_EQ(forwards, 2) << name;
  }
}

// --- UniPC and Euler -----------------------------------------------------------------------------

const std::vector<std::pair<SigmaSchedule, std::string>> kScheduleCases = {
    {SigmaSchedule::kDiffusers, "unipc_diffusers"},
    {SigmaSchedule::kFastVideo, "unipc_fastvideo"},
    {SigmaSchedule::kWan, "unipc_wan"}};

Denoiser golden_velocity(const std::string& golden_case) {
  return [golden_case](const at::Tensor& x, const NoiseLevel&, int64_t step) {
    return x * 0.5 + golden_tensor(golden_case, str("w", step), x.sizes());
  };
}

at::Tensor stored_part(const std::vector<at::Tensor>& states) {
  std::vector<at::Tensor> rows;
  for (const at::Tensor& x : states) {
    rows.push_back(x.contiguous().view({-1}).slice(0, 0, x.numel(), 7));
  }
  return at::stack(rows);  // [steps, 52]
}

// The solver's second moment is phi/h^2 less its leading terms: one unit of fp32 in expm1, where
// two libraries differ, comes back 1/h^2 times as large (h = 0.05 at 50 steps), times a second
// difference.
constexpr Tolerance kUnipc{.of_range = 1e-6, .relative_l2 = 2e-6};

TEST(Unipc, EqualsDiffusersAfterEachStepInAllThreeSchedules) {
  for (const auto& [schedule, golden_case] : kScheduleCases) {
    const Golden golden("diffusion", golden_case);
    const at::Tensor noise = golden_tensor(golden_case, "x", {1, 4, 3, 5, 6});
    for (const int steps : {1, 2, 3, 4, 15, 50}) {
      for (const int shift : {1, 3, 5, 8}) {
        const auto levels = unipc_levels(steps, shift, schedule);
        const auto states =
            states_of([&](const Denoiser& v) { return sample_unipc(noise, levels, v, {}); },
                      golden_velocity(golden_case));
        EXPECT_TRUE(
            is_close(stored_part(states), golden.tensor(str("n", steps, ".s", shift)), kTight))
            << golden_case << " n " << steps << " shift " << shift;
      }
    }
  }
}

TEST(Euler, EqualsDiffusersAfterEachStep) {
  const Golden golden("diffusion", "euler");
  const at::Tensor noise = golden_tensor("euler", "x", {1, 4, 3, 5, 6});
  for (const int steps : {1, 2, 5, 50}) {
    for (const int shift : {1, 5, 7}) {
      const auto levels = euler_levels(steps, shift);
      const auto states =
          states_of([&](const Denoiser& v) { return sample_euler(noise, levels, v, {}); },
                    golden_velocity("euler"));
      EXPECT_TRUE(
          is_close(stored_part(states), golden.tensor(str("n", steps, ".s", shift)), kTight))
          << "n " << steps << " shift " << shift;
    }
  }
}

TEST(Unipc, FollowsTheTracesOfAllThreeReferences) {
  struct Trace {
    int64_t steps;
    double shift;
    SigmaSchedule schedule;
    std::vector<double> states;  // the last ones of the run
  };
  using S = SigmaSchedule;
  const std::vector<Trace> traces = {
      {4, 5.0, S::kFastVideo, {0.921869, 0.805664, 0.623563, 0.194407}},
      {4, 5.0, S::kWan, {0.921845, 0.805838, 0.623581, 0.194747}},
      {4, 5.0, S::kDiffusers, {0.921974, 0.805722, 0.624301, 0.193603}},
      {3, 8.0, S::kFastVideo, {0.926465, 0.766859, 0.020167}},
      {3, 8.0, S::kWan, {0.926427, 0.767149, 0.020705}},
      {3, 8.0, S::kDiffusers, {0.926576, 0.767126, 0.019444}},
      {2, 5.0, S::kFastVideo, {-0.024212}},
      {2, 5.0, S::kWan, {-0.023839}},
      {2, 5.0, S::kDiffusers, {-0.024606}},
      {1, 5.0, S::kFastVideo, {-0.249910}},
      {1, 5.0, S::kWan, {-0.249550}},
      {1, 5.0, S::kDiffusers, {-0.249998}},
  };
  for (const Trace& trace : traces) {
    const auto levels = unipc_levels(trace.steps, trace.shift, trace.schedule);
    const auto states = states_of(
        [&](const Denoiser& v) { return sample_unipc(scalar(1.0), levels, v, {}); }, toy_velocity);
    for (std::size_t i = 1; i <= trace.states.size(); ++i) {
      // Six printed digits, and one unit for the velocity's own roundings.
      EXPECT_NEAR(states[states.size() - i].item<double>(), trace.states[trace.states.size() - i],
                  1.5e-6)
          << trace.steps << " steps, shift " << trace.shift << ", state " << i << " from the end";
    }
  }
}

// A velocity in bf16 is multiplied by an fp32 sigma and rounded, then widened.
TEST(Unipc, RoundsSigmaTimesABf16VelocityOnce) {
  const at::Tensor noise = philox_noise(9, kShape)->initial();
  const at::Tensor v = golden_tensor("rounding", "v", noise.sizes()).to(at::kBFloat16);
  const std::vector<NoiseLevel> level = {{.timestep = 757, .sigma = 0.7567567229F}};
  const auto velocity = [&](const at::Tensor&, const NoiseLevel&, int64_t) { return v; };
  const at::Tensor got = sample_unipc(noise, level, velocity, {});
  at::Tensor want = at::zeros(noise.sizes(), at::kFloat);
  for (int64_t k = 0; k < noise.numel(); ++k) {
    const float product = v.view({-1})[k].item<float>() * 0.7567567229F;
    want.view({-1})[k] = noise.view({-1})[k].item<float>() - to_bf16(product);
  }
  EXPECT_TRUE(is_equal(got, want));
}

TEST(Euler, HandsItsStateBackInTheTypeOfTheVelocity) {
  const at::Tensor noise = philox_noise(9, kShape)->initial();
  const auto velocity = [](const at::Tensor& x, const NoiseLevel& level, int64_t step) {
    return toy_velocity(x, level, step).to(at::kBFloat16);
  };
  const at::Tensor x = sample_euler(noise, euler_levels(3, 5.0), velocity, {});
  EXPECT_EQ(x.scalar_type(), at::kFloat);
  EXPECT_TRUE(is_equal(x, x.to(at::kBFloat16).to(at::kFloat)));
}

// Content of mean m and spread s, both known: x at noise level sigma is normal with variance
// (1 - sigma)^2 s^2 + sigma^2, the velocity is a conditional mean in closed form, and along the
// path (x - (1 - sigma) m) / spread(sigma) never changes. So noise z must arrive at m + s z.
constexpr double kMean = 0.7, kSpread = 0.6;

double variance_at(double sigma) {
  return (1 - sigma) * (1 - sigma) * kSpread * kSpread + sigma * sigma;
}

at::Tensor gaussian_velocity(const at::Tensor& x, const NoiseLevel& level, int64_t /*step*/) {
  const double sigma = level.sigma;
  const at::Tensor centred = x.to(at::kDouble) - (1 - sigma) * kMean;
  const double slope = (sigma - (1 - sigma) * kSpread * kSpread) / variance_at(sigma);
  return (centred * slope - kMean).to(at::kFloat);  // E[noise | x] - E[x0 | x]
}

template <class Sampler>
double error_on_gaussian(const Sampler& sampler, const std::vector<NoiseLevel>& levels) {
  const at::Tensor z = philox_noise(11, kShape)->initial();
  const double sigma = levels[0].sigma;
  const at::Tensor start =
      z * std::sqrt(variance_at(sigma)) + static_cast<float>((1 - sigma) * kMean);
  const at::Tensor x = sampler(start, levels);
  return at::abs(x - (z * kSpread + kMean)).max().template item<double>();
}

TEST(Unipc, ConvergesInSecondOrderOnAGaussian) {
  const auto error = [](int64_t steps) {
    return error_on_gaussian(
        [](const at::Tensor& x, const std::vector<NoiseLevel>& levels) {
          return sample_unipc(x, levels, gaussian_velocity, {});
        },
        unipc_levels(steps, 1.0, SigmaSchedule::kWan));
  };
  const double coarse = error(20), fine = error(80);
  EXPECT_LT(fine, coarse / 12.0);  // 16 in the limit
}

TEST(Euler, ConvergesInFirstOrderOnAGaussian) {
  const auto error = [](int64_t steps) {
    return error_on_gaussian(
        [](const at::Tensor& x, const std::vector<NoiseLevel>& levels) {
          return sample_euler(x, levels, gaussian_velocity, {});
        },
        euler_levels(steps, 1.0));
  };
  const double coarse = error(20), fine = error(80);
  EXPECT_LT(fine, coarse / 3.5);  // 4 in the limit
}

// --- the path ------------------------------------------------------------------------------------

TEST(Flow, PredictionUndoesNoising) {
  const at::Tensor x0 = golden_tensor("flow", "x0", {1, 3, 4, 4, 6});
  const at::Tensor noise = golden_tensor("flow", "noise", {1, 3, 4, 4, 6});
  for (const double sigma : {0.0, 0.25, 0.7567567229, 1.0}) {
    const at::Tensor x = add_noise(x0, noise, sigma);
    EXPECT_EQ(x.scalar_type(), at::kFloat);
    const at::Tensor back = predict_x0(x, noise.to(at::kDouble) - x0.to(at::kDouble), sigma);
    EXPECT_EQ(back.scalar_type(), at::kDouble);
    EXPECT_TRUE(is_close(back, x0, kTight));
  }
}

}  // namespace
}  // namespace fastwan::diffusion
