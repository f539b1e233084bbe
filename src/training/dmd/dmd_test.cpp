#include "training/dmd/dmd.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/sqrt.h>
#include <ATen/ops/square.h>
#include <ATen/ops/tanh.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "diffusion/sample_noise.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::training::dmd {
namespace {

using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;
using testing::relative_l2;

constexpr std::array kSteps = {1000.0, 757.0, 522.0};

at::Tensor wide(const char* name, at::IntArrayRef shape) {
  return golden_tensor("dmd", name, shape).to(at::kDouble);
}

std::vector<int64_t> slots_from(int64_t first, std::size_t count) {
  std::vector<int64_t> slots(count);
  std::iota(slots.begin(), slots.end(), first);
  return slots;
}

// A network of one matrix: velocity tanh(x W) + t/1000 + mean of the text, x [B, 4].
struct Toy {
  explicit Toy(const char* name) : weight(wide(name, {4, 4})) { weight.set_requires_grad(true); }
  Velocity velocity() const {
    return [w = weight](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor& text) {
      return at::tanh(x.matmul(w)) + 0.001 * timestep.unsqueeze(1) +
             text.mean(at::IntArrayRef{1, 2}).unsqueeze(1);
    };
  }
  at::Tensor weight;
};

at::Tensor toy_text(int64_t B) {
  return wide("text", {B, 3, 2});
}

// --- laws

TEST(DmdScoreLaw, MassesAtTheClampsOfAllThousandDraws) {
  // The published table: shares of 0..999 above 980 and below 20, mean and median after the clamp.
  struct Row {
    double shift;
    int64_t above, below;
    double mean, median;
  };
  for (const Row& row : {Row{1, 19, 20, 499.520, 499.5}, Row{3, 57, 7, 675.0436, 749.6246},
                         Row{5, 92, 5, 745.6611, 833.0552}, Row{8, 140, 3, 801.4373, 888.6911},
                         Row{12, 196, 2, 841.9118, 922.9347}}) {
    const ScoreLaw law{.shift = row.shift}, open{.shift = row.shift, .lowest = 0, .highest = 1000};
    std::vector<double> values;
    int64_t above = 0, below = 0;
    for (int64_t u = 0; u < 1000; ++u) {
      values.push_back(score_timestep(u, law));
      above += score_timestep(u, open) > 980 ? 1 : 0;
      below += score_timestep(u, open) < 20 ? 1 : 0;
      EXPECT_GE(values.back(), 20);
      EXPECT_LE(values.back(), 980);
    }
    EXPECT_EQ(above, row.above) << row.shift;
    EXPECT_EQ(below, row.below) << row.shift;
    EXPECT_NEAR(std::accumulate(values.begin(), values.end(), 0.0) / 1000, row.mean, 1e-3);
    EXPECT_NEAR((values[499] + values[500]) / 2, row.median, 1e-3);  // the law rises
    EXPECT_TRUE(std::is_sorted(values.begin(), values.end()));
  }
}

TEST(DmdScoreLaw, DrawsAreTheLawOfAUniformInteger) {
  const std::vector<int64_t> slots = slots_from(0, 20000);
  const ScoreLaw law{.shift = 5};
  const at::Tensor sigma =
      draw_score_sigma(law, {.seed = 2, .stream = Stream::kFakeTimestep, .step = 7}, slots);
  // Standard deviation of the law is below 260, so that of the mean of 20,000 is below 1.84.
  EXPECT_NEAR(1000 * sigma.mean().item<double>(), 745.661, 4 * 1.84);
  EXPECT_NEAR(sigma.eq(0.98).to(at::kDouble).mean().item<double>(), 0.092,
              4 * std::sqrt(0.092 * 0.908 / 20000));
}

TEST(DmdSteps, WarpedListsAreThePublishedOnes) {
  const std::array list = {1000.0, 750.0, 500.0, 250.0};
  const std::vector<double> five = warped(list, 5), eight = warped(list, 8);
  const std::array want_five = {1000.0, 937.5, 833.333, 625.0},
                   want_eight = {1000.0, 960.0, 888.889, 727.273};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(five[i], want_five[i], 1e-3);
    EXPECT_NEAR(eight[i], want_eight[i], 1e-3);
  }
}

std::map<int64_t, int64_t> counts_of(const std::vector<int64_t>& steps) {
  std::map<int64_t, int64_t> counts;
  for (const int64_t k : steps) {
    ++counts[k];
  }
  return counts;
}

TEST(DmdSteps, StratifiedDrawsAre22And21And21OfEach64AndChangeWithStepAndBlock) {
  const StepLaw law{.num_steps = 3, .block = 64};
  const DrawKey key{.seed = 5, .stream = Stream::kStudentRollout, .step = 3};
  const std::vector<int64_t> two = draw_steps(law, key, slots_from(0, 128));
  const std::vector<int64_t> first(two.begin(), two.begin() + 64),
      second(two.begin() + 64, two.end());
  const std::map<int64_t, int64_t> want{{0, 22}, {1, 21}, {2, 21}};
  EXPECT_EQ(counts_of(first), want);
  EXPECT_EQ(counts_of(second), want);
  EXPECT_NE(first, second);
  DrawKey later = key;
  later.step = 4;
  EXPECT_NE(draw_steps(law, later, slots_from(0, 64)), first);
  // However the slots are split over micro-batches and ranks.
  EXPECT_EQ(draw_steps(law, key, slots_from(16, 16)),
            std::vector<int64_t>(two.begin() + 16, two.begin() + 32));
}

TEST(DmdSteps, SharedDrawsAgreeWithinTheirSlotsAndIndependentOnesAreUniform) {
  const DrawKey key{.seed = 5, .stream = Stream::kFakeRollout, .step = 3};
  const std::vector<int64_t> all =
      draw_steps({.num_steps = 3, .shared_slots = 0}, key, slots_from(0, 200));
  EXPECT_EQ(counts_of(all).size(), 1U);
  const std::vector<int64_t> fours =
      draw_steps({.num_steps = 3, .shared_slots = 4}, key, slots_from(0, 200));
  for (std::size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(fours[i], fours[i - i % 4]);
  }
  EXPECT_EQ(counts_of(fours).size(), 3U);
  for (const auto& [k, count] : counts_of(draw_steps({.num_steps = 3}, key, slots_from(0, 9000)))) {
    EXPECT_NEAR(static_cast<double>(count), 3000, 4 * std::sqrt(9000 * 2.0 / 9)) << k;
  }
}

// --- the student's sample

const SampleKey kKey{.seed = 11, .step = 6, .streams = student_streams()};

TEST(DmdStudent, DataModeNoisesContentToItsStepAndAtThousandSeesNoContent) {
  const at::Tensor x0 = wide("content", {3, 4});
  const std::vector<int64_t> slots = {0, 1, 2}, steps = {0, 1, 2};
  const StudentInput in = noised_data(x0, kSteps, steps, kKey, slots);
  const at::Tensor noise =
      diffusion::noise_like(x0, {.seed = 11, .stream = Stream::kStudentStart, .step = 6}, slots);
  EXPECT_TRUE(is_equal(in.x[0], noise[0]));
  EXPECT_TRUE(is_close(in.x[2], 0.478 * x0[2] + 0.522 * noise[2], {1e-14, 1e-14}));
  EXPECT_TRUE(is_equal(in.sigma, as_sigma(std::vector<double>{1.0, 0.757, 0.522})));
}

// By hand: what a sample sees after k own steps, with noise of its slot and transition.
TEST(DmdStudent, SimulateModeIsTheSamplersOwnPathUpToEachSamplesStep) {
  const Toy toy("student");
  const at::Tensor text = toy_text(3), like = at::zeros({3, 4}, at::kDouble);
  const std::vector<int64_t> slots = {8, 9, 10}, steps = {0, 2, 1};
  const StudentInput in = rolled_out(toy.velocity(), like, text, kSteps, steps, kKey, slots);
  const at::NoGradGuard no_grad;
  for (int64_t b = 0; b < 3; ++b) {
    const std::vector<int64_t> slot = {slots[static_cast<std::size_t>(b)]};
    const at::Tensor one = like.narrow(0, b, 1), words = text.narrow(0, b, 1);
    at::Tensor x =
        diffusion::noise_like(one, {.seed = 11, .stream = Stream::kStudentStart, .step = 6}, slot);
    for (int64_t i = 0; i < steps[static_cast<std::size_t>(b)]; ++i) {
      const double sigma = kSteps[static_cast<std::size_t>(i)] / 1000;
      const double next = kSteps[static_cast<std::size_t>(i) + 1] / 1000;
      const at::Tensor x0 =
          x - sigma * toy.velocity()(x, at::full({1}, 1000 * sigma, at::kDouble), words);
      const at::Tensor fresh = diffusion::noise_like(
          one, {.seed = 11, .stream = Stream::kStudentRenoise, .step = 6, .draw = i + 1}, slot);
      x = (1 - next) * x0 + next * fresh;
    }
    EXPECT_TRUE(is_close(in.x.narrow(0, b, 1), x, {1e-14, 1e-14})) << b;
  }
}

TEST(DmdStudent, ARolloutRunsOnlyTheStepsAndSamplesThatAreNeeded) {
  std::vector<int64_t> batch_sizes;
  const Velocity counted = [&](const at::Tensor& x, const at::Tensor&, const at::Tensor&) {
    batch_sizes.push_back(x.size(0));
    EXPECT_FALSE(at::GradMode::is_enabled());
    return x;
  };
  const at::Tensor like = at::zeros({4, 4}), text = at::zeros({4, 3, 2});
  const std::vector<int64_t> slots = slots_from(0, 4);
  rolled_out(counted, like, text, kSteps, std::vector<int64_t>{0, 2, 1, 2}, kKey, slots);
  EXPECT_EQ(batch_sizes, (std::vector<int64_t>{3, 2}));
  batch_sizes.clear();
  rolled_out(counted, like, text, kSteps, std::vector<int64_t>{0, 0, 0, 0}, kKey, slots);
  EXPECT_TRUE(batch_sizes.empty());
}

// --- gradient and losses

TEST(DmdGradient, OfTheSurrogateIsTheScoreDifferenceOverTheNumberOfElements) {
  Toy toy("student");
  const at::Tensor x = wide("x", {5, 4}), g = wide("g", {5, 4}), text = toy_text(5);
  const StudentInput in{.x = x, .sigma = as_sigma(std::vector<double>(5, 0.757))};
  at::Tensor sample = student_sample(toy.velocity(), in, text);
  sample.retain_grad();
  const at::Tensor loss = surrogate_loss(sample, g);
  EXPECT_NEAR(loss.item<double>(), 0.5 * at::square(g).mean().item<double>(), 1e-14);
  loss.backward();
  EXPECT_LE(at::abs(sample.grad() - g / 20.0).max().item<double>(), 1e-15);
  const at::Tensor by_loss = toy.weight.grad().clone();

  toy.weight.mutable_grad() = at::Tensor();
  student_sample(toy.velocity(), in, text).backward(g / 20.0);
  EXPECT_TRUE(is_close(by_loss, toy.weight.grad(), {1e-13, 1e-13}));
}

// phi(theta) = <sg(g), x^(theta)> / numel along 64 directions, central differences.
TEST(DmdGradient, ReachesTheStudentAsFiniteDifferencesSayAndNeitherScoresNorRollout) {
  Toy student("student"), fake("fake"), real("real");
  const at::Tensor text = toy_text(6), like = at::zeros({6, 4}, at::kDouble);
  const std::vector<int64_t> slots = slots_from(0, 6), steps = {0, 1, 2, 0, 1, 2};
  const StudentInput in = rolled_out(student.velocity(), like, text, kSteps, steps, kKey, slots);
  EXPECT_FALSE(in.x.requires_grad()) << "steps before k carry no gradient";
  const at::Tensor sample = student_sample(student.velocity(), in, text);
  const at::Tensor sigma = as_sigma(std::vector<double>{0.1, 0.2, 0.4, 0.6, 0.8, 0.98});
  const at::Tensor noisy = noised(sample.detach(), wide("eps", {6, 4}), sigma);
  const Scores scores = score({.fake = fake.velocity(),
                               .real = real.velocity(),
                               .unconditional = wide("none", {6, 3, 2}),
                               .guidance_scale = 3.5},
                              noisy, sigma, text);
  const at::Tensor g = student_gradient(sample, scores).g;
  EXPECT_FALSE(g.requires_grad());
  sample.backward(g / static_cast<double>(g.numel()));
  EXPECT_FALSE(fake.weight.grad().defined());
  EXPECT_FALSE(real.weight.grad().defined());

  const at::NoGradGuard no_grad;
  const auto phi = [&](const at::Tensor& weight) {
    Toy moved("student");
    moved.weight.copy_(weight);
    return (g * student_sample(moved.velocity(), in, text)).mean().item<double>();
  };
  const at::Tensor theta = student.weight.detach().clone();
  double worst = 0;
  for (int i = 0; i < 64; ++i) {
    at::Tensor direction = wide(("direction" + std::to_string(i)).c_str(), {4, 4});
    direction = direction / direction.norm();
    constexpr double h = 1e-6;
    const double slope = (phi(theta + h * direction) - phi(theta - h * direction)) / (2 * h);
    const double want = (student.weight.grad() * direction).sum().item<double>();
    worst = std::max(worst, std::abs(slope - want));
  }
  // Relative to the gradient's size: a single slope may be small by chance.
  EXPECT_LE(worst, 1e-6 * student.weight.grad().norm().item<double>());
}

TEST(DmdGradient, IsInUnitsOfEachSamplesOwnDistanceAndABatchIsTheMeanOfItsSamples) {
  const at::Tensor sample = wide("sample", {4, 2, 1, 3, 3}), fake = wide("fake", {4, 2, 1, 3, 3}),
                   real = wide("real", {4, 2, 1, 3, 3}) * wide("scale", {4, 1, 1, 1, 1});
  const StudentGradient all = student_gradient(sample, {.x_fake = fake, .x_real = real});
  const double loss = surrogate_loss(sample, all.g).item<double>();
  double sum = 0;
  for (int64_t b = 0; b < 4; ++b) {
    const auto one = [b](const at::Tensor& x) { return x.narrow(0, b, 1); };
    const StudentGradient alone =
        student_gradient(one(sample), {.x_fake = one(fake), .x_real = one(real)});
    // One number for a batch of one: FastVideo's normaliser.
    const double d = at::abs(one(sample) - one(real)).mean().item<double>();
    EXPECT_NEAR(alone.distance.item<double>(), d, 1e-15);
    EXPECT_TRUE(is_close(alone.g, (one(fake) - one(real)) / d, {1e-14, 1e-14}));
    EXPECT_TRUE(is_close(one(all.g), alone.g, {1e-14, 1e-14}));
    sum += surrogate_loss(one(sample), alone.g).item<double>();
  }
  EXPECT_NEAR(loss, sum / 4, 1e-12);
  const at::Tensor of_batch = (fake - real) / at::abs(sample - real).mean();
  EXPECT_GT(relative_l2(all.g, of_batch), 1e-2) << "a scalar for the batch is another gradient";
}

TEST(DmdGradient, VanishesExactlyWhereTheNetworksAndTextsAgree) {
  const Toy net("student");
  const at::Tensor x = wide("x", {5, 4}), text = toy_text(5);
  const at::Tensor sigma = as_sigma(std::vector<double>{0.02, 0.2, 0.5, 0.7, 0.98});
  const at::Tensor noisy = noised(x, wide("eps", {5, 4}), sigma);
  ScoreNetworks networks{
      .fake = net.velocity(), .real = net.velocity(), .unconditional = text, .guidance_scale = 4.5};
  for (const bool joins : {false, true}) {
    networks.joins_guidance = joins;
    const at::Tensor g = student_gradient(x, score(networks, noisy, sigma, text)).g;
    EXPECT_TRUE(is_equal(g, at::zeros_like(g))) << joins;
  }
  networks.unconditional = wide("none", {5, 3, 2});
  EXPECT_GT(
      at::abs(student_gradient(x, score(networks, noisy, sigma, text)).g).max().item<double>(),
      1e-3);
}

TEST(DmdGradient, StandardScaleIsCausVidsWeightPlusOneAndJoinedCallsEqualTwo) {
  const at::Tensor c = wide("c", {5, 4}), u = wide("u", {5, 4});
  EXPECT_TRUE(is_close(guided(c, u, 4.5), c + 3.5 * (c - u), {1e-14, 1e-14}));
  EXPECT_TRUE(is_close(guided(c, u, 1.0), c, {1e-15, 1e-15}));
  const Toy net("real");
  const at::Tensor sigma = as_sigma(std::vector<double>(5, 0.4));
  ScoreNetworks networks{.fake = net.velocity(),
                         .real = net.velocity(),
                         .unconditional = wide("none", {5, 3, 2}),
                         .guidance_scale = 4.5};
  const at::Tensor joined = score(networks, c, sigma, toy_text(5)).x_real;
  networks.joins_guidance = false;
  EXPECT_TRUE(is_close(score(networks, c, sigma, toy_text(5)).x_real, joined, {1e-14, 1e-14}));
  networks.guidance_scale = 1.0;
  networks.unconditional = at::Tensor();
  const Scores plain = score(networks, c, sigma, toy_text(5));
  EXPECT_TRUE(is_equal(plain.x_real, plain.x_fake));
}

TEST(DmdGradient, IsGuidedAtTheLevelsOfTheIntervalAlone) {
  const at::Tensor x = wide("x", {5, 4}), text = toy_text(5), none = wide("none", {5, 3, 2});
  const at::Tensor sigma = as_sigma(std::vector<double>{0.1, 0.25, 0.5, 0.75, 0.9});
  const Toy net("real");
  const auto x_real = [&](double scale, const GuidanceInterval& interval, bool joins) {
    return score({.fake = net.velocity(),
                  .real = net.velocity(),
                  .unconditional = none,
                  .guidance_scale = scale,
                  .guidance_interval = interval,
                  .joins_guidance = joins},
                 x, sigma, text)
        .x_real;
  };
  for (const bool joins : {false, true}) {
    const at::Tensor some = x_real(4.5, {.lowest = 0.25, .highest = 0.75}, joins),
                     all = x_real(4.5, {}, joins), off = x_real(1, {}, joins);
    const std::vector<bool> is_guided = {false, true, true, true, false};
    for (int64_t b = 0; b < 5; ++b) {
      const bool guides = is_guided[static_cast<std::size_t>(b)];
      EXPECT_TRUE(is_close(some[b], (guides ? all : off)[b], {1e-14, 1e-14})) << b << joins;
      EXPECT_GT(at::abs(all[b] - off[b]).max().item<double>(), 1e-3) << b;
    }
  }
}

TEST(DmdCritic, LossSendsNoGradientToTheSampleAndIsZeroForTheTrueVelocity) {
  at::Tensor sample = wide("sample", {3, 4});
  sample.set_requires_grad(true);
  const at::Tensor noise = wide("eps", {3, 4});
  at::Tensor velocity = (noise - sample).detach();
  EXPECT_TRUE(is_equal(critic_loss(velocity, sample, noise), at::zeros({3}, at::kDouble)));
  velocity = (velocity + 0.5).set_requires_grad(true);
  const at::Tensor loss = critic_loss(velocity, sample, noise).mean();
  EXPECT_NEAR(loss.item<double>(), 0.25, 1e-14);
  loss.backward();
  EXPECT_FALSE(sample.grad().defined());
  EXPECT_TRUE(is_close(velocity.grad(), at::full({3, 4}, 2 * 0.5 / 12, at::kDouble), {1, 1e-14}));
}

TEST(DmdGradient, CountsWhatIsNotFiniteBySample) {
  const at::Tensor g = at::zeros({3, 2, 2});
  g[1][0][0].fill_(std::numeric_limits<double>::quiet_NaN());
  g[1][1][1].fill_(std::numeric_limits<double>::infinity());
  const at::Tensor counts = count_non_finite(g);
  EXPECT_EQ(counts[0].item<int64_t>(), 0);
  EXPECT_EQ(counts[1].item<int64_t>(), 2);
  EXPECT_EQ(counts[2].item<int64_t>(), 0);
}

// --- Gaussians in closed form: content N(m, s^2) has the velocity (x - E[x0 | x]) / sigma

struct Gaussian {
  double mean, std;
  Velocity velocity() const {
    return [*this](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor&) {
      const at::Tensor sigma = per_sample(timestep / 1000, x), keep = 1 - sigma;
      const at::Tensor variance = keep * keep * (std * std) + sigma * sigma;
      return (x - (mean + keep * (std * std) / variance * (x - keep * mean))) / sigma;
    };
  }
};
constexpr Gaussian kReal{.mean = 0.5, .std = 0.8}, kFake{.mean = -0.25, .std = 1.2};

Scores gaussian_scores(const at::Tensor& noisy, double sigma, const Gaussian& fake) {
  return score({.fake = fake.velocity(), .real = kReal.velocity(), .guidance_scale = 1.0}, noisy,
               as_sigma(std::vector<double>(static_cast<std::size_t>(noisy.size(0)), sigma)),
               at::zeros({noisy.size(0), 1, 1}, at::kDouble));
}

TEST(DmdGaussian, ScoresAreTheClosedForm) {
  const at::Tensor x = as_sigma(std::vector<double>{0.3, -1.0}).unsqueeze(1);
  const Scores scores = gaussian_scores(x, 0.5, kFake);
  EXPECT_NEAR(scores.x_real[0].item<double>(), 0.539024, 1e-6);
  EXPECT_NEAR(scores.x_fake[0].item<double>(), 0.251639, 1e-6);
  EXPECT_NEAR((scores.x_fake - scores.x_real)[0].item<double>(), -0.287385, 1e-6);
  EXPECT_NEAR(scores.x_real[1].item<double>(), -0.475610, 1e-6);
  EXPECT_NEAR(scores.x_fake[1].item<double>(), -1.282787, 1e-6);
  const at::Tensor v = kReal.velocity()(x, at::full({2}, 500.0, at::kDouble), {});
  EXPECT_NEAR(v[0].item<double>(), -0.478049, 1e-6);
}

// Expectation of x_F - x_R moves the student's mean towards the data's; its covariance with x^
// contracts the student that is too wide. Both vanish for the student that equals the data.
TEST(DmdGaussian, SampledGradientHasTheExpectedMeanAndCovariance) {
  constexpr std::size_t kCount = 200000;
  const std::vector<int64_t> slots = slots_from(0, kCount);
  const at::Tensor like = at::zeros({static_cast<int64_t>(kCount), 1}, at::kDouble);
  const at::Tensor unit = diffusion::noise_like(like, {.seed = 1, .step = 1}, slots);
  const at::Tensor eps = diffusion::noise_like(like, {.seed = 1, .step = 2}, slots);
  struct Row {
    double sigma, mean, covariance;
  };
  const auto within = [](const at::Tensor& terms, double want) {
    const double error = terms.std().item<double>() / std::sqrt(static_cast<double>(kCount));
    EXPECT_NEAR(terms.mean().item<double>(), want, 4 * error + 1e-12);
  };
  for (const Row& row : {Row{0.25, -0.110947, 0.109866}, Row{0.5, -0.457317, 0.287885},
                         Row{0.75, -0.700207, 0.103019}}) {
    for (const bool agrees : {false, true}) {
      const Gaussian student = agrees ? kReal : kFake;
      const at::Tensor sample = student.mean + student.std * unit;
      const at::Tensor noisy =
          noised(sample, eps, as_sigma(std::vector<double>(kCount, row.sigma)));
      const Scores scores = gaussian_scores(noisy, row.sigma, student);
      const at::Tensor difference = scores.x_fake - scores.x_real;
      within(difference, agrees ? 0.0 : row.mean);
      within(difference * (sample - student.mean), agrees ? 0.0 : row.covariance);
    }
  }
}

}  // namespace
}  // namespace fastwan::training::dmd
