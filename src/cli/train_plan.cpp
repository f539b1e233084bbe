#include "cli/train_plan.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "base/check.h"
#include "base/text.h"
#include "cli/distill_plan.h"
#include "cli/hub_cache.h"
#include "cli/ramp.h"
#include "cli/table.h"
#include "models/layout/configs.h"
#include "models/layout/published.h"
#include "models/layout/tensors.h"
#include "models/layout/training_fit.h"
#include "ops/topk.h"

namespace fastwan::cli {
namespace {

using config::MethodKind;
using config::Recipe;
using config::RoleModel;

constexpr double kTera = 1e12;
constexpr int64_t kFramesPerLatent = 4;
constexpr int64_t kFewTokens = 10'000;  // below, linear layers outweigh attention

double real(int64_t value) {
  return static_cast<double>(value);
}

int64_t bytes_of(config::ComputeDtype dtype) {
  switch (dtype) {
    case config::ComputeDtype::kFp64:
      return 8;
    case config::ComputeDtype::kFp32:
      return 4;
    case config::ComputeDtype::kBf16:
      return 2;
  }
  return 4;
}

// Where a component's config.json lies; nullopt: the model is not on this machine.
std::optional<Path> find_config(const std::string& model, const char* component) {
  const std::optional<Path> folder = look_up_model(model, "");
  if (!folder) {
    return std::nullopt;
  }
  std::error_code ignored;
  for (const Path& file : {*folder / component / "config.json", *folder / "config.json"}) {
    if (std::filesystem::is_regular_file(file, ignored)) {
      return file;
    }
  }
  return std::nullopt;
}

[[noreturn]] void throw_no_config(const std::string& key, const std::string& model) {
  std::string reason;
  try {
    reason = str(key, " ", escape_control(find_model(model, "", key).string()),
                 " holds no config.json of it");
  } catch (const IoError& error) {
    reason = error.what();
  }
  throw IoError(Code::kNotFound,
                str(reason,
                    ". It is none of the published models, whose sizes are known; a folder "
                    "with its config.json is enough for a plan"));
}

Json read_config(const Path& file) {
  return read_json_file(file.string());
}

bool is_sparse(const RoleModel& model) {
  return model.attention_backend == config::AttentionBackend::kVsa;
}

struct Transformer {
  std::string place;
  layout::WanDitConfig config;
};

Transformer transformer_of(const std::string& role,
                           const RoleModel& model,
                           const config::Vsa& vsa,
                           std::vector<std::string>& notes) {
  Transformer out{.place = model.init_from};
  layout::WanDitConfig& config = out.config;
  if (const auto file = find_config(model.init_from, "transformer")) {
    config = layout::read_wan_dit(read_config(*file), file->string());
    out.place = file->parent_path().string();
  } else if (const layout::PublishedModel* known = layout::published_model(model.init_from)) {
    notes.push_back(str("models.", role, ".init_from ", escape_control(model.init_from),
                        " is not on this machine: sizes of the published model are taken"));
    config = known->transformer;
  } else {
    throw_no_config("models." + role + ".init_from", model.init_from);
  }
  config.is_gated = is_sparse(model) && vsa.coarse_branch;
  return out;
}

layout::TrainingInputs training_inputs(const Recipe& recipe) {
  const std::string& model = recipe.training.model_path;
  layout::TrainingInputs out{.model = model};
  if (const auto file = find_config(model, "vae")) {
    const layout::WanVaeConfig vae = layout::read_wan_vae(read_config(*file), file->string());
    out.latent_channels = vae.z_dim;
    out.pixels_a_latent = vae.scale_factor_spatial;
    // A VAE's own folder is enough for a plan; of texts nothing is known then.
    const Path text = file->parent_path().parent_path() / "text_encoder" / "config.json";
    if (std::error_code ignored; std::filesystem::is_regular_file(text, ignored)) {
      out.text_width = layout::read_umt5(read_config(text), text.string()).d_model;
    }
  } else if (const layout::PublishedModel* known = layout::published_model(model)) {
    out.latent_channels = known->vae_channels;
    out.pixels_a_latent = known->vae_scale;
    out.text_width = known->transformer.text_dim;
  } else {
    throw_no_config("training.model_path", model);
  }
  return out;
}

layout::LatentSize latent_of(const Recipe& recipe, const layout::TrainingInputs& inputs) {
  const config::Data& d = recipe.training.data;
  if (d.num_height == 0 || d.num_width == 0 || d.num_latent_t == 0) {
    throw InvalidInput(Code::kConflict,
                       "training.data.num_frames (or num_latent_t), num_height and num_width give "
                       "the size to plan for; rows are not read here");
  }
  layout::check_pixels(d.num_height, d.num_width, inputs);
  return {inputs.latent_channels, d.num_latent_t, d.num_height / inputs.pixels_a_latent,
          d.num_width / inputs.pixels_a_latent};
}

layout::RecomputedBlocks recomputed(const Recipe& recipe, const RoleModel& model) {
  switch (model.enable_gradient_checkpointing_type) {
    case config::Recompute::kNone:
      return {0};
    case config::Recompute::kEveryN:
      return {recipe.training.model.recompute_every_n};
    case config::Recompute::kInherit:
    case config::Recompute::kFull:
    case config::Recompute::kOps:
      break;
  }
  return {1};
}

int64_t topk_of(const config::Vsa& vsa, const layout::TokenGrid& grid, double sparsity) {
  return vsa.topk_rule == config::TopkFormula::kPadded
             ? ops::vsa_topk(sparsity, grid.num_tiles())
             : ops::vsa_topk_unpadded(sparsity, grid.num_tokens(), grid.num_tiles());
}

// Of all iterations: a ramp starts dense. `pass` of a sparsity.
template <class Pass>
layout::PassWork mean_pass(const Recipe& recipe, const Pass& pass) {
  const training::SparsityRamp ramp = ramp_of(recipe.training.vsa);
  const int64_t steps = recipe.training.loop.max_train_steps;
  layout::PassWork sum;
  const auto add = [&](int64_t count, double sparsity) {
    const layout::PassWork one = pass(sparsity);
    const double share = real(count) / real(std::max<int64_t>(1, steps));
    sum.forward += share * one.forward;
    sum.recompute += share * one.recompute;
    sum.backward += share * one.backward;
  };
  int64_t done = 0;
  for (double level = 0; level < training::ramp_levels(ramp) && done < steps; ++level) {
    const int64_t count = std::min(ramp.interval, steps - done);
    add(count, training::ramped_sparsity(ramp, done));
    done += count;
  }
  add(std::max<int64_t>(1, steps) - done, ramp.sparsity);
  return sum;
}

int64_t moment_bytes(config::MomentDtype dtype, int64_t master) {
  switch (dtype) {
    case config::MomentDtype::kFp32:
      return master;
    case config::MomentDtype::kBf16Sr:
      return 2;
    case config::MomentDtype::kNone:
      break;
  }
  return 0;
}

layout::StateLayout state_layout(const Recipe& recipe, const std::string& role, int64_t shard) {
  const config::Training& t = recipe.training;
  const config::Betas& betas =
      role == "critic" ? recipe.method.fake_score_betas : t.optimizer.betas;
  const int64_t master = bytes_of(t.dit_precision);
  layout::StateLayout out{
      .shard = shard, .master_bytes = master, .compute_bytes = bytes_of(t.compute_dtype)};
  out.first_moment_bytes = betas[0] == 0 ? 0 : moment_bytes(t.optimizer.m_dtype, master);
  out.second_moment_bytes = moment_bytes(t.optimizer.v_dtype, master);
  out.average_bytes = role == "student" && recipe.callbacks.ema.decay > 0 ? master : 0;
  out.reduces_once = t.distributed.accum_sync == config::AccumSync::kLast &&
                     t.loop.gradient_accumulation_steps > 1;
  return out;
}

// One network, and what is needed to place its state on other meshes.
struct Network {
  RolePlan plan;
  std::vector<int64_t> units;
  bool keeps_units = false;
  bool borrows_base = false;  // its frozen weights are the teacher's
  layout::PassWork work;      // a video, on average over the run
  double sparse_forward = 0;  // a video at full sparsity
};

void place_state(Network& network, const Recipe& recipe, int64_t shard) {
  network.plan.state = layout::state_bytes(network.units, network.plan.trained, network.keeps_units,
                                           state_layout(recipe, network.plan.role, shard));
  if (network.borrows_base) {
    network.plan.state.frozen = 0;
  }
}

Network wan_network(const Recipe& recipe,
                    const std::string& role,
                    const RoleModel& model,
                    const layout::WanDitConfig& config,
                    const layout::TokenGrid& grid) {
  Network out;
  out.plan = {.role = role, .network = str(config.num_layers, " x ", config.width())};
  const bool is_lora = model.lora.enable;
  out.units = layout::unit_parameters(config);
  out.plan.parameters = std::accumulate(out.units.begin(), out.units.end(), int64_t{0});
  if (is_lora) {  // gates train whole beside the adapters, all else is frozen
    layout::WanDitConfig frozen = config;
    frozen.is_gated = false;
    out.units = layout::unit_parameters(frozen);
  }
  layout::AttentionMode mode;
  if (is_sparse(model)) {
    mode = {.topk = topk_of(recipe.training.vsa, grid, recipe.training.vsa.sparsity),
            .uses_gates = config.is_gated};
    out.plan.topk = mode.topk;
  }
  const layout::RecomputedBlocks blocks = recomputed(recipe, model);
  out.plan.trained =
      !model.trainable ? 0
      : is_lora        ? layout::lora_parameters(config, model.lora.rank, model.lora.target_modules)
                       : out.plan.parameters;
  out.keeps_units = model.trainable && blocks.one_of == 0;
  out.borrows_base = role != "teacher" && recipe.models.at("student").lora.shared_base;
  const auto pass = [&](const layout::AttentionMode& at) {
    return layout::training_pass(config, grid, at, recipe.training.data.text_len, blocks, !is_lora);
  };
  out.work = pass(mode);
  out.sparse_forward = out.work.forward;
  if (role == "student" && is_sparse(model)) {
    out.work = mean_pass(recipe, [&](double sparsity) {
      layout::AttentionMode at = mode;
      at.topk = topk_of(recipe.training.vsa, grid, sparsity);
      return pass(at);
    });
  }
  const int64_t element = bytes_of(recipe.training.compute_dtype);
  const int64_t videos = recipe.training.data.train_batch_size;
  const double shared = real(recipe.training.distributed.sp_size);
  // The teacher sees each video with and without its caption.
  const double guided =
      role == "teacher" && recipe.method.real_score_guidance_scale != 1 ? 2.0 : 1.0;
  out.plan.activations =
      model.trainable
          ? layout::pass_memory(config, grid, mode, videos, blocks, element) / shared
          : guided * real(videos) * layout::forward_memory(config, grid, mode, element) / shared;
  return out;
}

void check_mesh(const Recipe& recipe, const std::string& role, const layout::WanDitConfig& config) {
  const int64_t sp = recipe.training.distributed.sp_size;
  if (config.num_heads % sp != 0) {
    throw InvalidInput(Code::kConflict,
                       str("training.distributed.sp_size ", sp, " must divide the ",
                           config.num_heads, " heads of models.", role));
  }
}

void plan_work(TrainPlan& plan, const Recipe& recipe, const std::vector<Network>& networks) {
  const double videos = real(plan.global_batch);
  if (recipe.method.kind != MethodKind::kDistill) {
    plan.work = videos * networks[0].work.total();
    return;
  }
  const auto of = [&networks](const char* role) {
    return std::find_if(networks.begin(), networks.end(),
                        [role](const Network& n) { return n.plan.role == role; })
        ->work;
  };
  const layout::DistillWork work =
      layout::distill_work(of("student"), of("teacher"), of("critic"), distill_plan(recipe.method));
  plan.critic_work = videos * work.critic;
  plan.student_work = videos * work.student;
  plan.work = videos * work.mean;
}

// Networks work one after the other; while a teacher scores, the student's pass is kept.
std::optional<double> passing_bytes(const std::vector<Network>& networks) {
  double trained = 0;
  double frozen = 0;
  for (const Network& network : networks) {
    if (!network.plan.activations) {
      return {};
    }
    const double bytes = *network.plan.activations + network.plan.state.gathered;
    double& most = network.plan.trained > 0 ? trained : frozen;
    most = std::max(most, bytes);
  }
  return trained + frozen;
}

double state_of(const std::vector<Network>& networks) {
  return std::accumulate(networks.begin(), networks.end(), 0.0,
                         [](double sum, const Network& n) { return sum + n.plan.state.held(); });
}

// Tries every number of processes that divides all of them.
std::optional<int64_t> least_shard(std::vector<Network> networks,
                                   const Recipe& recipe,
                                   double memory) {
  const int64_t processes = recipe.training.distributed.num_gpus;
  for (int64_t shard = 1; shard <= processes; ++shard) {
    if (processes % shard != 0) {
      continue;
    }
    for (Network& network : networks) {
      place_state(network, recipe, shard);
    }
    if (state_of(networks) + passing_bytes(networks).value_or(0) <= memory) {
      return shard;
    }
  }
  return std::nullopt;
}

std::vector<Network> transformers(TrainPlan& plan,
                                  const Recipe& recipe,
                                  std::vector<std::string>& notes) {
  const layout::TrainingInputs inputs = training_inputs(recipe);
  plan.latent = latent_of(recipe, inputs);
  plan.text_tokens = recipe.training.data.text_len;
  std::vector<Network> networks;
  for (const auto& [role, model] : recipe.models) {
    const auto& [place, config] = transformer_of(role, model, recipe.training.vsa, notes);
    const layout::TrainedNetwork network{.role = role, .place = place, .config = config};
    layout::check_inputs(network, inputs);
    layout::check_patches(network, plan.latent);
    check_mesh(recipe, role, config);
    const layout::TokenGrid grid = layout::token_grid(config, plan.latent);
    if (role == "student") {
      plan.grid = grid;
    }
    networks.push_back(wan_network(recipe, role, model, config, grid));
    if (is_sparse(model)) {
      layout::WanDitConfig dense = config;
      dense.is_gated = false;
      const double full =
          layout::forward_work(dense, grid, {}, recipe.training.data.text_len).total();
      plan.sparse_gain = full / networks.back().sparse_forward;
      if (grid.num_tokens() < kFewTokens) {
        notes.push_back(str(grid.num_tokens(),
                            " tokens a video: below about 10,000 sparse attention saves little"));
      }
    }
  }
  // The student first, as it is the result.
  std::stable_sort(networks.begin(), networks.end(), [](const Network& a, const Network& b) {
    return a.plan.role == "student" && b.plan.role != "student";
  });
  return networks;
}

// A network that is one unit; its work is counted where the layout room can.
Network small_network(const Recipe& recipe, std::vector<std::string>& notes) {
  const RoleModel& model = recipe.models.at("student");
  Network out;
  out.plan = {.role = "student", .network = config::name_of(model.kind)};
  constexpr double kForwardAndBackward = 3;
  const config::Data& data = recipe.training.data;
  if (model.kind == config::NetworkKind::kWanVae) {
    const auto file = find_config(model.init_from, "vae");
    if (!file) {
      throw_no_config("models.student.init_from", model.init_from);
    }
    const layout::WanVaeConfig vae = layout::read_wan_vae(read_config(*file), file->string());
    out.units = {layout::num_parameters(layout::tensors_of(vae))};
    const int64_t frames = data.shapes.crop_frames > 0 ? data.shapes.crop_frames : data.num_frames;
    const layout::LatentSize latent{vae.z_dim, (frames - 1) / kFramesPerLatent + 1,
                                    data.num_height / vae.scale_factor_spatial,
                                    data.num_width / vae.scale_factor_spatial};
    out.work.forward = layout::encode_work(vae, latent) + layout::decode_work(vae, latent);
  } else if (model.kind == config::NetworkKind::kUmt5) {
    const auto file = find_config(model.init_from, "text_encoder");
    if (!file) {
      throw_no_config("models.student.init_from", model.init_from);
    }
    const layout::Umt5Config text = layout::read_umt5(read_config(*file), file->string());
    out.units = {layout::num_parameters(layout::tensors_of(text))};
    out.work.forward = layout::encoder_work(text, data.text_len);
  } else {
    notes.emplace_back("the feature net's size is not planned; it is below a million parameters");
  }
  out.work.backward = (kForwardAndBackward - 1) * out.work.forward;
  out.plan.parameters = out.units.empty() ? 0 : out.units[0];
  out.plan.trained = out.plan.parameters;
  return out;
}

Json or_null(const std::optional<double>& value) {
  return value ? Json(*value) : Json(nullptr);
}

}  // namespace

TrainPlan plan_training(const Recipe& recipe,
                        const PlanOptions& options,
                        std::vector<std::string>& notes) {
  TrainPlan plan{.method = config::name_of(recipe.method.kind),
                 .processes = recipe.training.distributed.num_gpus,
                 .data_ranks = config::data_ranks(recipe),
                 .global_batch = config::global_batch(recipe),
                 .steps = recipe.training.loop.max_train_steps,
                 .tera_per_second = options.tera_per_second,
                 .rank_memory = options.rank_memory};
  const bool is_video = config::trains_transformer(recipe.method.kind);
  std::vector<Network> networks =
      is_video ? transformers(plan, recipe, notes) : std::vector{small_network(recipe, notes)};
  for (Network& network : networks) {
    place_state(network, recipe, recipe.training.distributed.hsdp_shard_dim);
  }
  plan_work(plan, recipe, networks);
  plan.state_bytes = state_of(networks);
  plan.passing_bytes = passing_bytes(networks);
  plan.hours =
      plan.work * real(plan.steps) / (real(plan.processes) * plan.tera_per_second * kTera) / 3600;
  if (plan.rank_memory > 0) {
    plan.least_shard = least_shard(networks, recipe, plan.rank_memory);
  }
  for (Network& network : networks) {
    plan.roles.push_back(std::move(network.plan));
  }
  return plan;
}

std::string plan_text(const TrainPlan& plan) {
  Table head;
  head.add({"method", plan.method});
  head.add({"processes", str(plan.processes, ", batch of an iteration ", plan.global_batch)});
  if (plan.grid.num_tokens() > 0) {
    head.add({"latents", str(plan.latent.channels, " x ", plan.latent.frames, " x ",
                             plan.latent.height, " x ", plan.latent.width)});
    head.add({"tokens",
              str(plan.grid.num_tokens(), " (", plan.grid.T, " x ", plan.grid.H, " x ", plan.grid.W,
                  "), ", plan.grid.num_tiles(), " tiles, ", plan.text_tokens, " of text")});
  }
  for (const RolePlan& role : plan.roles) {
    if (role.topk > 0) {
      head.add({role.role, str(role.topk, " key tiles of ", plan.grid.num_tiles(),
                               " at full sparsity, forward ",
                               format_number(std::round(plan.sparse_gain * 100) / 100),
                               " times as fast as dense by count")});
    }
  }
  Table memory;
  memory.add({"network", "size", "parameters", "trained", "masters", "moments", "average",
              "gradients", "frozen", "gathered", "activations"});
  for (const RolePlan& role : plan.roles) {
    const layout::StateBytes& s = role.state;
    memory.add({role.role, role.network, format_count(real(role.parameters)),
                format_count(real(role.trained)), format_bytes(s.masters),
                format_bytes(s.first_moment + s.second_moment), format_bytes(s.average),
                format_bytes(s.gradients), format_bytes(s.frozen), format_bytes(s.gathered),
                role.activations ? format_bytes(*role.activations) : "not estimated"});
  }
  Table foot;
  foot.add({"a process holds", format_bytes(plan.state_bytes)});
  foot.add({"and at most besides", plan.passing_bytes
                                       ? format_bytes(*plan.passing_bytes)
                                       : "activations, which are not estimated for this method"});
  if (plan.rank_memory > 0 && plan.peak_bytes()) {
    const bool fits = *plan.peak_bytes() <= plan.rank_memory;
    foot.add({"of " + format_bytes(plan.rank_memory),
              fits               ? "fits"
              : plan.least_shard ? str("does not fit; fits from hsdp_shard_dim ", *plan.least_shard)
                                 : "does not fit at any hsdp_shard_dim of these processes"});
  }
  foot.add({"FLOP an iteration", format_count(plan.work)});
  if (plan.critic_work > 0) {
    foot.add({"  every one", format_count(plan.critic_work)});
    foot.add({"  with the student's update, besides", format_count(plan.student_work)});
  }
  foot.add(
      {"all steps", str(plan.steps, ", ", format_number(std::round(plan.hours * 100) / 100),
                        " hours at ", format_number(plan.tera_per_second), " TFLOP/s a process")});
  return head.text() + "\n" + memory.text() + "\n" + foot.text();
}

Json plan_json(const TrainPlan& plan) {
  Json document = {
      {"method", plan.method},
      {"processes", plan.processes},
      {"data_ranks", plan.data_ranks},
      {"global_batch", plan.global_batch},
      {"steps", plan.steps},
      {"latent", {plan.latent.channels, plan.latent.frames, plan.latent.height, plan.latent.width}},
      {"tokens", plan.grid.num_tokens()},
      {"token_grid", {plan.grid.T, plan.grid.H, plan.grid.W}},
      {"tiles", plan.grid.num_tiles()},
      {"text_tokens", plan.text_tokens},
      {"sparse_gain", plan.sparse_gain},
      {"networks", Json::array()},
      {"state_bytes", plan.state_bytes},
      {"passing_bytes", or_null(plan.passing_bytes)},
      {"peak_bytes", or_null(plan.peak_bytes())},
      {"available_bytes", plan.rank_memory > 0 ? Json(plan.rank_memory) : Json(nullptr)},
      {"least_shard", plan.least_shard ? Json(*plan.least_shard) : Json(nullptr)},
      {"flops", plan.work},
      {"critic_flops", plan.critic_work},
      {"student_flops", plan.student_work},
      {"tflops_per_process", plan.tera_per_second},
      {"hours", plan.hours}};
  for (const RolePlan& role : plan.roles) {
    const layout::StateBytes& s = role.state;
    document["networks"].push_back({{"role", role.role},
                                    {"parameters", role.parameters},
                                    {"trained", role.trained},
                                    {"topk", role.topk == 0 ? Json(nullptr) : Json(role.topk)},
                                    {"master_bytes", s.masters},
                                    {"first_moment_bytes", s.first_moment},
                                    {"second_moment_bytes", s.second_moment},
                                    {"average_bytes", s.average},
                                    {"gradient_bytes", s.gradients},
                                    {"frozen_bytes", s.frozen},
                                    {"gathered_bytes", s.gathered},
                                    {"activation_bytes", or_null(role.activations)}});
  }
  return document;
}

}  // namespace fastwan::cli
