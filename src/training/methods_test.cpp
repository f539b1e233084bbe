// The method classes around real networks: what they update, what they leave alone, and that a
// batch is the sum of its parts.
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <set>
#include <string>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/abs.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "support/compare.h"
#include "support/golden.h"
#include "support/tiny_wan.h"
#include "training/attribute_methods.h"
#include "training/clip.h"
#include "training/dmd/distill.h"
#include "training/finetune.h"
#include "training/lora.h"
#include "training/ode_regression.h"
#include "training/optimizer.h"
#include "training/vae_method.h"

namespace fastwan::training {
namespace {

using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;
using testing::relative_l2;

std::shared_ptr<Network> tiny(std::shared_ptr<const ops::Attention> attention,
                              const std::string& weights,
                              bool trains = true) {
  auto model = testing::tiny_wan(std::move(attention), at::kDouble, /*num_layers=*/2);
  testing::fill_golden_weights(*model, weights);
  return std::make_shared<Network>(model, NetworkOptions{.is_trainable = trains},
                                   distributed::one_process());
}

MicroBatch batch_of(int64_t B) {
  MicroBatch batch{.latents = golden_tensor("methods", "latents", {B, 4, 5, 8, 10}),
                   .text = golden_tensor("methods", "text", {B, 5, 10}).to(at::kDouble)};
  for (int64_t i = 0; i < B; ++i) {
    batch.slots.push_back(32 + i);
  }
  return batch;
}

MicroBatch part_of(const MicroBatch& batch, int64_t first, int64_t count) {
  const auto part = [first, count](const at::Tensor& whole) {
    return whole.defined() ? whole.narrow(0, first, count) : at::Tensor();
  };
  return {.latents = part(batch.latents),
          .trajectory = part(batch.trajectory),
          .trajectory_timesteps = part(batch.trajectory_timesteps),
          .text = batch.text.narrow(0, first, count),
          .slots = {batch.slots.begin() + first, batch.slots.begin() + first + count}};
}

at::Tensor none() {
  return golden_tensor("methods", "none", {2, 10}).to(at::kDouble);
}

at::Tensor flat_gradient(const Units& units) {
  std::vector<at::Tensor> all;
  for (int64_t i = 0; i < units.count(); ++i) {
    all.push_back(units.gradient(i));
  }
  return at::cat(all).clone();
}

struct Distillation {
  explicit Distillation(dmd::DistillOptions options)
      : student(tiny(testing::sparse(0.5), "methods/student")),
        critic(tiny(testing::dense(), "methods/critic")),
        teacher(tiny(testing::dense(), "methods/teacher", /*trains=*/false)) {
    options.state = at::kDouble;
    options.unconditional = none();
    options.ramp = {.sparsity = 0.5, .rate = 0};
    method = std::make_unique<dmd::Distill>(
        dmd::DistillRoles{.student = sparse_role_of(student, ops::TopkRule::kPadded),
                          .critic = role_of(critic),
                          .teacher = role_of(teacher).velocity},
        options);
  }
  Units& units(const std::string& name) { return *method->networks().at(name).units; }

  std::shared_ptr<Network> student, critic, teacher;
  std::unique_ptr<dmd::Distill> method;
};

// Of `network` after calls of accumulate for the parts of a batch of four.
at::Tensor gradient_over(Method& method,
                         const std::string& network,
                         const std::vector<MicroBatch>& parts) {
  Units& units = *method.networks().at(network).units;
  units.zero_gradients();
  for (const MicroBatch& part : parts) {
    method.accumulate(network, /*step=*/10, part, 1.0 / static_cast<double>(parts.size()));
  }
  return flat_gradient(units);
}

void expect_parts_add_up(Method& method,
                         const std::string& network,
                         const MicroBatch& batch = batch_of(4)) {
  const MicroBatch first = part_of(batch, 0, 2), second = part_of(batch, 2, 2);
  const at::Tensor whole = gradient_over(method, network, {batch});
  EXPECT_LE(relative_l2(gradient_over(method, network, {first, second}), whole), 1e-12) << network;
  // Negative control: one batch twice is another gradient.
  EXPECT_GT(relative_l2(gradient_over(method, network, {first, first}), whole), 1e-3) << network;
}

TEST(Finetune, DistinctMicroBatchesAddUpToTheLargeBatch) {
  Finetune method(role_of(tiny(testing::dense(), "methods/student")),
                  {.caption_dropout = 0.5, .unconditional = none(), .state = at::kDouble});
  expect_parts_add_up(method, Finetune::kStudent);
}

TEST(Distill, DistinctMicroBatchesAddUpToTheLargeBatchForBothNetworks) {
  Distillation simulate({.rollout = dmd::Rollout::kSimulate, .steps = {.block = 4}});
  expect_parts_add_up(*simulate.method, dmd::Distill::kStudent);
  Distillation data({});
  expect_parts_add_up(*data.method, dmd::Distill::kCritic);
}

// The gradient of a method's own loss metric by all weights that train, along random directions d
// of length 1: <g, d> against the central difference, in units of |g|. Its rounding is about
// 2^-53 |loss| / step, its truncation step^2; 1e-6 leaves an order for both.
void expect_finite_differences(Method& method,
                               const std::string& network,
                               const std::string& metric,
                               int64_t step,
                               const MicroBatch& batch = batch_of(2)) {
  constexpr double kStep = 1e-6, kAllowed = 1e-6;
  Units& units = *method.networks().at(network).units;
  units.zero_gradients();
  method.accumulate(network, step, batch, 1.0);
  std::vector<at::Tensor> gradients;
  double norm = 0;
  for (int64_t i = 0; i < units.count(); ++i) {
    gradients.push_back(units.gradient(i).clone());
    norm = std::hypot(norm, gradients.back().norm().item<double>());
  }
  ASSERT_GT(norm, 0);
  double slope = 0, expected = 0;
  at::set_num_threads(1);  // tensors are too small for more
  for (const char* name : {"a", "b"}) {
    std::vector<at::Tensor> direction;
    double length = 0;
    for (int64_t i = 0; i < units.count(); ++i) {
      direction.push_back(golden_tensor(str("methods/differences/", name), std::to_string(i),
                                        gradients[static_cast<std::size_t>(i)].sizes())
                              .to(at::kDouble));
      length = std::hypot(length, direction.back().norm().item<double>());
    }
    expected = 0;
    for (std::size_t i = 0; i < direction.size(); ++i) {
      direction[i] /= length;
      expected += (gradients[i] * direction[i]).sum().item<double>();
    }
    const auto loss_after = [&](double by) {
      for (std::size_t i = 0; i < direction.size(); ++i) {
        units.master(static_cast<int64_t>(i)).add_(direction[i], by);
      }
      return method.accumulate(network, step, batch, 1.0).at(metric);
    };
    const double above = loss_after(kStep), below = loss_after(-2 * kStep);
    loss_after(kStep);
    slope = (above - below) / (2 * kStep);
    EXPECT_NEAR(slope, expected, kAllowed * norm) << name;
  }
  // Negative control: with a thousandth of the gradient's length more it would not hold.
  EXPECT_GT(std::abs(slope - expected - 1e-3 * norm), kAllowed * norm);
}

TEST(Finetune, GradientIsThatOfFiniteDifferencesForBothTargetsAndForAdapters) {
  for (const FlowTarget target : {FlowTarget::kVelocity, FlowTarget::kContent}) {
    Finetune method(role_of(tiny(testing::dense(), "methods/student")),
                    {.target = target, .state = at::kDouble});
    expect_finite_differences(method, Finetune::kStudent, "train_loss", 3);
  }
  const LoraOptions lora{.rank = 3, .alpha = 6, .trains_gates = true, .seed = 4};
  auto model = testing::tiny_wan(testing::sparse(0.5), at::kDouble, /*num_layers=*/1);
  testing::fill_golden_weights(*model, "methods/student");
  add_lora(*model, lora);
  const auto network = std::make_shared<Network>(model, NetworkOptions{.trains = lora_trains(lora)},
                                                 distributed::one_process());
  for (int64_t i = 0; i < network->units().count();
       ++i) {  // B starts as zero: A would learn nothing
    const at::Tensor& master = network->units().master(i);
    master.add_(golden_tensor("methods/adapters", std::to_string(i), master.sizes()), 0.1);
  }
  Finetune adapters(sparse_role_of(network, ops::TopkRule::kPadded),
                    {.ramp = {.sparsity = 0.5, .rate = 0}, .state = at::kDouble});
  expect_finite_differences(adapters, Finetune::kStudent, "train_loss", 3);
}

TEST(Distill, CriticsGradientIsThatOfFiniteDifferences) {
  Distillation simulate({.rollout = dmd::Rollout::kSimulate});
  expect_finite_differences(*simulate.method, dmd::Distill::kCritic, "train_fake_score_loss", 3);
}

// --- ODE regression

// Three states and the end for each sample of batch_of(B), rows of unlike timesteps.
MicroBatch trajectories_of(int64_t B) {
  MicroBatch batch = batch_of(B);
  batch.latents = at::Tensor();
  batch.trajectory = golden_tensor("methods", "trajectory", {B, 4, 4, 5, 8, 10});
  std::vector<at::Tensor> timesteps;
  for (int64_t i = 0; i < B; ++i) {
    const auto lower = static_cast<double>(i);
    timesteps.push_back(at::tensor({999.75, 757.5 - lower, 522.25 - lower, 0.0}, at::kFloat));
  }
  batch.trajectory_timesteps = at::stack(timesteps);
  return batch;
}

OdeRegression sparse_regression(uint64_t seed = 1000) {
  return {sparse_role_of(tiny(testing::sparse(0.5), "methods/student"), ops::TopkRule::kPadded),
          {.seed = seed, .ramp = {.sparsity = 0.5, .rate = 0}, .state = at::kDouble}};
}

// v = a x + t: the prediction is x - (t / 1000) (a x + t).
TEST(OdeRegression, LossIsThatOfAPlainLoopOverTheDrawnStates) {
  constexpr double kSlope = 0.3;
  constexpr int64_t kB = 6;
  const MicroBatch batch = trajectories_of(kB);
  OdeRegression method(
      {.velocity =
           [](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor&) {
             return (x * kSlope + timestep.view({-1, 1, 1, 1, 1})).requires_grad_(true);
           }},
      {.seed = 7, .state = at::kDouble});
  std::set<int64_t> all_drawn;
  for (int64_t step = 1; step <= 3; ++step) {
    double sum = 0, others = 0, timesteps = 0;
    for (int64_t b = 0; b < kB; ++b) {
      // The draw as random numbers are documented (base/rng.h): one uniform of the slot's stream.
      const int64_t slot = batch.slots[static_cast<std::size_t>(b)];
      const auto k =
          static_cast<int64_t>(3 * Philox(7, Stream::kStudentRollout, step, slot).uniform(0));
      all_drawn.insert(k);
      const at::Tensor x = batch.trajectory[b][k].flatten().to(at::kDouble).contiguous();
      const at::Tensor end = batch.trajectory[b][3].flatten().to(at::kDouble).contiguous();
      const auto t = batch.trajectory_timesteps[b][k].item<double>();
      const auto n = static_cast<double>(x.numel());
      for (int64_t i = 0; i < x.numel(); ++i) {
        const double at_x = x.const_data_ptr<double>()[i];
        const double miss = at_x - t / 1000 * (kSlope * at_x + t) - end.const_data_ptr<double>()[i];
        sum += miss * miss / n;
        others += miss / n;
      }
      timesteps += t;
    }
    const Metrics metrics = method.accumulate("student", step, batch, 1.0);
    EXPECT_NEAR(metrics.at("train_loss"), sum / kB, 1e-9 * sum);
    EXPECT_NEAR(metrics.at("ode_timestep"), timesteps / kB, 1e-9);
    EXPECT_GT(std::abs(metrics.at("train_loss") - others / kB), 1e-3);
  }
  EXPECT_EQ(all_drawn, (std::set<int64_t>{0, 1, 2}));
}

TEST(OdeRegression, GradientIsThatOfFiniteDifferencesDenseAndSparse) {
  OdeRegression dense(role_of(tiny(testing::dense(), "methods/student")), {.state = at::kDouble});
  expect_finite_differences(dense, OdeRegression::kStudent, "train_loss", 3, trajectories_of(2));
  OdeRegression sparse = sparse_regression();
  expect_finite_differences(sparse, OdeRegression::kStudent, "train_loss", 3, trajectories_of(2));
}

TEST(OdeRegression, DistinctMicroBatchesAddUpToTheLargeBatch) {
  OdeRegression method = sparse_regression();
  expect_parts_add_up(method, OdeRegression::kStudent, trajectories_of(4));
}

TEST(OdeRegression, ANonFiniteLossStopsTheRunNamingTheSample) {
  MicroBatch batch = trajectories_of(2);
  batch.trajectory[1].fill_(std::numeric_limits<float>::quiet_NaN());
  OdeRegression method = sparse_regression();
  try {
    method.accumulate("student", 10, batch, 1.0);
    ADD_FAILURE() << "went on";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), Code::kNonFinite);
    EXPECT_NE(std::string(failure.what()).find("slot 33"), std::string::npos) << failure.what();
  }
}

// Paths from noise z straight to their ends m z + b, x = (1 - s) (m z + b) + s z. At each level the
// velocity that ends them, z - (m z + b), is linear in x: a x + c with z = (x - (1 - s) b) / (m + s
// (1 - m)). Descent on the method's gradient finds it for both levels.
TEST(OdeRegression, RecoversALinearMap) {
  constexpr double kMap = 0.5, kShift = 0.25;
  const std::vector<double> sigmas = {1.0, 0.5};
  const at::Tensor weights = at::zeros({2, 2}, at::kDouble).requires_grad_(true);  // level: a, c
  OdeRegression method(
      {.velocity =
           [&weights](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor&) {
             const at::Tensor of_level =
                 weights.index_select(0, timestep.lt(750.0).to(at::kLong));  // [b, 2]
             return of_level.select(1, 0).view({-1, 1, 1, 1, 1}) * x +
                    of_level.select(1, 1).view({-1, 1, 1, 1, 1});
           }},
      {.state = at::kDouble});
  for (int64_t step = 1; step <= 400; ++step) {
    MicroBatch batch{.slots = {0, 1, 2, 3, 4, 5, 6, 7}};
    const at::Tensor z = golden_tensor("methods/ode", std::to_string(step % 16), {8, 1, 1, 4, 4});
    const at::Tensor end = z * kMap + kShift;
    batch.trajectory = at::stack({z * sigmas[0], end * (1 - sigmas[1]) + z * sigmas[1], end},
                                 1);  // [8, 3, 1, 1, 4, 4]
    batch.trajectory_timesteps =
        at::tensor({1000 * sigmas[0], 1000 * sigmas[1], 0.0}, at::kDouble).expand({8, 3});
    method.accumulate("student", step, batch, 1.0);
    const at::NoGradGuard no_grad;
    weights.sub_(weights.grad(), 0.5);
    weights.mutable_grad().reset();
  }
  for (std::size_t k = 0; k < 2; ++k) {
    const double s = sigmas[k], of_z = kMap + s * (1 - kMap);
    const double a = (1 - kMap) / of_z;
    const double c = -kShift - a * (1 - s) * kShift;
    const auto row = static_cast<int64_t>(k);
    EXPECT_NEAR(weights[row][0].item<double>(), a, 1e-3) << s;
    EXPECT_NEAR(weights[row][1].item<double>(), c, 1e-3) << s;
  }
}

TEST(Distill, UpdatesTheStudentEveryIntervalBehindTheWarmupAndTheCriticAlways) {
  const Distillation d({.update_interval = 5, .critic_warmup = 7});
  const std::vector<std::string> both = {"student", "critic"}, critic = {"critic"};
  for (int64_t step = 1; step <= 30; ++step) {
    EXPECT_EQ(d.method->updates(step), step % 5 == 0 && step > 7 ? both : critic) << step;
  }
}

TEST(Distill, OnlyTheUpdatedNetworkHasAGradientAndNoWeightMoves) {
  Distillation d({.rollout = dmd::Rollout::kSimulate, .keeps_preview = true});
  const MicroBatch batch = batch_of(2);
  const auto weights = [](Units& units) {
    std::vector<at::Tensor> all;
    for (int64_t i = 0; i < units.count(); ++i) {
      all.push_back(units.master(i));
    }
    return at::cat(all).clone();
  };
  const at::Tensor teacher = weights(d.teacher->units()), critic = weights(d.critic->units());
  const Metrics student = d.method->accumulate("student", 10, batch, 1.0);
  EXPECT_GT(gradient_norm(d.units("student")), 0);
  EXPECT_EQ(gradient_norm(d.units("critic")), 0);
  EXPECT_TRUE(is_equal(weights(d.teacher->units()), teacher));
  EXPECT_TRUE(is_equal(weights(d.critic->units()), critic));
  EXPECT_EQ(d.method->preview().x_real.sizes(), batch.latents.sizes());
  for (const char* name : {"train_generator_loss", "generator_timestep", "dmd_timestep",
                           "dmd_distance", "dmd_gradient_norm", "dmd_cosine", "vsa_sparsity"}) {
    EXPECT_TRUE(student.contains(name)) << name;
  }
  EXPECT_EQ(student.at("vsa_sparsity"), 0.5);
  EXPECT_EQ(student.at("dmd_non_finite"), 0);

  d.units("student").zero_gradients();
  const Metrics metrics = d.method->accumulate("critic", 10, batch, 1.0);
  EXPECT_EQ(gradient_norm(d.units("student")), 0);
  EXPECT_GT(gradient_norm(d.units("critic")), 0);
  EXPECT_TRUE(metrics.contains("train_fake_score_loss"));
}

// At no sparsity and with gates of zero the student is the dense network; with one set of weights
// and one text for all roles the update is nothing, up to sums whose order follows the weights'
// place in memory (exactly nothing for one network in all roles: dmd_test.cpp).
TEST(Distill, HasNoGradientWhereStudentCriticAndTeacherAgree) {
  const auto student = tiny(testing::sparse(0.0), "methods/one");
  student->initialise([&] {
    for (auto& parameter : student->shared_model()->named_parameters()) {
      if (parameter.key().find("to_gate_compress") != std::string::npos) {
        const at::NoGradGuard no_grad;
        parameter.value().zero_();
      }
    }
  });
  const auto critic = tiny(testing::dense(), "methods/one");
  const auto teacher = tiny(testing::dense(), "methods/one", /*trains=*/false);
  MicroBatch batch = batch_of(2);
  batch.text = unconditional_rows(none(), batch.text).clone();
  {
    const at::NoGradGuard no_grad;
    const at::Tensor x = batch.latents.to(at::kDouble), t = at::tensor({300.0, 900.0}, at::kDouble);
    EXPECT_TRUE(is_close(student->velocity(x, t, batch.text), critic->velocity(x, t, batch.text),
                         {1e-12, 1e-12}));
  }
  dmd::Distill method({.student = sparse_role_of(student, ops::TopkRule::kPadded),
                       .critic = role_of(critic),
                       .teacher = role_of(teacher).velocity},
                      {.joins_guidance = false, .unconditional = none(), .state = at::kDouble});
  for (const int64_t step : {5, 10}) {
    const Metrics metrics = method.accumulate("student", step, batch, 1.0);
    EXPECT_LE(metrics.at("dmd_gradient_norm"), 1e-12);
    EXPECT_GT(metrics.at("dmd_distance"), 0);
  }
  EXPECT_LE(gradient_norm(student->units()), 1e-12);
}

TEST(Distill, ANonFiniteScoreStopsTheRunNamingTheSampleOrCountsAsZeroWhereAsked) {
  MicroBatch batch = batch_of(2);
  batch.text[1][0][0].fill_(std::numeric_limits<double>::quiet_NaN());
  Distillation stops({});
  try {
    stops.method->accumulate("student", 10, batch, 1.0);
    ADD_FAILURE() << "went on";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), Code::kNonFinite);
    EXPECT_NE(std::string(failure.what()).find("slot 33"), std::string::npos) << failure.what();
    EXPECT_NE(std::string(failure.what()).find("iteration 10"), std::string::npos);
  }
  EXPECT_THROW(stops.method->accumulate("critic", 10, batch, 1.0), Failure);
  Distillation zero({.non_finite = dmd::NonFinite::kZero});
  const Metrics metrics = zero.method->accumulate("student", 10, batch, 1.0);
  EXPECT_GT(metrics.at("dmd_non_finite"), 0);
  EXPECT_TRUE(std::isfinite(metrics.at("train_generator_loss")));
}

// gradient = gradient of the score difference + weight * gradient of the regression.
TEST(Distill, RegressionAddsItsWeightedGradientToTheStudentsAlone) {
  const MicroBatch batch = trajectories_of(4);
  const dmd::DistillOptions plain{.rollout = dmd::Rollout::kSimulate,
                                  .latent_shape = {4, 5, 8, 10}};
  dmd::DistillOptions weighed = plain;
  weighed.regression_weight = 0.25;
  Distillation without(plain), with(weighed);
  const at::Tensor difference = gradient_over(*without.method, dmd::Distill::kStudent, {batch});
  const at::Tensor both = gradient_over(*with.method, dmd::Distill::kStudent, {batch});

  Units& units = without.units(dmd::Distill::kStudent);
  units.zero_gradients();
  {
    const c10::AutoGradMode with_gradient(true);
    const TrajectoryDraw drawn = draw_states(
        batch, {.seed = plain.seed, .stream = Stream::kStudentRegression, .step = 10}, at::kDouble);
    const Role student = sparse_role_of(without.student, ops::TopkRule::kPadded);
    regression_loss(student.velocity, drawn, batch.text).mean().backward();
  }
  const at::Tensor regression = flat_gradient(units);
  EXPECT_LE(relative_l2(both, difference + 0.25 * regression), 1e-12);
  EXPECT_GT(relative_l2(both, difference), 1e-3) << "the regression weighs nothing";

  expect_parts_add_up(*with.method, dmd::Distill::kStudent, batch);
  EXPECT_TRUE(is_equal(gradient_over(*with.method, dmd::Distill::kCritic, {batch}),
                       gradient_over(*without.method, dmd::Distill::kCritic, {batch})));
  const Metrics metrics = with.method->accumulate(dmd::Distill::kStudent, 10, batch, 1.0);
  EXPECT_GT(metrics.at("train_regression_loss"), 0);
  EXPECT_GT(metrics.at("regression_timestep"), 500);
}

// Later steps, which settle details, are then left to the score difference alone.
TEST(Distill, RegressionOfTheFirstStepDrawsNoOtherState) {
  const MicroBatch batch = trajectories_of(4);
  Distillation method({.rollout = dmd::Rollout::kSimulate,
                       .regression_weight = 0.25,
                       .regression_steps = 1,
                       .latent_shape = {4, 5, 8, 10}});
  for (int64_t step = 10; step <= 40; step += 10) {
    const Metrics metrics = method.method->accumulate(dmd::Distill::kStudent, step, batch, 1.0);
    EXPECT_NEAR(metrics.at("regression_timestep"), 999.75, 1e-6);
  }
  const TrajectoryDraw two = draw_states(batch, {.seed = 1000, .step = 3}, at::kDouble, 2);
  EXPECT_GT(two.sigma.min().item<double>(), 0.7) << "the third state was drawn";
}

TEST(Distill, SettingsThatCannotWorkAreRefused) {
  const dmd::DistillRoles roles;
  EXPECT_THROW(dmd::Distill(roles, {.timesteps = {1000, 1000}, .unconditional = none()}),
               InvalidInput);
  EXPECT_THROW(dmd::Distill(roles, {.timesteps = {}, .unconditional = none()}), InvalidInput);
  EXPECT_THROW(dmd::Distill(roles, {.timesteps = {1001}, .unconditional = none()}), InvalidInput);
  EXPECT_THROW(dmd::Distill(roles, {.guidance_scale = 2}), InvalidInput);
  EXPECT_NO_THROW(dmd::Distill(roles, {.guidance_scale = 1}));
  EXPECT_THROW(Finetune({}, {.caption_dropout = 0.1}), InvalidInput);
  EXPECT_THROW(Finetune({}, {.boundary = 0.5}), InvalidInput);
}

// What a validation before the first iteration sees.
TEST(Methods, StartAtTheSparsityOfTheFirstIteration) {
  const SparsityRamp ramp{.sparsity = 0.8, .rate = 0.1, .interval = 10};
  std::vector<double> seen;
  const auto recording = [&seen](const std::shared_ptr<Network>& network) {
    Role role = role_of(network);
    role.set_sparsity = [&seen](double sparsity) { seen.push_back(sparsity); };
    return role;
  };
  const auto network = tiny(testing::sparse(0.5), "methods/student");
  const Finetune finetune(recording(network), {.caption_dropout = 0, .ramp = ramp});
  const OdeRegression ode(recording(network), {.ramp = ramp});
  const dmd::Distill distill({.student = recording(network),
                              .critic = role_of(network),
                              .teacher = role_of(network).velocity},
                             {.guidance_scale = 1.0, .ramp = ramp});
  EXPECT_EQ(seen, std::vector<double>(3, ramped_sparsity(ramp, 0)));
  EXPECT_LT(seen[0], 0.8);
}

TEST(Finetune, TwoExpertsTakeTurnsAndTheLowNoiseOneSeesLowNoise) {
  double highest = 0, lowest = 1000;
  const auto expert = [&](double& extreme, bool is_low) {
    return Role{.velocity = [&extreme, is_low](const at::Tensor& x, const at::Tensor& timestep,
                                               const at::Tensor&) {
      const auto value = (is_low ? timestep.max() : timestep.min()).item<double>();
      extreme = is_low ? std::max(extreme, value) : std::min(extreme, value);
      return (x * 1.0).requires_grad_(true);
    }};
  };
  Finetune method(expert(lowest, false), {.boundary = 0.875}, expert(highest, true));
  for (int64_t step = 1; step <= 60; ++step) {
    method.accumulate(method.updates(step)[0], step, batch_of(2), 1.0);
  }
  EXPECT_LE(highest, 875);
  EXPECT_GT(highest, 700);
  EXPECT_LT(lowest, 500) << "the other expert sees the whole range";
}

// --- the VAE

layout::WanVaeConfig small_vae() {
  return layout::read_wan_vae(testing::Golden("vae", "vae21").manifest().at("config"), "golden");
}

struct Vae {
  explicit Vae(at::ScalarType type)
      : vae(std::make_shared<models::WanVae>(small_vae(), models::VaeOptions{.dtype = type})) {
    testing::fill_golden_weights(*vae, "vae21");
    units = std::make_unique<Units>(*vae, one_unit(*vae), UnitsOptions{.compute = type},
                                    distributed::one_process());
    method = std::make_unique<TrainVae>(vae, *units, VaeMethodOptions{.kl_weight = 1e-3});
    batch.pixels = golden_tensor("methods", "video", {2, 3, 5, 16, 16}, 0.0, 0.4).to(type);
    batch.slots = {3, 4};
  }
  std::shared_ptr<models::WanVae> vae;
  std::unique_ptr<Units> units;
  std::unique_ptr<TrainVae> method;
  MicroBatch batch;
};

// Central differences along directions of all weights. L1 has kinks: a step of 1e-6 crosses none of
// the 7,680 with a probability near one, and one crossed changes the slope by less than 1e-3 of it.
TEST(TrainVae, GradientIsThatOfFiniteDifferences) {
  Vae v(at::kDouble);
  v.method->accumulate("student", 1, v.batch, 1.0);
  const at::Tensor gradient = v.units->gradient(0).clone(), start = v.units->master(0).clone();
  const auto loss_at = [&](const at::Tensor& weights) {
    v.units->master(0).copy_(weights);
    return v.method->accumulate("student", 1, v.batch, 1.0).at("train_loss");
  };
  for (const char* name : {"a", "b", "c"}) {
    const at::Tensor d = golden_tensor("methods", name, start.sizes()).to(at::kDouble);
    const at::Tensor direction = d / d.norm();
    constexpr double h = 1e-6;
    const double slope =
        (loss_at(start + h * direction) - loss_at(start - h * direction)) / (2 * h);
    EXPECT_NEAR(slope, (gradient * direction).sum().item<double>(),
                1e-5 * gradient.norm().item<double>());
  }
}

TEST(TrainVae, EveryWeightHasAGradientAndTheForwardIsInferences) {
  Vae v(at::kFloat);
  v.method->accumulate("student", 1, v.batch, 1.0);
  for (const UnitTensor& tensor : v.units->layout()[0].tensors) {
    const at::Tensor g = v.units->gradient(0).narrow(0, tensor.offset, tensor.numel);
    EXPECT_GT(g.norm().item<double>(), 0) << tensor.name;
  }
  const auto gathered = v.units->gather_all();
  const models::LatentPosterior posterior = v.vae->posterior(v.batch.pixels);
  const models::LatentPosterior inferred = v.vae->encode(v.batch.pixels);
  EXPECT_TRUE(posterior.mean.requires_grad());
  EXPECT_FALSE(inferred.mean.requires_grad());
  EXPECT_TRUE(is_close(posterior.mean.detach(), inferred.mean, testing::kModelFp32));
  EXPECT_TRUE(is_close(posterior.logvar.detach(), inferred.logvar, testing::kModelFp32));
  EXPECT_TRUE(is_close(v.vae->reconstruct(inferred.mean).detach().clamp(-1, 1),
                       v.vae->decode(inferred.mean), testing::kModelFp32));
}

TEST(TrainVae, LearnsAClip) {
  Vae v(at::kFloat);
  AdamW adamw(*v.units, {.weight_decay = 0});
  double first = 0, last = 0;
  for (int64_t step = 1; step <= 10; ++step) {
    const Metrics metrics = v.method->accumulate("student", step, v.batch, 1.0);
    last = metrics.at("vae_l1");
    first = step == 1 ? last : first;
    adamw.step(4e-3);
    v.units->zero_gradients();
  }
  EXPECT_LT(last, 0.85 * first);
}

TEST(TrainVae, WithoutItsEncoderTheDecoderGetsTheSameGradientAndTheEncoderNone) {
  Vae v(at::kDouble);
  v.method->accumulate("student", 1, v.batch, 1.0);
  const at::Tensor whole = v.units->gradient(0).clone();
  v.units->zero_gradients();
  TrainVae decoder(v.vae, *v.units, VaeMethodOptions{.kl_weight = 1e-3, .trains_encoder = false});
  decoder.accumulate("student", 1, v.batch, 1.0);
  for (const UnitTensor& tensor : v.units->layout()[0].tensors) {
    const bool encodes =
        tensor.name.starts_with("encoder.") || tensor.name.starts_with("quant_conv.");
    const at::Tensor got = v.units->gradient(0).narrow(0, tensor.offset, tensor.numel);
    const at::Tensor want = whole.narrow(0, tensor.offset, tensor.numel);
    EXPECT_TRUE(is_equal(got, encodes ? at::zeros_like(want) : want)) << tensor.name;
  }
}

TEST(TrainVae, DivergenceIsZeroForTheUnitGaussianAndLatentMomentsAreThoseOfAllAtOnce) {
  const at::Tensor zero = at::zeros({2, 4, 1, 3, 3}, at::kDouble);
  EXPECT_TRUE(is_equal(kl_divergence({.mean = zero, .logvar = zero}), at::zeros({2}, at::kDouble)));
  // One element of mean m and variance e^2 l: (m^2 + e^2l - 1 - 2l) / 2, and so the mean.
  const double m = 0.5, logvar = 0.3;
  const double want = 0.5 * (m * m + std::exp(logvar) - 1 - logvar);
  EXPECT_NEAR(kl_divergence({.mean = zero + m, .logvar = zero + logvar})[0].item<double>(), want,
              1e-12);
  LatentMoments moments;
  const at::Tensor z = golden_tensor("methods", "z", {6, 4, 2, 3, 3}, 0.7, 2.0).to(at::kDouble);
  const double variance = 0.25;
  for (const auto& [first, count] : {std::pair{0, 2}, std::pair{2, 4}}) {
    const at::Tensor mean = z.narrow(0, first, count);
    moments.add({.mean = mean, .logvar = at::full_like(mean, std::log(variance))});
  }
  const at::Tensor by_channel = z.transpose(0, 1).flatten(1);
  for (int64_t c = 0; c < 4; ++c) {
    EXPECT_NEAR(moments.mean()[static_cast<std::size_t>(c)], by_channel[c].mean().item<double>(),
                1e-12);
    const auto of_means = by_channel[c].std(/*unbiased=*/false).item<double>();
    EXPECT_NEAR(moments.std()[static_cast<std::size_t>(c)],
                std::hypot(of_means, std::sqrt(variance)), 1e-12);
  }
}

// --- attributes

const std::vector<Attribute> kAttributes = {{"colour", 3}, {"size", 2}};

struct Probe {
  Probe() {
    layout::Umt5Config config;
    config.vocab_size = 11;
    config.d_model = 16;
    config.d_kv = 8;
    config.d_ff = 24;
    config.num_layers = 2;
    config.num_heads = 2;
    probe = std::make_shared<TextProbe>(
        std::make_shared<models::Umt5>(config, at::kDouble,
                                       models::Umt5Options{.compute = at::kDouble}),
        kAttributes);
    testing::fill_golden_weights(*probe, "probe", config.d_kv);
    units = std::make_unique<Units>(*probe, one_unit(*probe), UnitsOptions{.compute = at::kDouble},
                                    distributed::one_process());
  }
  std::shared_ptr<TextProbe> probe;
  std::unique_ptr<Units> units;
};

// A word of colour, a word of size and a filler that is sometimes there.
std::vector<int64_t> tokens_of(const std::string& caption) {
  std::vector<int64_t> ids;
  for (const char letter : caption) {
    ids.push_back(letter - 'a');
  }
  return ids;
}
MicroBatch captions() {
  return {.slots = {0, 1, 2, 3, 4, 5},
          .labels = at::tensor({0, 0, 1, 0, 2, 1, 0, 1, 1, 1, 2, 0}, at::kLong).view({6, 2}),
          .captions = {"bgj", "chgj", "dij", "gbij", "cij", "dhgj"}};
}

TEST(TextProbe, CaptionsOfUnlikeLengthsAnswerAsTheyDoAlone) {
  const Probe p;
  const auto gathered = p.units->gather_all();
  std::vector<std::vector<int64_t>> ids;
  for (const std::string& caption : captions().captions) {
    ids.push_back(tokens_of(caption));
  }
  const std::vector<at::Tensor> together = p.probe->logits(ids);
  for (std::size_t i = 0; i < ids.size(); ++i) {
    const std::vector<at::Tensor> alone = p.probe->logits({ids[i]});
    for (std::size_t a = 0; a < kAttributes.size(); ++a) {
      EXPECT_TRUE(is_close(together[a][static_cast<int64_t>(i)].detach(), alone[a][0].detach(),
                           {1e-12, 1e-12}));
    }
  }
}

TEST(TrainAttributes, GradientIsThatOfFiniteDifferencesAndTheProbeLearnsItsCaptions) {
  Probe p;
  TrainAttributes method(logits_of(p.probe, tokens_of), kAttributes, *p.units);
  method.accumulate("student", 1, captions(), 1.0);
  const at::Tensor gradient = p.units->gradient(0).clone(), start = p.units->master(0).clone();
  const auto loss_at = [&](const at::Tensor& weights) {
    p.units->master(0).copy_(weights);
    return method.accumulate("student", 1, captions(), 1.0).at("train_loss");
  };
  for (const char* name : {"a", "b", "c", "d"}) {
    const at::Tensor d = golden_tensor("methods", name, start.sizes()).to(at::kDouble);
    const at::Tensor direction = d / d.norm();
    constexpr double h = 1e-6;
    const double slope =
        (loss_at(start + h * direction) - loss_at(start - h * direction)) / (2 * h);
    EXPECT_NEAR(slope, (gradient * direction).sum().item<double>(),
                1e-6 * gradient.norm().item<double>());
  }
  loss_at(start);
  p.units->zero_gradients();
  AdamW adamw(*p.units, {.weight_decay = 0});
  Metrics metrics;
  for (int64_t step = 1; step <= 60; ++step) {
    metrics = method.accumulate("student", step, captions(), 1.0);
    adamw.step(2e-2);
    p.units->zero_gradients();
  }
  EXPECT_EQ(metrics.at("accuracy"), 1.0);
  EXPECT_EQ(metrics.at("accuracy/colour"), 1.0);
  EXPECT_LT(metrics.at("train_loss"), 0.1);
}

}  // namespace
}  // namespace fastwan::training
