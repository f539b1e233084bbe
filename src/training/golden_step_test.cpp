// One optimisation step of each kind against diffusers, torch's autograd and torch's AdamW
// (tools/golden/training.py): noise, timesteps and chosen steps come from the seed on both sides.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>

#include <ATen/ops/cat.h>
#include <gtest/gtest.h>

#include "models/layout/configs.h"
#include "support/compare.h"
#include "support/golden.h"
#include "training/clip.h"
#include "training/dmd/distill.h"
#include "training/finetune.h"
#include "training/network.h"
#include "training/optimizer.h"

namespace fastwan::training {
namespace {

using testing::Golden;
using testing::golden_tensor;

std::shared_ptr<Network> network_of(const Golden& golden,
                                    const std::string& weights,
                                    at::ScalarType type,
                                    bool is_sparse,
                                    bool trains) {
  layout::WanDitConfig config = layout::read_wan_dit(golden.manifest().at("config"), "golden");
  config.is_gated = is_sparse;
  std::shared_ptr<const ops::Attention> attention = std::make_shared<ops::FullAttention>();
  if (is_sparse) {
    attention = std::make_shared<ops::VsaAttention>(ops::Sparsity{.value = 0.5}, /*gated=*/true);
  }
  auto model =
      std::make_shared<models::WanDit>(config, attention, training_profile(type), at::kCPU);
  testing::fill_golden_weights(*model, weights);
  return std::make_shared<Network>(model, NetworkOptions{.is_trainable = trains},
                                   distributed::one_process());
}

// All tensors of a network joined in the order of their names.
at::Tensor joined(const std::map<std::string, at::Tensor>& tensors) {
  std::vector<at::Tensor> all;
  for (const auto& [name, value] : tensors) {
    all.push_back(value.reshape({-1}).to(at::kDouble));
  }
  return at::cat(all);
}

std::map<std::string, at::Tensor> gradients_of(const Units& units) {
  std::map<std::string, at::Tensor> tensors;
  for (int64_t i = 0; i < units.count(); ++i) {
    for (const UnitTensor& tensor : units.layout()[static_cast<std::size_t>(i)].tensors) {
      tensors[tensor.name] = units.gradient(i).narrow(0, tensor.offset, tensor.numel).clone();
    }
  }
  return tensors;
}

std::map<std::string, at::Tensor> weights_of(const Units& units) {
  std::map<std::string, at::Tensor> tensors;
  for (const Units::Named& named : units.values()) {
    tensors[named.name] = named.value.clone();
  }
  return tensors;
}

class GoldenStep {
 public:
  GoldenStep(const std::string& name, at::ScalarType type)
      : golden("training", name), name_(name), type_(type) {
    const Json& m = golden.manifest();
    batch.slots = m.at("slots").get<std::vector<int64_t>>();
    batch.latents = golden_tensor(name, "latents", m.at("latents").get<std::vector<int64_t>>());
    batch.text = golden_tensor(name, "text", m.at("text").get<std::vector<int64_t>>());
    batch.text.narrow(1, 4, batch.text.size(1) - 4).zero_();
    batch.text = batch.text.to(type);
    unconditional = golden_tensor(name, "unconditional", {3, batch.text.size(2)}).to(type);
    seed = m.at("seed_of_run").get<uint64_t>();
    step = m.at("step").get<int64_t>();
  }

  // The update of one network by a method, as the trainer makes it, against the oracle's. In fp64
  // the bar is what the oracle itself rounds to fp32: its rotary table and timestep waves.
  void expect_update(Method& method, const std::string& network, const char* loss_name) const {
    Units& units = *method.networks().at(network).units;
    const std::map<std::string, at::Tensor> before = weights_of(units);
    const Metrics metrics = method.accumulate(network, step, batch, 1.0);
    const std::map<std::string, at::Tensor> gradient = gradients_of(units);
    const Json& m = golden.manifest();
    const auto bar = [&](const char* what) {
      const double error = m.at("fp32_error").at(what).get<double>();
      return type_ == at::kDouble ? 1e-6 : std::max(2 * error, 1e-6);
    };
    const auto loss = m.at("loss").get<double>();
    EXPECT_NEAR(metrics.at(loss_name), loss, bar("loss") * loss);
    expect_sample("gradient", joined(gradient), bar("gradient"));
    for (const auto& [tensor, norm] : m.at("norms").items()) {
      // A norm is off by at most the norm of the whole difference.
      const double got = gradient.at(tensor).to(at::kDouble).norm().item<double>();
      EXPECT_NEAR(got, norm.get<double>(), bar("gradient") * m.at("norm").get<double>()) << tensor;
    }
    EXPECT_EQ(gradient.size(), m.at("norms").size()) << "every tensor has a gradient";

    const Clipped clipped = clip_gradient(units, 1.0, network);
    EXPECT_NEAR(clipped.norm, m.at("norm").get<double>(), bar("gradient") * clipped.norm);
    EXPECT_LT(clipped.coefficient, 1) << "clipping takes part";
    AdamW adamw(units, {.eps = 1e-4, .weight_decay = 0.1});
    adamw.step(1e-2);
    std::map<std::string, at::Tensor> change = weights_of(units);
    for (auto& [tensor, value] : change) {
      value = value.to(at::kDouble) - before.at(tensor).to(at::kDouble);
    }
    // What is left of fp32 weights' own rounding: 2^-24 of weights of size 1 to changes of 0.01.
    expect_sample("change", joined(change), bar("change") + (type_ == at::kDouble ? 0 : 1e-5));
  }

  const Golden golden;
  MicroBatch batch;
  at::Tensor unconditional;  // [3, text_dim]
  uint64_t seed = 0;
  int64_t step = 0;

 private:
  void expect_sample(const char* what, const at::Tensor& whole, double bar) const {
    const Json& entry = golden.manifest().at("sampled").at(what);
    const auto l2 = entry.at("l2").get<double>();
    EXPECT_NEAR(whole.norm().item<double>(), l2, bar * l2) << name_ << ": " << what;
    EXPECT_LE(testing::relative_l2(golden.sample_of(what, whole), golden.tensor(what)), bar)
        << name_ << ": " << what;
  }

  std::string name_;
  at::ScalarType type_;
};

class TrainingGolden : public ::testing::TestWithParam<at::ScalarType> {};
INSTANTIATE_TEST_SUITE_P(Types, TrainingGolden, ::testing::Values(at::kFloat, at::kDouble));

TEST_P(TrainingGolden, AFinetuneStepIsDiffusersAndTorchs) {
  const GoldenStep golden("train_finetune", GetParam());
  Finetune method(
      role_of(network_of(golden.golden, "train_finetune", GetParam(), false, true)),
      {.seed = golden.seed,
       .law = {.density = Density::kLogitNormal, .logit_mean = 0.2, .logit_std = 1.3, .shift = 3},
       .caption_dropout = 0.5,
       .unconditional = golden.unconditional,
       .state = GetParam()});
  golden.expect_update(method, Finetune::kStudent, "train_loss");
}

std::unique_ptr<dmd::Distill> distillation_of(const GoldenStep& golden,
                                              const std::string& name,
                                              at::ScalarType type,
                                              dmd::Rollout rollout) {
  return std::make_unique<dmd::Distill>(
      dmd::DistillRoles{
          .student = sparse_role_of(network_of(golden.golden, name + "/student", type, true, true),
                                    ops::TopkRule::kPadded),
          .critic = role_of(network_of(golden.golden, name + "/critic", type, false, true)),
          .teacher =
              role_of(network_of(golden.golden, name + "/teacher", type, false, false)).velocity},
      dmd::DistillOptions{.seed = golden.seed,
                          .rollout = rollout,
                          .score = {.shift = 5},
                          .guidance_scale = 3.5,
                          .unconditional = golden.unconditional,
                          .ramp = {.sparsity = 0.5, .rate = 0},
                          .state = type});
}

TEST_P(TrainingGolden, AGeneratorStepIsDiffusersAndTorchs) {
  const GoldenStep golden("train_generator", GetParam());
  const auto method =
      distillation_of(golden, "train_generator", GetParam(), dmd::Rollout::kSimulate);
  golden.expect_update(*method, dmd::Distill::kStudent, "train_generator_loss");
  // The other networks' gradients stayed zero.
  const Units& critic = *method->networks().at(dmd::Distill::kCritic).units;
  EXPECT_EQ(gradient_norm(critic), 0.0);
}

TEST_P(TrainingGolden, ACriticStepIsDiffusersAndTorchs) {
  const GoldenStep golden("train_critic", GetParam());
  const auto method = distillation_of(golden, "train_critic", GetParam(), dmd::Rollout::kData);
  golden.expect_update(*method, dmd::Distill::kCritic, "train_fake_score_loss");
  const Units& student = *method->networks().at(dmd::Distill::kStudent).units;
  EXPECT_EQ(gradient_norm(student), 0.0);
}

}  // namespace
}  // namespace fastwan::training
