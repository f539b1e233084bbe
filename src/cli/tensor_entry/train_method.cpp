// The method of a training run, from its recipe.
#include <numeric>
#include <utility>

#include "cli/ramp.h"
#include "cli/tensor_entry/train_parts.h"
#include "training/dmd/distill.h"
#include "training/finetune.h"
#include "training/ode_regression.h"
#include "training/role.h"

namespace fastwan::cli {
namespace {

using config::Recipe;

training::Role student_role(const Recipe& recipe,
                            const std::shared_ptr<training::Network>& network) {
  if (recipe.models.at("student").attention_backend != config::AttentionBackend::kVsa) {
    return training::role_of(network);
  }
  return training::sparse_role_of(network,
                                  recipe.training.vsa.topk_rule == config::TopkFormula::kUnpadded
                                      ? ops::TopkRule::kUnpadded
                                      : ops::TopkRule::kPadded);
}

training::TimestepLaw law_of(const Recipe& recipe) {
  const config::ModelTraining& model = recipe.training.model;
  training::Density density = training::Density::kUniform;
  if (model.weighting_scheme == config::TimestepDensity::kLogitNormal) {
    density = training::Density::kLogitNormal;
  } else if (model.weighting_scheme == config::TimestepDensity::kMode) {
    density = training::Density::kMode;
  }
  return {.density = density,
          .logit_mean = model.logit_mean,
          .logit_std = model.logit_std,
          .mode_scale = model.mode_scale,
          .shift = recipe.models.at("student").flow_shift,
          .grid = model.timestep_grid};
}

std::unique_ptr<training::Method> finetune(const TrainContext& context,
                                           const RoleNetworks& networks,
                                           const TrainData& data) {
  const Recipe& recipe = context.recipe;
  return std::make_unique<training::Finetune>(
      student_role(recipe, networks.at("student").network),
      training::FinetuneOptions{.seed = static_cast<uint64_t>(recipe.training.data.seed),
                                .law = law_of(recipe),
                                .target = recipe.training.model.precondition_outputs
                                              ? training::FlowTarget::kContent
                                              : training::FlowTarget::kVelocity,
                                .caption_dropout = recipe.training.data.training_cfg_rate,
                                .unconditional = data.unconditional,
                                .ramp = ramp_of(recipe.training.vsa),
                                .state = state_type(recipe)});
}

// Consecutive samples of the processes that hold one state together: each of them runs as many
// forwards as the others, or they wait for each other for ever.
int64_t group_slots(const Recipe& recipe) {
  const config::Distributed& d = recipe.training.distributed;
  const int64_t processes = d.hsdp_shard_dim / std::gcd(d.hsdp_shard_dim, d.sp_size);  // other data
  return processes * recipe.training.data.train_batch_size;
}

training::dmd::StepLaw step_law(const Recipe& recipe) {
  const config::Method& method = recipe.method;
  training::dmd::StepLaw law{.num_steps = static_cast<int64_t>(method.dmd_denoising_steps.size())};
  switch (method.k_scope) {
    case config::KScope::kStep:
      law.shared_slots = 0;
      break;
    case config::KScope::kGroup:
      law.shared_slots = group_slots(recipe);
      break;
    case config::KScope::kSample:
      law.shared_slots = 1;
      law.block = method.k_block;
      break;
  }
  return law;
}

std::unique_ptr<training::Method> distill(const TrainContext& context,
                                          const RoleNetworks& networks,
                                          const TrainData& data) {
  const Recipe& recipe = context.recipe;
  const config::Method& method = recipe.method;
  constexpr double kTimesteps = 1000;
  return std::make_unique<training::dmd::Distill>(
      training::dmd::DistillRoles{
          .student = student_role(recipe, networks.at("student").network),
          .critic = training::role_of(networks.at("critic").network),
          .teacher = training::role_of(networks.at("teacher").network).velocity},
      training::dmd::DistillOptions{
          .seed = static_cast<uint64_t>(recipe.training.data.seed),
          .timesteps = student_timesteps(recipe),
          .rollout = method.rollout_mode == config::RolloutMode::kSimulate
                         ? training::dmd::Rollout::kSimulate
                         : training::dmd::Rollout::kData,
          .steps = step_law(recipe),
          .score = {.shift = recipe.models.at("student").flow_shift,
                    .lowest = kTimesteps * method.min_timestep_ratio,
                    .highest = kTimesteps * method.max_timestep_ratio},
          .guidance_scale = method.real_score_guidance_scale,
          .guidance_interval = {.lowest = method.real_score_guidance_interval[0],
                                .highest = method.real_score_guidance_interval[1]},
          .unconditional = data.unconditional,
          .update_interval = method.generator_update_interval,
          .critic_warmup = method.critic_warmup,
          .ramp = ramp_of(recipe.training.vsa),
          .non_finite = method.nan_policy == config::NanPolicy::kZero
                            ? training::dmd::NonFinite::kZero
                            : training::dmd::NonFinite::kStop,
          .regression_weight = method.regression_weight,
          .regression_steps = method.regression_steps,
          .latent_shape = data.latent_shape,
          .keeps_preview = recipe.training.tracker.log_visualization,
          .state = state_type(recipe)});
}

std::unique_ptr<training::Method> ode(const TrainContext& context, const RoleNetworks& networks) {
  const Recipe& recipe = context.recipe;
  return std::make_unique<training::OdeRegression>(
      student_role(recipe, networks.at("student").network),
      training::OdeRegressionOptions{.seed = static_cast<uint64_t>(recipe.training.data.seed),
                                     .ramp = ramp_of(recipe.training.vsa),
                                     .state = state_type(recipe)});
}

}  // namespace

std::vector<double> student_timesteps(const Recipe& recipe) {
  const config::Method& method = recipe.method;
  const std::vector<double> listed(method.dmd_denoising_steps.begin(),
                                   method.dmd_denoising_steps.end());
  return method.warp_denoising_step
             ? training::dmd::warped(listed, recipe.models.at("student").flow_shift)
             : listed;
}

// fp32, fp64 where the networks compute in it.
at::ScalarType state_type(const Recipe& recipe) {
  return compute_type(recipe) == at::kDouble ? at::kDouble : at::kFloat;
}

std::unique_ptr<training::Method> make_method(const TrainContext& context,
                                              const RoleNetworks& networks,
                                              const TrainData& data) {
  switch (context.recipe.method.kind) {
    case config::MethodKind::kDistill:
      return distill(context, networks, data);
    case config::MethodKind::kOde:
      return ode(context, networks);
    default:
      return finetune(context, networks, data);
  }
}

}  // namespace fastwan::cli
