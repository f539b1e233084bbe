// Every setting of `fastwan train`, and its one description.
//
// describe() names each setting once: the YAML reader, dotted overrides, to_yaml() and the manual
// visit it. Keys are FastVideo's train file (models, method, training, callbacks, pipeline); keys
// that it lacks are added inside that schema.
//
// A Recipe that was read is complete: what was left out holds its default, and "as the student" or
// "auto" are resolved to what they mean. to_yaml() writes all of it and reads back equal.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/files.h"
#include "config/generate.h"

namespace fastwan::config {

enum class MethodKind { kFinetune, kDistill, kOde, kVae, kText, kFeatures };
enum class NetworkKind { kWan, kWanVae, kUmt5, kFeatureNet };
enum class WeightsInit { kPretrained, kRandom };
enum class Recompute { kInherit, kNone, kFull, kEveryN, kOps };
enum class RolloutMode { kDataLatent, kSimulate };
enum class KScope {
  kStep,
  kGroup,  // processes of a shard group, which must run equally many forwards
  kSample
};
enum class NanPolicy { kStop, kZero };
enum class UnconditionalText { kNegativePrompt, kZero };
enum class OptimizerKind {
  kAdamW,
  kMuon  // on the matrices of blocks, AdamW on all else
};
enum class LrScheduler {
  kAsStudent,  // of the critic alone; resolved on reading
  kConstant,
  kConstantWithWarmup,
  kLinear,
  kCosine,
  kPolynomial,
  kCosineWithMinLr
};
enum class TimestepDensity { kUniform, kLogitNormal, kMode };
enum class ComputeDtype { kFp64, kFp32, kBf16 };
enum class MomentDtype { kFp32, kBf16Sr, kNone };  // Sr: stochastic rounding
enum class ReduceDtype { kFp32, kBf16 };
enum class AccumSync { kEach, kLast };
enum class DataSource { kParquet, kShapes };
enum class RowKind { kT2v, kTextOnly };
enum class ShapesRange { kTraining, kVae, kProbe };

// Whether it trains a transformer, on latents.
bool trains_transformer(MethodKind method);
// Whether its student samples at method.dmd_denoising_steps.
bool is_few_step(MethodKind method);

std::span<const EnumName<MethodKind>> names(MethodKind);
std::span<const EnumName<NetworkKind>> names(NetworkKind);
std::span<const EnumName<WeightsInit>> names(WeightsInit);
std::span<const EnumName<Recompute>> names(Recompute);
std::span<const EnumName<RolloutMode>> names(RolloutMode);
std::span<const EnumName<KScope>> names(KScope);
std::span<const EnumName<NanPolicy>> names(NanPolicy);
std::span<const EnumName<UnconditionalText>> names(UnconditionalText);
std::span<const EnumName<OptimizerKind>> names(OptimizerKind);
std::span<const EnumName<LrScheduler>> names(LrScheduler);
std::span<const EnumName<TimestepDensity>> names(TimestepDensity);
std::span<const EnumName<ComputeDtype>> names(ComputeDtype);
std::span<const EnumName<MomentDtype>> names(MomentDtype);
std::span<const EnumName<ReduceDtype>> names(ReduceDtype);
std::span<const EnumName<AccumSync>> names(AccumSync);
std::span<const EnumName<DataSource>> names(DataSource);
std::span<const EnumName<RowKind>> names(RowKind);
std::span<const EnumName<ShapesRange>> names(ShapesRange);

using Betas = std::array<double, 2>;
using Interval = std::array<double, 2>;  // both ends included

struct Lora {
  bool enable = false;
  int64_t rank = 32;
  double alpha = 0;  // 0: the rank; resolved on reading
  std::vector<std::string> target_modules;
  bool shared_base = false;
};

// One network of the run.
struct RoleModel {
  NetworkKind kind = NetworkKind::kWan;
  std::string init_from;
  WeightsInit init = WeightsInit::kPretrained;
  bool trainable = true;
  double flow_shift = 3.0;
  AttentionBackend attention_backend = AttentionBackend::kAuto;        // resolved: kVsa or kDense
  Recompute enable_gradient_checkpointing_type = Recompute::kInherit;  // resolved
  Lora lora;
};

struct Method {
  MethodKind kind = MethodKind::kFinetune;
  // distill
  RolloutMode rollout_mode = RolloutMode::kDataLatent;
  std::vector<int64_t> dmd_denoising_steps = {1000, 757, 522};
  bool warp_denoising_step = false;
  int64_t generator_update_interval = 5;
  int64_t critic_warmup = 0;
  double real_score_guidance_scale = 4.5;          // standard scale: x_u + scale (x_c - x_u)
  Interval real_score_guidance_interval = {0, 1};  // of the score timestep over 1000
  double min_timestep_ratio = 0.02;
  double max_timestep_ratio = 0.98;
  double fake_score_learning_rate = 0;  // 0: the student's; resolved on reading
  Betas fake_score_betas = {-1, -1};    // -1: the student's; resolved on reading
  LrScheduler fake_score_lr_scheduler = LrScheduler::kAsStudent;
  double regression_weight = 0;
  int64_t regression_steps = 0;  // 0: all of dmd_denoising_steps
  KScope k_scope = KScope::kStep;
  int64_t k_block = 0;
  NanPolicy nan_policy = NanPolicy::kStop;
  UnconditionalText cfg_uncond_text = UnconditionalText::kNegativePrompt;
  // networks with two experts
  double boundary_ratio = 0;
  // vae
  double kl_weight = 1e-6;
  double mse_weight = 0;
  bool train_encoder = true;
  int64_t statistics_clips = 2048;
};

// Whether it trains on rows of a teacher's trajectories.
bool reads_trajectories(const Method& method);

struct Distributed {
  int64_t num_gpus = 1;
  int64_t sp_size = 1;
  int64_t tp_size = 1;
  int64_t hsdp_replicate_dim = 0;  // 0 or -1: what the other leaves; resolved on reading
  int64_t hsdp_shard_dim = 0;
  ReduceDtype reduce_dtype = ReduceDtype::kFp32;
  AccumSync accum_sync = AccumSync::kEach;
  double dist_timeout = 600;  // seconds
};

// Procedural captioned clips; their size is training.data.num_{frames,height,width}.
struct ShapesData {
  int64_t seed = 0;
  ShapesRange range = ShapesRange::kTraining;  // ranges do not meet
  int64_t first_index = 0;                     // of the range
  int64_t count = 32768;
  int64_t crop_frames = 0;
};

struct Data {
  DataSource source = DataSource::kParquet;
  std::string data_path;
  RowKind preprocessed_data_type = RowKind::kT2v;
  ShapesData shapes;
  int64_t train_batch_size = 1;  // of one data rank and micro-batch
  int64_t dataloader_num_workers = 4;
  double training_cfg_rate = 0;
  int64_t seed = 1000;
  int64_t num_latent_t = 0;
  int64_t num_height = 0, num_width = 0, num_frames = 0;  // pixels
  int64_t text_len = 512;
};

struct Optimizer {
  OptimizerKind kind = OptimizerKind::kAdamW;
  double learning_rate = 2e-6;
  Betas betas = {0.9, 0.999};
  double weight_decay = 0.01;
  double eps = 1e-8;
  LrScheduler lr_scheduler = LrScheduler::kConstant;
  int64_t lr_warmup_steps = 0;
  double lr_num_cycles = 0.5;
  double lr_power = 1.0;
  double min_lr_ratio = 0.5;
  MomentDtype m_dtype = MomentDtype::kFp32;
  MomentDtype v_dtype = MomentDtype::kFp32;
};

struct Loop {
  int64_t max_train_steps = 4000;
  int64_t gradient_accumulation_steps = 1;
  double max_seconds = 0;
};

struct Checkpoint {
  std::string output_dir;
  std::string resume_from_checkpoint = "auto";
  int64_t training_state_checkpointing_steps = 500;
  int64_t weight_only_checkpointing_steps = 0;
  int64_t checkpoints_total_limit = 3;
  int64_t max_file_bytes = int64_t{1} << 32;
  bool embed_frozen = false;
  std::string export_path;  // resolved on reading: OUTPUT_DIR/export
  ComputeDtype export_dtype = ComputeDtype::kFp32;
  int64_t export_limit_bytes = 0;
};

struct Tracker {
  std::vector<std::string> trackers = {"jsonl"};
  std::string project_name, run_name;
  bool log_visualization = false;
  int64_t log_every_steps = 1;
};

struct ModelTraining {
  TimestepDensity weighting_scheme = TimestepDensity::kUniform;
  double logit_mean = 0, logit_std = 1;
  double mode_scale = 1.29;
  bool precondition_outputs = false;
  int64_t timestep_grid = 0;
  Recompute enable_gradient_checkpointing_type = Recompute::kFull;
  int64_t recompute_every_n = 1;
};

struct Vsa {
  double sparsity = 0;
  double VSA_decay_rate = 0.01;
  int64_t VSA_decay_interval_steps = 0;
  TopkFormula topk_rule = TopkFormula::kPadded;
  bool coarse_branch = true;
};

struct Training {
  std::string model_path;
  Distributed distributed;
  Data data;
  Optimizer optimizer;
  Loop loop;
  Checkpoint checkpoint;
  Tracker tracker;
  ModelTraining model;
  Vsa vsa;
  ComputeDtype dit_precision = ComputeDtype::kFp32;  // of the masters
  ComputeDtype compute_dtype = ComputeDtype::kBf16;
};

struct GradClip {
  double max_grad_norm = 1.0;
};

struct Ema {
  double decay = 0;
  int64_t start_iter = 0;
  bool use_for_validation = true;
  bool use_for_export = true;
};

struct Validation {
  std::string dataset_file;
  std::vector<std::string> prompts;
  int64_t every_steps = 0;
  bool run_at_start = true;
  std::vector<int64_t> sampling_steps;
  std::vector<int64_t> sampling_timesteps;
  double guidance_scale = 1.0;
  int64_t num_frames = 0;
  std::string data_path;
  int64_t loss_rows = 24;
};

struct Callbacks {
  GradClip grad_clip;
  Ema ema;
  Validation validation;
};

struct Pipeline {
  double flow_shift = 0;  // 0: the student's; resolved on reading
  std::string negative_prompt;
};

struct Recipe {
  std::map<std::string, RoleModel> models;  // student, teacher, critic
  Method method;
  Training training;
  Callbacks callbacks;
  Pipeline pipeline;
};

// What Wan's own recipes take as the unconditional text.
std::string wan_negative_prompt();

// "training.optimizer.learning_rate" and a text, as on the command line.
using Override = std::pair<std::string, std::string>;

// A YAML or JSON file, ours or FastVideo's (its `_target_` names); overrides are stronger. The
// result is complete and has passed check_recipe(). `notes`: what of FastVideo's file has no
// counterpart here.
// Errors: not_found, bad_config, unknown_key with the nearest key, duplicate_key, bad_value,
// conflict, unsupported_method.
Recipe read_recipe(const Path& file,
                   std::span<const Override> overrides = {},
                   std::vector<std::string>* notes = nullptr);
Recipe parse_recipe(std::string_view yaml,
                    const std::string& origin,
                    std::span<const Override> overrides = {},
                    std::vector<std::string>* notes = nullptr);

// The method that a file names, for what must be known before all of it is read.
MethodKind method_in(const Path& file);

// What can be refused without weights: order of the step list, ranges, replicate x shard = GPUs,
// rules of k, betas, roles that a method needs. InvalidInput bad_value or conflict.
void check_recipe(const Recipe& recipe);

// Complete, in one order, with every key; parse_recipe() of it gives an equal recipe.
std::string to_yaml(const Recipe& recipe);
// SHA-256 of to_yaml().
std::string recipe_hash(const Recipe& recipe);

struct RecipeChange {
  std::string key, before, after;
};
std::vector<RecipeChange> recipe_changes(const Recipe& before, const Recipe& after);
// False for keys that leave weights as they are: where and how often files are written, how long a
// process runs, what is validated and logged.
bool affects_training(std::string_view key);

// Processes that see different data: GPUs / sp_size.
int64_t data_ranks(const Recipe& recipe);
// Examples of one iteration over all ranks and micro-batches.
int64_t global_batch(const Recipe& recipe);

struct RecipeField {
  std::string key;  // dotted path
  const char* help;
  Range range = {};
  bool splits_commas = false;  // a list of words: one text with commas counts as several
};

inline constexpr double kLargest = 9e15;  // whole numbers up to here are exact in a double

// Calls v.field(info, value) for everything above.
template <class Visitor>
void describe(Visitor& v, const std::string& role, RoleModel& m) {
  const std::string at = "models." + role + ".";
  v.field({at + "_target_", "kind of network: wan, wan_vae, umt5, feature_net"}, m.kind);
  v.field({at + "init_from", "Diffusers folder, cached hub id or checkpoint that it starts from"},
          m.init_from);
  v.field({at + "init", "random takes only the configs of init_from"}, m.init);
  v.field({at + "trainable", "frozen networks hold no optimizer state"}, m.trainable);
  v.field({at + "flow_shift", "shift of the timestep density", {1e-3, 1000}}, m.flow_shift);
  v.field({at + "attention_backend", "dense or vsa; auto: a student with sparsity is vsa"},
          m.attention_backend);
  v.field({at + "enable_gradient_checkpointing_type", "none, full, every_n or ops; inherit"},
          m.enable_gradient_checkpointing_type);
  v.field({at + "lora.enable", "train low-rank adapters, the base stays frozen"}, m.lora.enable);
  v.field({at + "lora.rank", "rank of the adapters", {1, 4096}}, m.lora.rank);
  v.field({at + "lora.alpha", "scale is alpha / rank; 0: the rank", {0, 1e6}}, m.lora.alpha);
  v.field({.key = at + "lora.target_modules",
           .help = "linear layers that get adapters; empty: those of attention",
           .splits_commas = true},
          m.lora.target_modules);
  v.field({at + "lora.shared_base", "student and critic share the teacher's frozen weights"},
          m.lora.shared_base);
}

template <class Visitor>
void describe(Visitor& v, Method& m) {
  v.field({"method._target_", "finetune, distill, ode, vae, text or features"}, m.kind);
  v.field({"method.rollout_mode", "the student's input: noised data, or its own earlier steps"},
          m.rollout_mode);
  v.field({"method.dmd_denoising_steps", "timesteps of the student, falling", {1, 1000}},
          m.dmd_denoising_steps);
  v.field({"method.warp_denoising_step", "the list names base timesteps, which flow_shift moves"},
          m.warp_denoising_step);
  v.field(
      {"method.generator_update_interval", "critic updates for one of the student", {1, 1000000}},
      m.generator_update_interval);
  v.field({"method.critic_warmup", "first iterations that update the critic alone", {0, kLargest}},
          m.critic_warmup);
  v.field({"method.real_score_guidance_scale",
           "classifier-free guidance of the teacher, standard scale; 1 is off",
           {0, 100}},
          m.real_score_guidance_scale);
  v.field({"method.real_score_guidance_interval",
           "score timesteps, over 1000, that are guided; elsewhere the scale is 1",
           {0, 1}},
          m.real_score_guidance_interval);
  v.field({"method.min_timestep_ratio", "score timesteps are clamped from here", {0, 1}},
          m.min_timestep_ratio);
  v.field({"method.max_timestep_ratio", "score timesteps are clamped to here", {0, 1}},
          m.max_timestep_ratio);
  v.field({"method.fake_score_learning_rate", "of the critic; 0: the student's", {0, 1}},
          m.fake_score_learning_rate);
  v.field({"method.fake_score_betas", "of the critic; -1: the student's", {-1, 1}},
          m.fake_score_betas);
  v.field({"method.fake_score_lr_scheduler", "of the critic; student: the student's"},
          m.fake_score_lr_scheduler);
  v.field({"method.regression_weight",
           "of ODE regression beside the score difference; above 0 the rows hold trajectories",
           {0, 1e6}},
          m.regression_weight);
  v.field({"method.regression_steps",
           "the first so many of dmd_denoising_steps are regressed; 0: all",
           {0, 1 << 20}},
          m.regression_steps);
  v.field(
      {"method.k_scope",
       "who shares the draw of the student's step: all of an iteration, processes that hold one "
       "state, nobody"},
      m.k_scope);
  v.field(
      {"method.k_block", "samples that split the steps evenly; 0: independent draws", {0, 1 << 20}},
      m.k_block);
  v.field({"method.nan_policy", "a non-finite gradient of the score difference"}, m.nan_policy);
  v.field({"method.cfg_uncond.text", "the teacher's unconditional text"}, m.cfg_uncond_text);
  v.field({"method.boundary_ratio",
           "two experts: share of the timesteps below which the second works; 0: one expert",
           {0, 1}},
          m.boundary_ratio);
  v.field({"method.kl_weight", "vae: weight of the divergence term", {0, 1e6}}, m.kl_weight);
  v.field({"method.mse_weight", "vae: weight of the squared error beside L1", {0, 1e6}},
          m.mse_weight);
  v.field({"method.train_encoder", "vae: false: the decoder alone, latents stay as they are"},
          m.train_encoder);
  v.field({"method.statistics_clips",
           "vae: clips that give latents_mean and latents_std at the end",
           {0, kLargest}},
          m.statistics_clips);
}

template <class Visitor>
void describe(Visitor& v, Distributed& d) {
  v.field({"training.distributed.num_gpus", "processes in all", {1, 1 << 20}}, d.num_gpus);
  v.field({"training.distributed.sp_size", "processes that share one video", {1, 1 << 20}},
          d.sp_size);
  v.field({"training.distributed.tp_size", "1 or -1", {-1, 1}}, d.tp_size);
  v.field({"training.distributed.hsdp_replicate_dim",
           "copies of the sharded state; 0 or -1: what shards leave",
           {-1, 1 << 20}},
          d.hsdp_replicate_dim);
  v.field({"training.distributed.hsdp_shard_dim",
           "processes that share one state; 0 or -1: what copies leave",
           {-1, 1 << 20}},
          d.hsdp_shard_dim);
  v.field({"training.distributed.reduce_dtype", "type in which gradients are summed"},
          d.reduce_dtype);
  v.field({"training.distributed.accum_sync", "reduce every micro-batch, or once"}, d.accum_sync);
  v.field({"training.distributed.dist_timeout",
           "seconds after which a silent process counts as dead",
           {1, 1e6}},
          d.dist_timeout);
}

template <class Visitor>
void describe(Visitor& v, Data& d) {
  v.field({"training.data.source", "Parquet rows or procedural clips"}, d.source);
  v.field({"training.data.data_path", "folders of Parquet rows; dirA:2,dirB:1 repeats the first"},
          d.data_path);
  v.field({"training.data.preprocessed_data_type", "what a row holds"}, d.preprocessed_data_type);
  v.field({"training.data.shapes.seed", "of the procedural clips", {0, kLargest}}, d.shapes.seed);
  v.field({"training.data.shapes.range", "clips of different ranges are different"},
          d.shapes.range);
  v.field({"training.data.shapes.first_index", "first clip of the range", {0, 1e12}},
          d.shapes.first_index);
  v.field({"training.data.shapes.count",
           "clips; where latents are trained on, all are encoded before the first step",
           {1, 1e12}},
          d.shapes.count);
  v.field({"training.data.shapes.crop_frames",
           "vae: random windows of so many frames; 0: whole clips",
           {0, 100000}},
          d.shapes.crop_frames);
  v.field({"training.data.train_batch_size", "videos a process and micro-batch", {1, 1 << 20}},
          d.train_batch_size);
  v.field({"training.data.dataloader_num_workers", "threads that read ahead", {0, 1024}},
          d.dataloader_num_workers);
  v.field({"training.data.training_cfg_rate",
           "share of captions replaced by the unconditional text",
           {0, 1}},
          d.training_cfg_rate);
  v.field({"training.data.seed", "of the run: order, noise, timesteps", {0, kLargest}}, d.seed);
  v.field({"training.data.num_latent_t", "latent frames used; 0: all", {0, 100000}},
          d.num_latent_t);
  v.field({"training.data.num_height", "pixels; 0: as the rows say", {0, 16384}}, d.num_height);
  v.field({"training.data.num_width", "pixels; 0: as the rows say", {0, 16384}}, d.num_width);
  v.field({"training.data.num_frames", "pixel frames, 4k+1; 0: as the rows say", {0, 100000}},
          d.num_frames);
  v.field({"training.data.text_len", "rows of the text embedding, zero-padded", {1, 65536}},
          d.text_len);
}

template <class Visitor>
void describe(Visitor& v, Training& t) {
  v.field({"training.model_path",
           "folder or cached hub id of VAE, text encoder and tokenizer; empty: the student's "
           "init_from"},
          t.model_path);
  describe(v, t.distributed);
  describe(v, t.data);
  Optimizer& o = t.optimizer;
  v.field(
      {"training.optimizer.name", "adamw, or muon for the matrices of blocks, adamw for the rest"},
      o.kind);
  v.field({"training.optimizer.learning_rate", "peak rate of the student", {0, 1}},
          o.learning_rate);
  v.field({"training.optimizer.betas", "of AdamW; a first beta of 0 keeps no moment", {0, 1}},
          o.betas);
  v.field({"training.optimizer.weight_decay", "on every parameter", {0, 1}}, o.weight_decay);
  v.field({"training.optimizer.eps", "of AdamW", {0, 1}}, o.eps);
  v.field({"training.optimizer.lr_scheduler", "shape of the rate over the iterations"},
          o.lr_scheduler);
  v.field({"training.optimizer.lr_warmup_steps", "iterations of linear rise", {0, kLargest}},
          o.lr_warmup_steps);
  v.field({"training.optimizer.lr_num_cycles", "cosine: waves; half a one falls once", {0, 1000}},
          o.lr_num_cycles);
  v.field({"training.optimizer.lr_power", "polynomial: exponent", {0, 100}}, o.lr_power);
  v.field({"training.optimizer.min_lr_ratio", "cosine_with_min_lr: floor", {0, 1}}, o.min_lr_ratio);
  v.field({"training.optimizer.m_dtype", "type of the first moment, in memory and on disk"},
          o.m_dtype);
  v.field({"training.optimizer.v_dtype", "type of the second moment, in memory and on disk"},
          o.v_dtype);
  v.field({"training.loop.max_train_steps", "iterations", {0, kLargest}}, t.loop.max_train_steps);
  v.field({"training.loop.gradient_accumulation_steps", "micro-batches an update", {1, 1 << 20}},
          t.loop.gradient_accumulation_steps);
  v.field({"training.loop.max_seconds",
           "then commit a checkpoint and exit 75; 0: no limit",
           {0, kLargest}},
          t.loop.max_seconds);
  Checkpoint& c = t.checkpoint;
  v.field({"training.checkpoint.output_dir", "folder of the run"}, c.output_dir);
  v.field({"training.checkpoint.resume_from_checkpoint", "auto, latest, none or a folder"},
          c.resume_from_checkpoint);
  v.field({"training.checkpoint.training_state_checkpointing_steps",
           "iterations between checkpoints; 0: only at the end",
           {0, kLargest}},
          c.training_state_checkpointing_steps);
  v.field({"training.checkpoint.weight_only_checkpointing_steps",
           "iterations between exports of the weights; 0: only at the end",
           {0, kLargest}},
          c.weight_only_checkpointing_steps);
  v.field({"training.checkpoint.checkpoints_total_limit",
           "checkpoints kept, never below two; 0: all",
           {0, kLargest}},
          c.checkpoints_total_limit);
  v.field({"training.checkpoint.max_file_bytes", "of one state file", {4096, kLargest}},
          c.max_file_bytes);
  v.field({"training.checkpoint.embed_frozen", "store frozen networks too, not their path"},
          c.embed_frozen);
  v.field({"training.checkpoint.export_path", "Diffusers folder of the result"}, c.export_path);
  v.field({"training.checkpoint.export_dtype", "fp32 or bf16"}, c.export_dtype);
  v.field({"training.checkpoint.export_limit_bytes",
           "refuse a run whose exported file would be larger; 0: no limit",
           {0, kLargest}},
          c.export_limit_bytes);
  v.field({.key = "training.tracker.trackers",
           .help = "jsonl, csv, tensorboard",
           .splits_commas = true},
          t.tracker.trackers);
  v.field({"training.tracker.project_name", "in the trackers' files"}, t.tracker.project_name);
  v.field({"training.tracker.run_name", "in the trackers' files"}, t.tracker.run_name);
  v.field({"training.tracker.log_visualization", "distill: decode what the networks predict"},
          t.tracker.log_visualization);
  v.field({"training.tracker.log_every_steps", "iterations between rows of metrics", {1, kLargest}},
          t.tracker.log_every_steps);
  ModelTraining& m = t.model;
  v.field({"training.model.weighting_scheme", "density of the timesteps before the shift"},
          m.weighting_scheme);
  v.field({"training.model.logit_mean", "logit_normal: mean", {-100, 100}}, m.logit_mean);
  v.field({"training.model.logit_std", "logit_normal: deviation", {0, 100}}, m.logit_std);
  // Below -1 and above 7.2 levels of noise fall outside 0 to 1.
  v.field({"training.model.mode_scale", "mode: strength", {-1, 7}}, m.mode_scale);
  v.field({"training.model.precondition_outputs", "compare predictions of the clean latent"},
          m.precondition_outputs);
  v.field({"training.model.timestep_grid", "0: continuous; 1000: FastVideo's grid", {0, 1000}},
          m.timestep_grid);
  v.field({"training.model.enable_gradient_checkpointing_type",
           "none, full, every_n or ops, for networks that inherit it"},
          m.enable_gradient_checkpointing_type);
  v.field({"training.model.recompute_every_n", "every_n: one block of n is recomputed", {1, 1024}},
          m.recompute_every_n);
  v.field({"training.vsa.sparsity", "share of key tiles left out at the end of the ramp", {0, 1}},
          t.vsa.sparsity);
  v.field({"training.vsa.VSA_decay_rate", "sparsity added an interval", {1e-6, 1}},
          t.vsa.VSA_decay_rate);
  v.field({"training.vsa.VSA_decay_interval_steps",
           "iterations an interval; 0: full sparsity from the start",
           {0, kLargest}},
          t.vsa.VSA_decay_interval_steps);
  v.field({"training.vsa.topk_rule", "padded: today's FastVideo; unpadded: at FastWan's release"},
          t.vsa.topk_rule);
  v.field({"training.vsa.coarse_branch", "the gated term of tile means; false: the tiles alone"},
          t.vsa.coarse_branch);
  v.field({"training.dit_precision", "type of the master weights"}, t.dit_precision);
  v.field({"training.compute_dtype", "type of the networks' arithmetic"}, t.compute_dtype);
}

template <class Visitor>
void describe(Visitor& v, Callbacks& c) {
  v.field({"callbacks.grad_clip.max_grad_norm", "of each network; 0: off", {0, 1e9}},
          c.grad_clip.max_grad_norm);
  v.field({"callbacks.ema.decay", "an update of the student; 0: off", {0, 1}}, c.ema.decay);
  v.field({"callbacks.ema.start_iter", "iteration that copies the weights", {0, kLargest}},
          c.ema.start_iter);
  v.field({"callbacks.ema.use_for_validation", "validate the averaged weights"},
          c.ema.use_for_validation);
  v.field({"callbacks.ema.use_for_export", "export the averaged weights"}, c.ema.use_for_export);
  Validation& a = c.validation;
  v.field({"callbacks.validation.dataset_file", "JSON {\"data\": [{\"caption\": ...}]}"},
          a.dataset_file);
  v.field({"callbacks.validation.prompts", "prompts, where there is no file"}, a.prompts);
  v.field({"callbacks.validation.every_steps", "iterations between; 0: off", {0, kLargest}},
          a.every_steps);
  v.field({"callbacks.validation.run_at_start", "also before the first iteration"}, a.run_at_start);
  v.field({"callbacks.validation.sampling_steps",
           "forwards of a video; empty: the method's, else 50",
           {1, 1000}},
          a.sampling_steps);
  v.field(
      {"callbacks.validation.sampling_timesteps", "timesteps; empty: the method's list", {1, 1000}},
      a.sampling_timesteps);
  v.field({"callbacks.validation.guidance_scale", "1 is off", {0, 100}}, a.guidance_scale);
  v.field({"callbacks.validation.num_frames", "pixel frames; 0: as trained", {0, 100000}},
          a.num_frames);
  v.field({"callbacks.validation.data_path",
           "finetune: rows for validation_loss, as training.data.data_path; procedural clips need "
           "none"},
          a.data_path);
  v.field({"callbacks.validation.loss_rows",
           "finetune: rows of validation_loss, at most; 0: no such loss",
           {0, 4096}},
          a.loss_rows);
}

template <class Visitor>
void describe(Visitor& v, Pipeline& p) {
  v.field({"pipeline.flow_shift", "shift of sampling; 0: the student's", {0, 1000}}, p.flow_shift);
  v.field({"pipeline.negative_prompt",
           "the unconditional text of sampling, caption dropout and the teacher's guidance"},
          p.negative_prompt);
}

template <class Visitor>
void describe(Visitor& v, Recipe& r) {
  for (auto& [role, model] : r.models) {
    describe(v, role, model);
  }
  describe(v, r.method);
  describe(v, r.training);
  describe(v, r.callbacks);
  describe(v, r.pipeline);
}

}  // namespace fastwan::config
