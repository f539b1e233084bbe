// fastwan_train: a recipe becomes a run.
#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <torch/version.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/commit.h"
#include "cli/tensor_entry/train_parts.h"
#include "cli/tensor_entry/train_validation.h"
#include "cli/tensor_entry/train_work.h"
#include "cli/tensor_library.h"
#include "cli/version.h"
#include "data/loader.h"
#include "pipelines/device.h"
#include "training/export.h"
#include "training/trainer.h"

namespace fastwan::cli {
namespace {

using config::Recipe;
using training::PieceKind;

constexpr const char* kStudent = "student";
constexpr const char* kCritic = "critic";

// Keys that change what a run leaves behind, when it stops or how fast it is, but no number of it.
constexpr std::array kHarmless = {"training.checkpoint.",
                                  "training.tracker.",
                                  "training.loop.max_seconds",
                                  "training.data.dataloader_num_workers",
                                  "training.distributed.dist_timeout",
                                  "callbacks.validation.",
                                  "callbacks.ema.use_for_"};

bool is_constant(config::LrScheduler kind) {
  return kind == config::LrScheduler::kConstant || kind == config::LrScheduler::kConstantWithWarmup;
}

// Keys whose model came from the hub cache, by the commit of its snapshot: a digest of a weight
// file is of names and shapes, and another revision has the same.
std::map<std::string, std::string> snapshot_commits(const TrainContext& context) {
  std::map<std::string, std::string> commits;
  const auto add = [&](const std::string& key, const std::string& model) {
    if (const auto found = context.snapshots.find(model); found != context.snapshots.end()) {
      commits[key] = found->second.filename().string();
    }
  };
  for (const auto& [role, model] : context.recipe.models) {
    add("models." + role + ".init_from", model.init_from);
  }
  add("training.model_path", context.recipe.training.model_path);
  return commits;
}

using Commits = std::map<std::string, std::string>;

std::set<std::string> changed_snapshots(const Commits& before, const Commits& now) {
  std::set<std::string> changed;
  for (const auto& [one, other] : {std::pair(&before, &now), std::pair(&now, &before)}) {
    for (const auto& [key, commit] : *one) {
      if (const auto found = other->find(key); found == other->end() || found->second != commit) {
        changed.insert(key);
      }
    }
  }
  return changed;
}

std::string origin_of(const Commits& commits, const std::string& key) {
  const auto found = commits.find(key);
  return found == commits.end() ? "a folder" : "snapshot " + found->second + " of the hub cache";
}

// Digests of frozen weights: "headers+samples"; of an earlier program's checkpoint headers alone.
bool are_same_weights(const std::string& stored, const std::string& ours) {
  return stored == ours || (!stored.empty() && stored.find('+') == std::string::npos &&
                            ours.starts_with(stored + '+'));
}

// Refuses to go on with what is not the stored run, listing every difference. `ours` may have no
// digest of the data yet.
void check_same_run(const training::RunState& stored,
                    const training::RunState& ours,
                    const Recipe& recipe,
                    const std::vector<std::string>& allowed) {
  const auto is_allowed = [&allowed](const std::string& word) {
    return std::find(allowed.begin(), allowed.end(), word) != allowed.end();
  };
  std::vector<std::string> differences;
  const Recipe before = config::parse_recipe(stored.config, "config.yaml of the checkpoint");
  for (const config::RecipeChange& change : config::recipe_changes(before, recipe)) {
    const bool is_harmless =
        std::any_of(kHarmless.begin(), kHarmless.end(),
                    [&change](const char* prefix) { return change.key.starts_with(prefix); });
    const bool only_goes_on = change.key == "training.loop.max_train_steps" &&
                              is_constant(recipe.training.optimizer.lr_scheduler) &&
                              is_constant(recipe.method.fake_score_lr_scheduler);
    const bool is_seed = change.key == "training.data.seed" && is_allowed("seed");
    if (!is_harmless && !only_goes_on && !is_seed && !is_allowed("config") &&
        !is_allowed(change.key)) {
      differences.push_back(str(change.key, " was ", change.before, ", is ", change.after));
    }
  }
  const bool is_known = !ours.data_digest.empty();
  if (is_known && stored.data_digest != ours.data_digest && !is_allowed("dataset")) {
    differences.emplace_back("the data are others");
  }
  if (stored.world != ours.world && !is_allowed("world_size")) {
    differences.push_back(str("ranks were ", stored.world, ", are ", ours.world));
  }
  for (const std::string& key : changed_snapshots(stored.snapshots, ours.snapshots)) {
    if (!is_allowed("config") && !is_allowed(key)) {
      differences.push_back(str("the model of ", key, " was ", origin_of(stored.snapshots, key),
                                ", is ", origin_of(ours.snapshots, key)));
    }
  }
  for (const auto& [role, digest] : stored.frozen) {
    const auto now = ours.frozen.find(role);
    if ((now == ours.frozen.end() || !are_same_weights(digest, now->second)) &&
        !is_allowed("config")) {
      differences.push_back(str("the frozen weights of ", role, " are others"));
    }
  }
  if (!differences.empty()) {
    throw Failure(Code::kChangedRun,
                  str("the checkpoint is of another run: ", join_first(differences, 10),
                      ". Give this run its own output_dir, or accept with --allow-change"));
  }
}

// cuda for cuda:1: which of several equal ones changes no bit.
std::string_view kind_of_device(std::string_view device) {
  return device.substr(0, device.find(':'));
}

// What a person must know who expects the bits of an uninterrupted run; empty: nothing. Of an
// earlier program's checkpoint what it tells.
std::string environment_note(const training::Checkpoint& checkpoint,
                             const std::map<std::string, std::string>& ours) {
  std::vector<std::string> differences;
  for (const auto& [key, before] : checkpoint.state().environment) {
    const auto now = ours.find(key);
    const bool is_same = now == ours.end() || now->second == before ||
                         (key == "device" && kind_of_device(now->second) == kind_of_device(before));
    if (!is_same) {
      differences.push_back(
          str(escape_control(key), " was ", escape_control(before), ", is ", now->second));
    }
  }
  return differences.empty()
             ? ""
             : str(checkpoint.folder().string(),
                   " was saved elsewhere: ", join_first(differences, differences.size()),
                   ". The run goes on, but its numbers may part in the last bits from those of "
                   "an uninterrupted one");
}

training::LrKind lr_kind_of(config::LrScheduler kind) {
  switch (kind) {
    case config::LrScheduler::kConstantWithWarmup:
      return training::LrKind::kConstantWithWarmup;
    case config::LrScheduler::kLinear:
      return training::LrKind::kLinear;
    case config::LrScheduler::kCosine:
      return training::LrKind::kCosine;
    case config::LrScheduler::kPolynomial:
      return training::LrKind::kPolynomial;
    case config::LrScheduler::kCosineWithMinLr:
      return training::LrKind::kCosineWithMinLr;
    default:
      return training::LrKind::kConstant;
  }
}

training::LrSchedule schedule_of(const Recipe& recipe, config::LrScheduler kind) {
  const config::Optimizer& o = recipe.training.optimizer;
  constexpr double kHalfWave = 0.5;
  return {.kind = lr_kind_of(kind),
          .warmup_steps = o.lr_warmup_steps,
          .total_steps = recipe.training.loop.max_train_steps,
          .min_lr_ratio = o.min_lr_ratio,
          .num_cycles = o.lr_num_cycles > 0 ? static_cast<double>(o.lr_num_cycles) : kHalfWave,
          .power = o.lr_power};
}

training::AdamWOptions adamw_of(const Recipe& recipe, const config::Betas& betas, int64_t network) {
  const config::Optimizer& o = recipe.training.optimizer;
  const auto held = [](config::MomentDtype type) {
    return type == config::MomentDtype::kBf16Sr ? training::MomentType::kBf16Stochastic
                                                : training::MomentType::kMaster;
  };
  return {.beta1 = betas[0],
          .beta2 = betas[1],
          .eps = o.eps,
          .weight_decay = o.weight_decay,
          .m_type = held(o.m_dtype),
          .v_type = held(o.v_dtype),
          .seed = static_cast<uint64_t>(recipe.training.data.seed),
          .network = network};
}

std::map<std::string, training::RoleOptions> role_options(const Recipe& recipe) {
  const config::Optimizer& o = recipe.training.optimizer;
  training::RoleOptions student{.learning_rate = o.learning_rate,
                                .schedule = schedule_of(recipe, o.lr_scheduler),
                                .adamw = adamw_of(recipe, o.betas, 0),
                                .takes_muon = o.kind == config::OptimizerKind::kMuon};
  if (recipe.callbacks.ema.decay > 0) {
    student.ema = training::EmaOptions{.decay = recipe.callbacks.ema.decay,
                                       .start_step = recipe.callbacks.ema.start_iter};
  }
  std::map<std::string, training::RoleOptions> roles = {{kStudent, student}};
  if (recipe.method.kind == config::MethodKind::kDistill) {
    const config::Method& m = recipe.method;
    roles[kCritic] = {.learning_rate = m.fake_score_learning_rate,
                      .schedule = schedule_of(recipe, m.fake_score_lr_scheduler),
                      .adamw = adamw_of(recipe, m.fake_score_betas, 1),
                      .takes_muon = o.kind == config::OptimizerKind::kMuon,
                      .rate_name = "fake_score_learning_rate"};
  }
  return roles;
}

bool tracks(const Recipe& recipe, const char* tracker) {
  const std::vector<std::string>& all = recipe.training.tracker.trackers;
  return std::find(all.begin(), all.end(), tracker) != all.end();
}

// The processor that trains.
std::string processor_of(const TrainContext& context, const config::TrainRun& run) {
  if (context.device.is_cpu()) {
    return run.cpu_name;
  }
  const auto index = static_cast<std::size_t>(std::max<int>(0, context.device.index()));
  return index < run.gpu_names.size() ? run.gpu_names[index] : "";
}

training::RunState identity_of(const TrainContext& context,
                               const config::TrainRun& run,
                               const TrainDraft& draft) {
  const Recipe& recipe = context.recipe;
  training::RunState state{.method = config::name_of(recipe.method.kind),
                           .config = config::to_yaml(recipe),
                           .seed = static_cast<uint64_t>(recipe.training.data.seed),
                           .data_digest = draft.data_digest,
                           .world = context.mesh.world->size(),
                           .frozen = draft.frozen,
                           .snapshots = snapshot_commits(context)};
  state.environment = {{"program", kVersion},
                       {"commit", source_commit()},
                       {"torch", TORCH_VERSION},
                       {"device", context.device.str()},
                       {"processor", processor_of(context, run)},
                       {"deterministic", run.deterministic ? "yes" : "no"},
                       {"threads", str(at::get_num_threads())},
                       {"instructions", at::get_cpu_capability()}};
  return state;
}

void settle_device(const config::TrainRun& run) {
  if (run.threads > 0) {
    at::set_num_threads(static_cast<int>(run.threads));
  }
  // Every iteration has the same shapes: a search for the fastest convolutions pays for itself.
  at::globalContext().setBenchmarkCuDNN(true);
  if (run.deterministic) {
    at::globalContext().setDeterministicAlgorithms(/*enabled=*/true, /*warn_only=*/false);
    at::globalContext().setDeterministicCuDNN(true);
    at::globalContext().setBenchmarkCuDNN(false);
  }
}

// What the run is, for people and for later: resolved config, versions, seed.
void write_identity(const Path& run, const training::RunState& identity) {
  write_durably(run / "config.yaml", identity.config);
  write_durably(run / "run.json", dump_json({{"environment", identity.environment},
                                             {"seed", identity.seed},
                                             {"data_digest", identity.data_digest},
                                             {"snapshots", identity.snapshots},
                                             {"config_sha256", sha256_hex(identity.config)}}));
}

// What would only show after the last step: what the export copies, and what it would replace.
void check_export(const TrainContext& context) {
  const Recipe& recipe = context.recipe;
  const std::string& start = recipe.models.at(kStudent).init_from;
  if (!start.empty()) {
    training::check_export_base(context.folder_of(start));
  }
  std::vector<Path> in_use = {recipe.training.checkpoint.output_dir,
                              std::filesystem::current_path()};
  for (const auto& [role, model] : recipe.models) {
    if (!model.init_from.empty()) {
      in_use.push_back(context.folder_of(model.init_from));
    }
  }
  if (!recipe.training.model_path.empty()) {
    in_use.push_back(context.folder_of(recipe.training.model_path));
  }
  training::check_export_target(recipe.training.checkpoint.export_path, in_use);
}

// Forwards of a process that make up its share of an iteration. An iteration is what the recipe
// says, on however many processes: fewer make one behind the other what more make at once, the same
// samples in the same groups.
int64_t micro_batches(const TrainContext& context) {
  const Recipe& recipe = context.recipe;
  const int64_t accumulated = recipe.training.loop.gradient_accumulation_steps;
  const int64_t world = context.mesh.world->size();
  const int64_t processes = recipe.training.distributed.num_gpus;
  if (world == processes) {
    return accumulated;
  }
  const int64_t batch = recipe.training.data.train_batch_size;
  const int64_t count = std::max<int64_t>(1, config::global_batch(recipe) / (batch * world));
  context.on_note(str("the recipe is for ", processes, " processes, this run has ", world,
                      ": an iteration accumulates ", count, " micro-batches of ", batch));
  return count;
}

config::TrainReport train(const TrainCall& call) {
  const Recipe& recipe = call.recipe;
  settle_device(call.run);
  const TrainContext context{
      .recipe = recipe,
      .device = pipelines::resolve_device(call.run.device),
      .mesh = distributed::one_process(),
      .watch = call.watch,
      .media_roots = call.run.media_roots,
      .snapshots = call.run.snapshots,
      .on_note = call.listener.on_note ? call.listener.on_note : [](const std::string&) {}};
  const config::Checkpoint& saving = recipe.training.checkpoint;
  const Path run = saving.output_dir;
  std::error_code error;
  std::filesystem::create_directories(run, error);
  if (error) {
    throw_io_error(error.value(), run, "create folder");
  }

  // Cheap mistakes first: nothing before load() reads weights, but for a checkpoint's digests.
  check_export(context);
  const int64_t num_micro_batches = micro_batches(context);
  const TrainDraft draft = trains_flow(recipe) ? draft_flow(context) : draft_shapes(context);
  const data::LoaderOptions loading{
      .seed = static_cast<uint64_t>(recipe.training.data.seed),
      .global_batch = config::global_batch(recipe),
      .rank = context.mesh.world->rank(),
      .world = context.mesh.world->size(),
      .micro_batches = num_micro_batches,
      .text_rows = recipe.training.data.text_len,
      .latent_frames = draft.latent_frames,
      .threads = std::max<int64_t>(1, recipe.training.data.dataloader_num_workers)};
  data::check_loader(loading, draft.num_rows);
  training::RunState identity = identity_of(context, call.run, draft);
  const training::RunStart start = training::open_run(
      run, training::read_resume_choice(call.run.resume), *context.mesh.world, context.on_note);
  if (start.checkpoint) {
    check_same_run(start.checkpoint->state(), identity, recipe, call.run.allow_change);
    if (const std::string note = environment_note(*start.checkpoint, identity.environment);
        !note.empty()) {
      context.on_note(note);
    }
  }

  const TrainSetup setup = draft.load();
  identity.data_digest = setup.source->digest();
  data::Loader loader(setup.source, loading);

  training::TrainerOptions options{
      .run = run,
      .identity = std::move(identity),
      .roles = role_options(recipe),
      .max_steps = recipe.training.loop.max_train_steps,
      .micro_batches = num_micro_batches,
      .max_grad_norm = recipe.callbacks.grad_clip.max_grad_norm,
      .max_seconds = recipe.training.loop.max_seconds,
      .checkpoint_every = saving.training_state_checkpointing_steps,
      .save = {.max_file_bytes = saving.max_file_bytes,
               .limit = saving.checkpoints_total_limit,
               .on_note = context.on_note},
      .log_every = recipe.training.tracker.log_every_steps,
      .writes_jsonl = tracks(recipe, "jsonl"),
      .writes_csv = tracks(recipe, "csv"),
      .writes_events = tracks(recipe, "tensorboard"),
      .tokens_per_step = setup.tokens_per_step,
      .operations = setup.operations,
      .peak_rate = peak_rate(context, call.run.gpu_rates),
      .gpu = context.device.is_cuda() ? std::optional(context.device) : std::nullopt,
      .profile = {.file = call.run.profile, .with_gpu = context.device.is_cuda()}};
  options.check_resume = [&, ours = options.identity](const training::RunState& stored) {
    check_same_run(stored, ours, recipe, call.run.allow_change);
  };
  training::Trainer* running = nullptr;
  const auto write_export = [&](const Path& to) {
    std::optional<training::WithEma> average;
    training::Ema* ema = running->ema(kStudent);
    if (ema != nullptr && recipe.callbacks.ema.use_for_export) {
      average.emplace(*ema);
    }
    setup.write_export(to);
  };
  config::TrainReport report{.device = context.device.str()};
  training::TrainerHooks hooks{.prepare = setup.prepare};
  hooks.on_note = context.on_note;
  hooks.on_start = [&, identity = options.identity] {
    write_identity(run, identity);
    setup.write_beside(run);
  };
  hooks.on_step = [&](int64_t step, const training::Metrics& metrics) {
    if (call.listener.on_progress) {
      call.listener.on_progress(
          {.step = step, .total = recipe.training.loop.max_train_steps, .metrics = metrics});
    }
  };
  hooks.stop = call.watch.stop;
  hooks.wants_export = [&saving](int64_t step) {
    return saving.weight_only_checkpointing_steps > 0 &&
           step % saving.weight_only_checkpointing_steps == 0;
  };
  const auto weights_of = [&run](int64_t step) { return run / str("weights-", step); };
  hooks.export_weights = [&](int64_t step) {
    const Path to = weights_of(step);
    write_export(to);
    report.exports.push_back(to);
  };
  hooks.has_export = [&](int64_t step) { return std::filesystem::exists(weights_of(step)); };
  if (setup.validation) {
    hooks.wants_validation = [&](int64_t step) { return setup.validation->is_due(step); };
    hooks.validate = [&](int64_t step) {
      return setup.validation->make(step, running->ema(kStudent));
    };
    hooks.has_validation = [&](int64_t step) { return setup.validation->is_made(step); };
  }
  training::Trainer trainer(*setup.method, loader, context.mesh, std::move(options),
                            std::move(hooks));
  running = &trainer;
  const training::TrainResult result = trainer.run(start);
  report.step = result.step;
  report.checkpoint = result.checkpoint;
  report.is_complete = result.ended == training::Ended::kDone;
  if (report.is_complete) {
    const Path to = saving.export_path.empty() ? run / "export" : Path(saving.export_path);
    write_export(to);
    report.exports.push_back(to);
  }
  return report;
}

}  // namespace

}  // namespace fastwan::cli

extern "C" {

fastwan::config::TrainReport fastwan_train(const fastwan::cli::TrainCall& call) {
  return fastwan::cli::train(call);
}
}
