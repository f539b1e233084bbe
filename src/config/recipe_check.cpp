// Start-up checks of a recipe: everything that can be refused without weights.
#include <algorithm>
#include <functional>

#include "base/check.h"
#include "base/text.h"
#include "config/recipe.h"

namespace fastwan::config {
namespace {

void require(bool holds, const std::string& message) {
  if (!holds) {
    throw InvalidInput(Code::kConflict, message);
  }
}

bool falls(const std::vector<int64_t>& steps) {
  return std::adjacent_find(steps.begin(), steps.end(), std::less_equal<>()) == steps.end();
}

std::string listed(const std::vector<int64_t>& steps) {
  std::string out;
  for (const int64_t step : steps) {
    out += str(out.empty() ? "" : ", ", step);
  }
  return "[" + out + "]";
}

NetworkKind network_of(MethodKind method) {
  switch (method) {
    case MethodKind::kVae:
      return NetworkKind::kWanVae;
    case MethodKind::kText:
      return NetworkKind::kUmt5;
    case MethodKind::kFeatures:
      return NetworkKind::kFeatureNet;
    case MethodKind::kFinetune:
    case MethodKind::kDistill:
    case MethodKind::kOde:
      break;
  }
  return NetworkKind::kWan;
}

void check_roles(const Recipe& r) {
  const MethodKind method = r.method.kind;
  std::vector<std::string> wanted = {"student"};
  if (method == MethodKind::kDistill) {
    wanted = {"student", "teacher", "critic"};
  }
  for (const std::string& role : wanted) {
    require(r.models.contains(role),
            str("method ", name_of(method), " needs models.", role, ", which is not given"));
  }
  for (const auto& [role, model] : r.models) {
    const std::string at = "models." + role;
    require(std::find(wanted.begin(), wanted.end(), role) != wanted.end(),
            str(at, " has no part in method ", name_of(method), ". Leave it out"));
    require(model.kind == network_of(method),
            str(at, "._target_ must be ", name_of(network_of(method)), " for method ",
                name_of(method), ", got ", name_of(model.kind)));
    require(!model.init_from.empty(), str(at,
                                          ".init_from is not given: a Diffusers folder or a "
                                          "cached hub id"));
    const bool is_trained = role != "teacher";
    require(model.trainable == is_trained,
            str(at, ".trainable must be ", is_trained ? "true" : "false", " in method ",
                name_of(method)));
    require(model.init == WeightsInit::kPretrained || role == "student",
            str(at, ".init must be pretrained: scores start from trained weights"));
    require(!model.lora.enable || (is_trained && model.kind == NetworkKind::kWan),
            str(at, ".lora.enable: only a trained transformer takes adapters"));
    require(model.enable_gradient_checkpointing_type != Recompute::kOps,
            str(at, ".enable_gradient_checkpointing_type ops is not here; take full or every_n"));
    require(!(model.lora.enable && model.init == WeightsInit::kRandom),
            str(at, ".lora.enable wants pretrained weights, but ", at, ".init is random"));
  }
}

void check_shared_base(const Recipe& r) {
  const RoleModel& student = r.models.at("student");
  if (!student.lora.shared_base) {
    return;
  }
  require(r.method.kind == MethodKind::kDistill && student.lora.enable &&
              r.models.at("critic").lora.enable,
          "models.student.lora.shared_base needs method distill and lora.enable of student and "
          "critic");
  require(student.init_from == r.models.at("teacher").init_from &&
              student.init_from == r.models.at("critic").init_from,
          "models.student.lora.shared_base needs one init_from for student, teacher and critic");
}

void check_distributed(const Recipe& r) {
  const Distributed& d = r.training.distributed;
  const std::string at = "training.distributed.";
  require(d.tp_size == 1, str(at, "tp_size must be 1 or -1, got ", d.tp_size));
  require(d.hsdp_replicate_dim * d.hsdp_shard_dim == d.num_gpus,
          str(at, "hsdp_replicate_dim x hsdp_shard_dim must be num_gpus, got ",
              d.hsdp_replicate_dim, " x ", d.hsdp_shard_dim, " for ", d.num_gpus));
  require(d.num_gpus % d.sp_size == 0,
          str(at, "sp_size must divide num_gpus, got ", d.sp_size, " for ", d.num_gpus));
}

void check_optimizer(const Recipe& r) {
  const Optimizer& o = r.training.optimizer;
  const auto is_beta = [](double b) { return b >= 0 && b < 1; };
  const auto check_betas = [&is_beta](const Betas& b, const char* key) {
    require(is_beta(b[0]) && is_beta(b[1]),
            str(key, " must be at least 0 and below 1, got ", b[0], " and ", b[1]));
  };
  check_betas(o.betas, "training.optimizer.betas");
  check_betas(r.method.fake_score_betas, "method.fake_score_betas");
  require(o.v_dtype != MomentDtype::kNone,
          "training.optimizer.v_dtype must be fp32 or bf16_sr: AdamW needs the second moment");
  require(o.m_dtype != MomentDtype::kNone || (o.betas[0] == 0 && r.method.fake_score_betas[0] == 0),
          "training.optimizer.m_dtype none needs a first beta of 0, for the critic too");
  if (o.kind == OptimizerKind::kMuon) {
    require(
        o.m_dtype == MomentDtype::kFp32 && o.v_dtype == MomentDtype::kFp32,
        "training.optimizer.name muon keeps its moments in fp32: leave m_dtype and v_dtype out");
    require(r.training.distributed.hsdp_shard_dim == 1,
            str("training.optimizer.name muon needs whole matrices in every process, got "
                "training.distributed.hsdp_shard_dim ",
                r.training.distributed.hsdp_shard_dim, ". Set it to 1, or take adamw"));
  }
  require(o.lr_scheduler != LrScheduler::kAsStudent,
          "training.optimizer.lr_scheduler must name a schedule, got student");
  const bool warms_critic = r.method.kind == MethodKind::kDistill &&
                            r.method.fake_score_lr_scheduler != LrScheduler::kConstant;
  require(o.lr_scheduler != LrScheduler::kConstant || warms_critic || o.lr_warmup_steps == 0,
          "training.optimizer.lr_warmup_steps has no effect with lr_scheduler constant; take "
          "constant_with_warmup");
  require(o.lr_warmup_steps <= r.training.loop.max_train_steps,
          str("training.optimizer.lr_warmup_steps ", o.lr_warmup_steps,
              " is beyond training.loop.max_train_steps ", r.training.loop.max_train_steps));
}

// Weights without a gradient would decay.
void check_frozen_encoder(const Recipe& r) {
  if (r.method.train_encoder) {
    return;
  }
  require(r.method.kind == MethodKind::kVae,
          str("method.train_encoder is for method vae, not ", name_of(r.method.kind)));
  require(r.models.at("student").init == WeightsInit::kPretrained,
          "method.train_encoder false keeps the latents of a trained VAE: set models.student.init "
          "to pretrained, or train the encoder too");
  require(r.training.optimizer.weight_decay == 0,
          str("method.train_encoder false needs training.optimizer.weight_decay 0, got ",
              r.training.optimizer.weight_decay,
              ": decay would move the encoder, and with it the latents"));
}

void check_k(const Recipe& r) {
  const Method& m = r.method;
  const Distributed& d = r.training.distributed;
  const bool is_stratified = m.k_block > 0;
  require(
      !is_stratified || m.k_scope == KScope::kSample,
      str("method.k_block ", m.k_block, " needs method.k_scope sample, got ", name_of(m.k_scope)));
  if (is_stratified) {
    const auto num_steps = static_cast<int64_t>(m.dmd_denoising_steps.size());
    require(m.k_block >= num_steps,
            str("method.k_block ", m.k_block, " must be at least the ", num_steps,
                " steps of method.dmd_denoising_steps: the last would never train"));
    // A block that spans ranks of a shard group would give them unequal numbers of forwards.
    const int64_t batch = d.hsdp_shard_dim > 1 ? r.training.data.train_batch_size : global_batch(r);
    require(batch % m.k_block == 0,
            str("method.k_block ", m.k_block, " must divide ",
                d.hsdp_shard_dim > 1 ? "the batch of a process, " : "the batch of an iteration, ",
                batch));
  }
  require(!(m.rollout_mode == RolloutMode::kSimulate && m.k_scope == KScope::kSample &&
            !is_stratified && d.hsdp_shard_dim > 1),
          "method.k_scope sample with hsdp_shard_dim above 1 needs method.k_block: processes of a "
          "shard group must run equally many forwards");
}

void check_few_step(const Recipe& r) {
  const std::vector<int64_t>& steps = r.method.dmd_denoising_steps;
  require(!steps.empty() && falls(steps),
          str("method.dmd_denoising_steps must fall, got ", listed(steps)));
  require(r.training.data.training_cfg_rate == 0,
          str("training.data.training_cfg_rate must be 0 in method ", name_of(r.method.kind),
              ": the student is always conditional"));
}

void check_distill(const Recipe& r) {
  const Method& m = r.method;
  require(m.real_score_guidance_interval[0] <= m.real_score_guidance_interval[1],
          str("method.real_score_guidance_interval must rise, got ",
              m.real_score_guidance_interval[0], " and ", m.real_score_guidance_interval[1]));
  require(m.min_timestep_ratio < m.max_timestep_ratio,
          str("method.min_timestep_ratio must be below max_timestep_ratio, got ",
              m.min_timestep_ratio, " and ", m.max_timestep_ratio));
  require(m.regression_weight == 0 || m.rollout_mode == RolloutMode::kSimulate,
          str("method.regression_weight ", m.regression_weight,
              " needs method.rollout_mode simulate: rows of trajectories hold no clips to noise"));
  require(m.regression_steps == 0 || m.regression_weight > 0,
          str("method.regression_steps ", m.regression_steps,
              " has no effect without method.regression_weight. Set the weight, or leave the steps "
              "out"));
  const auto num_steps = static_cast<int64_t>(m.dmd_denoising_steps.size());
  require(m.regression_steps <= num_steps,
          str("method.regression_steps ", m.regression_steps, " is beyond the ", num_steps,
              " steps of method.dmd_denoising_steps"));
  require(m.critic_warmup <= r.training.loop.max_train_steps,
          str("method.critic_warmup ", m.critic_warmup, " is beyond training.loop.max_train_steps ",
              r.training.loop.max_train_steps));
  check_k(r);
}

void check_data(const Recipe& r) {
  const Data& d = r.training.data;
  const MethodKind method = r.method.kind;
  const std::string at = "training.data.";
  const bool has_size = d.num_height > 0 && d.num_width > 0 && d.num_frames > 0;
  const bool simulates =
      method == MethodKind::kDistill && r.method.rollout_mode == RolloutMode::kSimulate;
  require(d.num_frames == 0 || d.num_frames % 4 == 1,
          str(at, "num_frames must be 4k+1, got ", d.num_frames));
  if (d.source == DataSource::kParquet) {
    require(!d.data_path.empty(),
            str(at, "data_path is not given: folders of Parquet rows, or ", at, "source shapes"));
    require(trains_transformer(method),
            str(at, "source must be shapes for method ", name_of(method),
                ": Parquet rows hold latents, not pixels"));
  } else {
    require(!reads_trajectories(r.method),
            str(at, "source shapes has no part in ",
                method == MethodKind::kOde ? "method ode" : "method.regression_weight",
                ": it reads a teacher's trajectories, rows of fastwan preprocess synth "
                "--ode-timesteps"));
    require(d.data_path.empty(), str(at, "data_path has no part in source shapes. Leave it out"));
    require(has_size, str(at,
                          "num_frames, num_height and num_width are the size of procedural "
                          "clips; all three must be given"));
    require(d.preprocessed_data_type == RowKind::kT2v,
            str(at, "preprocessed_data_type is of Parquet rows"));
  }
  require(
      d.shapes.crop_frames == 0 || (method == MethodKind::kVae && d.shapes.crop_frames % 4 == 1 &&
                                    d.shapes.crop_frames <= d.num_frames),
      str(at, "shapes.crop_frames is for method vae, 4k+1 and at most num_frames, got ",
          d.shapes.crop_frames));
  require(d.preprocessed_data_type == RowKind::kT2v || simulates,
          str(at,
              "preprocessed_data_type text_only needs method distill with rollout_mode "
              "simulate: other losses need latents"));
  require(!simulates || has_size,
          str(at,
              "num_frames, num_height and num_width are the size of simulated clips; all three "
              "must be given"));
}

void check_attention(const Recipe& r) {
  const Vsa& vsa = r.training.vsa;
  require(vsa.sparsity < 1, "training.vsa.sparsity must be below 1");
  const AttentionBackend student = r.models.at("student").attention_backend;
  require(vsa.sparsity == 0 || student == AttentionBackend::kVsa,
          str("training.vsa.sparsity ", vsa.sparsity,
              " needs models.student.attention_backend vsa, got ", name_of(student)));
  require(vsa.coarse_branch || student == AttentionBackend::kVsa,
          str("training.vsa.coarse_branch false needs models.student.attention_backend vsa, got ",
              name_of(student)));
  for (const auto& [role, model] : r.models) {
    require(model.kind == NetworkKind::kWan || model.attention_backend == AttentionBackend::kDense,
            str("models.", role, ".attention_backend vsa is for transformers, this is a ",
                name_of(model.kind)));
  }
}

void check_precision(const Recipe& r) {
  const Training& t = r.training;
  require(t.dit_precision != ComputeDtype::kBf16,
          "training.dit_precision must be fp32 or fp64: masters in bf16 lose small updates");
  require((t.dit_precision == ComputeDtype::kFp64) == (t.compute_dtype == ComputeDtype::kFp64),
          "training.dit_precision and training.compute_dtype must both be fp64 or neither");
  require(t.checkpoint.export_dtype != ComputeDtype::kFp64,
          "training.checkpoint.export_dtype must be fp32 or bf16");
}

// A few-step student is sampled at its timesteps.
void check_few_step_validation(const Recipe& r) {
  const Validation& v = r.callbacks.validation;
  const std::string at = "callbacks.validation.";
  const auto num_steps =
      static_cast<int64_t>(v.sampling_timesteps.empty() ? r.method.dmd_denoising_steps.size()
                                                        : v.sampling_timesteps.size());
  require(v.sampling_steps.empty() || v.sampling_steps == std::vector<int64_t>{num_steps},
          str(at, "sampling_steps must be ", num_steps, ", the timesteps of ",
              v.sampling_timesteps.empty() ? "method.dmd_denoising_steps" : "sampling_timesteps",
              ", got ", listed(v.sampling_steps), ". Leave it out"));
}

void check_validation(const Recipe& r) {
  const Validation& v = r.callbacks.validation;
  if (v.every_steps == 0) {
    return;
  }
  const std::string at = "callbacks.validation.";
  const MethodKind method = r.method.kind;
  require(!v.dataset_file.empty() || !v.prompts.empty(),
          str(at, "every_steps needs dataset_file or prompts"));
  require(trains_transformer(method),
          str(at, "every_steps is for methods that make videos, this is ", name_of(method)));
  require(is_few_step(method) || v.sampling_timesteps.empty(),
          str(at,
              "sampling_timesteps is for methods distill and ode; sampling_steps says how "
              "many"));
  require(method == MethodKind::kFinetune || v.data_path.empty(),
          str(at, "data_path is for method finetune: a few-step student has no loss on rows"));
  require(v.loss_rows > 0 || v.data_path.empty(), str(at, "data_path needs loss_rows, which is 0"));
  if (is_few_step(method)) {
    check_few_step_validation(r);
  }
}

void check_callbacks(const Recipe& r) {
  require(r.callbacks.ema.decay < 1, "callbacks.ema.decay must be below 1");
  const Validation& v = r.callbacks.validation;
  require(v.dataset_file.empty() || v.prompts.empty(),
          "callbacks.validation.dataset_file and prompts are both given; leave one out");
  require(
      falls(v.sampling_timesteps),
      str("callbacks.validation.sampling_timesteps must fall, got ", listed(v.sampling_timesteps)));
  check_validation(r);
  for (const std::string& tracker : r.training.tracker.trackers) {
    require(tracker == "jsonl" || tracker == "csv" || tracker == "tensorboard",
            str("training.tracker.trackers must be of jsonl, csv, tensorboard, got ",
                escape_control(tracker)));
  }
}

}  // namespace

void check_recipe(const Recipe& recipe) {
  check_roles(recipe);
  check_shared_base(recipe);
  check_distributed(recipe);
  check_optimizer(recipe);
  check_frozen_encoder(recipe);
  if (is_few_step(recipe.method.kind)) {
    check_few_step(recipe);
  }
  if (recipe.method.kind == MethodKind::kDistill) {
    check_distill(recipe);
  }
  check_data(recipe);
  check_attention(recipe);
  check_precision(recipe);
  check_callbacks(recipe);
}

}  // namespace fastwan::config
