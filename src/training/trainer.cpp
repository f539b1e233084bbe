#include "training/trainer.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <deque>
#include <memory>
#include <numeric>
#include <span>
#include <thread>
#include <utility>

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/GradMode.h>
#include <unistd.h>

#include "base/check.h"
#include "base/heap.h"
#include "base/json.h"
#include "base/text.h"
#include "training/clip.h"
#include "training/muon.h"

namespace fastwan::training {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kAveragedSteps = 100;
constexpr const char* kMetricsName = "metrics.jsonl";
constexpr const char* kTableName = "metrics.csv";

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

PieceKind kind_of(const std::string& name) {
  for (const PieceKind kind :
       {PieceKind::kParameter, PieceKind::kMoment1, PieceKind::kMoment2, PieceKind::kEma}) {
    if (name == name_of(kind)) {
      return kind;
    }
  }
  throw std::logic_error("a piece of kind " + name);
}

// Every rank's text on every rank.
std::vector<std::string> gather_texts(distributed::Comm& comm, const std::string& text) {
  const at::TensorOptions integer(at::kLong);
  const at::Tensor length = at::empty({1}, integer);
  length.fill_(static_cast<int64_t>(text.size()));
  const at::Tensor lengths = at::empty({comm.size()}, integer);
  comm.all_gather(lengths, length);
  const int64_t longest = lengths.max().item<int64_t>();
  if (longest == 0) {
    return std::vector<std::string>(static_cast<std::size_t>(comm.size()));
  }
  const at::Tensor mine = at::zeros({longest}, at::kByte);
  std::copy(text.begin(), text.end(), mine.mutable_data_ptr<uint8_t>());
  const at::Tensor all = at::empty({comm.size() * longest}, at::kByte);
  comm.all_gather(all, mine);
  std::vector<std::string> texts;
  for (int64_t rank = 0; rank < comm.size(); ++rank) {
    const uint8_t* first = all.const_data_ptr<uint8_t>() + rank * longest;
    texts.emplace_back(first, first + lengths[rank].item<int64_t>());
  }
  return texts;
}

// Numbers that go over ranks or micro-batches: each name's mean over those that have it.
class MeanMetrics {
 public:
  void add(const Metrics& metrics) {
    for (const auto& [name, value] : metrics) {
      auto& [sum, count] = sums_[name];
      sum += value;
      ++count;
    }
  }
  Metrics mean() const {
    Metrics out;
    for (const auto& [name, entry] : sums_) {
      out[name] = entry.first / static_cast<double>(entry.second);
    }
    return out;
  }

 private:
  std::map<std::string, std::pair<double, int64_t>> sums_;
};

Metrics mean_over_ranks(distributed::Comm& comm, const Metrics& metrics) {
  if (comm.size() == 1) {
    return metrics;
  }
  MeanMetrics mean;
  for (const std::string& text : gather_texts(comm, Json(metrics).dump())) {
    mean.add(parse_json(text, "a rank's metrics").get<Metrics>());
  }
  return mean.mean();
}

// What torch's allocator held at most, of one GPU.
int64_t peak_memory_bytes(at::Device gpu) {
  constexpr std::size_t kAllPools = 0;
  return c10::getDeviceAllocator(gpu.type())
      ->getDeviceStats(gpu.has_index() ? gpu.index() : c10::DeviceIndex{0})
      .allocated_bytes[kAllPools]
      .peak;
}

// A disk that is full or does not answer; another time it may.
bool is_of_disk(const IoError& error) {
  return error.code() == Code::kDiskFull || error.code() == Code::kWriteFailed ||
         error.code() == Code::kReadFailed;
}

// The first loss that is NaN or infinite; other figures may be undefined (the cosine of nothing).
const std::string* first_non_finite(const Metrics& metrics) {
  for (const auto& [name, value] : metrics) {
    if (name.find("loss") != std::string::npos && !std::isfinite(value)) {
      return &name;
    }
  }
  return nullptr;
}

}  // namespace

std::vector<UnitTable> unit_tables(const std::string& role, const Units& units) {
  std::vector<UnitTable> tables;
  for (const UnitLayout& unit : units.layout()) {
    UnitTable table{
        .role = role, .unit = unit.name, .numel = unit.numel, .pad = unit.padded - unit.numel};
    for (const UnitTensor& tensor : unit.tensors) {
      table.tensors.push_back(
          {.name = tensor.name, .shape = tensor.shape, .offset = tensor.offset});
    }
    tables.push_back(std::move(table));
  }
  return tables;
}

std::vector<NamedPiece> named_pieces(const std::string& role,
                                     const std::vector<FlatPiece>& pieces) {
  std::vector<NamedPiece> out;
  for (const FlatPiece& piece : pieces) {
    if (piece.values.numel() > 0) {
      out.push_back({.role = role,
                     .unit = piece.unit,
                     .kind = kind_of(piece.kind),
                     .begin = piece.begin,
                     .end = piece.begin + piece.values.numel(),
                     .flat = piece.values});
    }
  }
  return out;
}

RunStart open_run(const Path& run,
                  const ResumeChoice& choice,
                  distributed::Comm& world,
                  const std::function<void(const std::string&)>& on_note) {
  RunStart start;
  if (world.rank() == 0) {
    start.lock = std::make_unique<RunLock>(run);
  }
  world.barrier();
  start.checkpoint = find_checkpoint(run, choice, on_note);
  return start;
}

std::unique_ptr<Optimizer> optimizer_of(Units& units, const RoleOptions& options) {
  if (options.takes_muon) {
    return std::make_unique<Muon>(units, options.adamw);
  }
  return std::make_unique<AdamW>(units, options.adamw);
}

struct Trainer::Impl {
  struct Role {
    std::string name;
    Units* units;
    RoleOptions options;
    std::unique_ptr<Optimizer> optimizer;
    std::unique_ptr<Ema> ema;
  };

  Method& method;
  data::Loader& loader;
  distributed::Mesh mesh;
  TrainerOptions options;
  TrainerHooks hooks;
  std::vector<Role> roles;
  int64_t step = 0;
  int64_t saved_step = -1;     // of the last checkpoint; -1: none
  bool loses_metrics = false;  // the last row was not written
  std::string parent;
  Path last_checkpoint;
  Clock::time_point start = Clock::now();
  std::deque<double> durations;  // of the last iterations
  std::optional<MetricsLog> log;
  std::optional<MetricsTable> table;
  std::optional<EventFile> events;

  Role& role(const std::string& name) {
    const auto found = std::find_if(roles.begin(), roles.end(), [&name](const Role& candidate) {
      return candidate.name == name;
    });
    invariant(found != roles.end(), "a method updates only its own networks");
    return *found;
  }
  bool is_first_rank() const { return mesh.world->rank() == 0; }

  // State

  std::vector<NamedPiece> pieces() const {
    std::vector<NamedPiece> all;
    const auto append = [&all](const std::string& name, const std::vector<FlatPiece>& flat) {
      const std::vector<NamedPiece> named = named_pieces(name, flat);
      all.insert(all.end(), named.begin(), named.end());
    };
    for (const Role& one : roles) {
      append(one.name, one.units->pieces());
      append(one.name, one.optimizer->pieces());
      if (one.ema) {
        append(one.name, one.ema->pieces());
      }
    }
    return all;
  }

  std::vector<UnitTable> tables() const {
    std::vector<UnitTable> all;
    for (const Role& one : roles) {
      const std::vector<UnitTable> of_role = unit_tables(one.name, *one.units);
      all.insert(all.end(), of_role.begin(), of_role.end());
    }
    return all;
  }

  RunState state() const {
    RunState now = options.identity;
    now.step = step;
    now.batches_consumed = loader.position();
    now.world = mesh.world->size();
    now.parent = parent;
    for (const Role& one : roles) {
      now.updates[one.name] = one.optimizer->updates();
    }
    return now;
  }

  void load(const Checkpoint& checkpoint) {
    const c10::NoGradGuard no_grad;
    if (options.check_resume) {
      options.check_resume(checkpoint.state());
    }
    checkpoint.require_units(tables());
    for (Role& one : roles) {
      const auto updates = checkpoint.state().updates.find(one.name);
      if (updates == checkpoint.state().updates.end()) {
        throw InvalidInput(Code::kBadCheckpoint,
                           str(checkpoint.folder().string(),
                               ": tells no number of updates of the network ", one.name));
      }
      if (one.ema && checkpoint.has(one.name, PieceKind::kEma)) {
        one.ema->start();
      } else if (one.ema && one.ema->is_started()) {
        throw Failure(
            Code::kChangedRun,
            str(checkpoint.folder().string(), ": holds no average of the network ", one.name,
                ". Set callbacks.ema.start_iter to ", checkpoint.state().step + 1,
                " for one that begins here, or callbacks.ema.decay to 0 for none"));
      }
      one.optimizer->set_updates(updates->second);
    }
    for (const NamedPiece& piece : pieces()) {
      checkpoint.load(piece);
    }
    step = checkpoint.state().step;
    parent = checkpoint.folder().filename().string();
    last_checkpoint = checkpoint.folder();
    loader.seek(checkpoint.state().batches_consumed);
  }

  // Checkpoints

  // All ranks; what one throws, all throw.
  void write_checkpoint() {
    distributed::Comm& world = *mesh.world;
    const std::vector<NamedPiece> mine = pieces();
    require_finite(tables(), mine);
    if (log) {
      log->sync();
    }
    if (table) {
      table->sync();
    }
    if (events) {
      events->sync();
    }
    int64_t bytes = 0;
    for (const NamedPiece& piece : mine) {
      bytes += static_cast<int64_t>(piece.flat.nbytes());
    }
    Path unfinished = checkpoint_folder(options.run, step);
    unfinished += ".tmp";
    if (is_first_rank()) {
      begin_checkpoint(options.run, step, bytes * mesh.shard->size());
    }
    world.barrier();
    // Ranks of another replica hold the same pieces.
    StateFiles files;
    if (mesh.replicate->rank() == 0) {
      files = write_state(unfinished, world.rank(), mine, options.save.max_file_bytes);
    }
    std::vector<StateFiles> all;
    for (const std::string& text : gather_texts(world, to_text(files))) {
      all.push_back(state_files_from(text));
    }
    if (is_first_rank()) {
      last_checkpoint = commit_checkpoint(unfinished, state(), tables(), all);
      retain_checkpoints(options.run, options.save.limit, options.save.on_note);
    }
    world.barrier();
    parent = last_checkpoint.filename().string();
  }

  // A disk that is full or hiccups: the state stays in memory and the save is tried again.
  void save() {
    write_checkpoint_patiently();
    saved_step = step;
    hooks.on_note(str("saved ", last_checkpoint.string()));
  }

  void write_checkpoint_patiently() {
    for (const int64_t pause_ms : options.retry_ms) {
      try {
        write_checkpoint();
        return;
      } catch (const IoError& error) {
        if (!is_of_disk(error)) {
          throw;
        }
        hooks.on_note(str("checkpoint of step ", step, " failed, trying again in ", pause_ms,
                          " ms: ", error.what()));
        std::this_thread::sleep_for(std::chrono::milliseconds(pause_ms));
      }
    }
    write_checkpoint();
  }

  // Iterations

  struct Micro {
    data::Batch batch;
    MicroBatch prepared;
  };

  [[noreturn]] void stop_on_non_finite(const std::string& network,
                                       const std::string& reason,
                                       const Metrics& metrics,
                                       const std::vector<Micro>& micros) const {
    Json samples = Json::array();
    for (const Micro& micro : micros) {
      samples.push_back({{"slots", micro.batch.slots},
                         {"rows", micro.batch.rows},
                         {"captions", micro.batch.captions}});
    }
    const Json dump = {{"step", step + 1},         {"rank", mesh.world->rank()},
                       {"network", network},       {"reason", reason},
                       {"metrics", Json(metrics)}, {"micro_batches", samples}};
    const Path file =
        options.run / str("non_finite-", step + 1,
                          mesh.world->size() > 1 ? str("-rank-", mesh.world->rank()) : "", ".json");
    std::string told = str(file.string(), " names the samples");
    try {
      write_durably(file, dump_json(dump));
    } catch (const IoError& error) {  // must not hide why the run ends
      told = str("the samples are not told: ", error.what());
    }
    throw Failure(Code::kNonFinite,
                  str("step ", step + 1, ", ", network, ": ", reason, ". No weight was changed; ",
                      told, ". Try a lower learning rate, or go on from an earlier checkpoint"));
  }

  // Throws on every rank when one says so.
  void agree_finite(const std::string& network,
                    const std::optional<std::string>& reason,
                    const Metrics& metrics,
                    const std::vector<Micro>& micros) const {
    const at::Tensor bad = at::zeros({1}, at::kLong);
    bad.fill_(reason ? 1 : 0);
    mesh.world->all_reduce_sum(bad);
    if (bad.item<int64_t>() > 0) {
      stop_on_non_finite(network, reason.value_or("another rank met a number that is not finite"),
                         metrics, micros);
    }
  }

  Metrics update(Role& one, const std::vector<Micro>& micros, int64_t now) {
    MeanMetrics mean;
    std::optional<std::string> reason;
    const double share = 1.0 / static_cast<double>(micros.size());
    for (const Micro& micro : micros) {
      Metrics metrics;
      try {
        metrics = method.accumulate(one.name, now, micro.prepared, share);
      } catch (const Failure& failure) {
        if (failure.code() != Code::kNonFinite) {
          throw;
        }
        reason = failure.what();
      }
      if (const std::string* name = first_non_finite(metrics); name != nullptr && !reason) {
        reason = str(*name, " is ", metrics.at(*name));
      }
      mean.add(metrics);
    }
    Metrics metrics = mean.mean();
    agree_finite(one.name, reason, metrics, micros);
    Clipped clipped;
    try {
      clipped = clip_gradient(*one.units, options.max_grad_norm, one.name);
    } catch (const Failure& failure) {
      stop_on_non_finite(one.name, failure.what(), metrics, micros);
    }
    const double rate = one.options.learning_rate * lr_factor(one.options.schedule, now - 1);
    one.optimizer->step(rate);
    one.units->zero_gradients();
    if (one.ema) {
      one.ema->update(now);
    }
    metrics["grad_norm"] = clipped.norm;
    metrics["grad_norm_" + one.name] = clipped.norm;
    metrics["clip_rate_" + one.name] = clipped.coefficient < 1 ? 1.0 : 0.0;
    return metrics;
  }

  std::vector<Micro> next_micros() {
    std::vector<Micro> micros;
    for (int64_t i = 0; i < options.micro_batches; ++i) {
      Micro micro{.batch = loader.next()};
      micro.prepared = hooks.prepare(micro.batch);
      micros.push_back(std::move(micro));
    }
    return micros;
  }

  // Of the next iteration. Data that cannot be read end the run, but it keeps what it has done.
  std::vector<Micro> read_micros() {
    const int64_t position = loader.position();
    try {
      return next_micros();
    } catch (const std::exception& error) {
      if (step > 0 && saved_step != step && mesh.world->size() == 1) {  // else the others wait
        hooks.on_note(str("the data of step ", step + 1, " cannot be read: ", error.what()));
        loader.seek(position);
        try {
          save();
        } catch (const std::exception& second) {
          hooks.on_note(str("step ", step, " is not saved: ", second.what()));
        }
      }
      throw;
    }
  }

  Metrics iterate() {
    const int64_t now = step + 1;
    const std::vector<Micro> micros = read_micros();
    Metrics metrics;
    for (const std::string& name : method.updates(now)) {
      for (const auto& [key, value] : update(role(name), micros, now)) {
        metrics[key] = value;
      }
    }
    for (const Role& one : roles) {
      metrics[one.options.rate_name] =
          one.options.learning_rate * lr_factor(one.options.schedule, now - 1);
    }
    step = now;
    return metrics;
  }

  // Reports

  // Means over ranks; rank 0 tells and writes them, with what its clock says.
  void record(const Metrics& own, double seconds) {
    durations.push_back(seconds);
    if (durations.size() > kAveragedSteps) {
      durations.pop_front();
    }
    if (step % options.log_every != 0 && step != options.max_steps) {
      return;
    }
    Metrics metrics = mean_over_ranks(*mesh.world, own);
    if (!is_first_rank()) {
      return;
    }
    const double mean = std::accumulate(durations.begin(), durations.end(), 0.0) /
                        static_cast<double>(durations.size());
    metrics["step_time"] = seconds;
    metrics["avg_step_time"] = mean;
    if (options.tokens_per_step > 0) {
      metrics["tokens_per_second"] = static_cast<double>(options.tokens_per_step) / mean;
    }
    if (options.operations) {
      metrics["flops_per_second"] = options.operations(step) / seconds;
    }
    if (options.operations && options.peak_rate) {
      metrics["mfu"] = metrics["flops_per_second"] / *options.peak_rate;
    }
    if (options.gpu) {
      metrics["gpu_peak_memory_bytes"] = static_cast<double>(peak_memory_bytes(*options.gpu));
    }
    hooks.on_step(step, metrics);
    write_metrics(metrics);
  }

  // A row for which there is no room is left out: the weights are worth more.
  void write_metrics(const Metrics& metrics) {
    std::optional<std::string> fault;
    const auto attempt = [&fault](const auto& write) {
      try {
        write();
      } catch (const IoError& error) {
        fault = error.what();
      }
    };
    if (log) {
      attempt([&] { log->write(step, metrics); });
    }
    if (table) {
      attempt([&] { table->write(step, metrics); });
    }
    if (events) {
      attempt([&] { events->write(step, wall_time(), metrics); });
    }
    if (fault && !loses_metrics) {
      hooks.on_note(str("metrics from step ", step, " on are lost: ", *fault, ". The run goes on"));
    } else if (!fault && loses_metrics) {
      hooks.on_note(str("metrics are written again from step ", step, " on"));
    }
    loses_metrics = fault.has_value();
  }

  void open_logs() {
    if (!is_first_rank()) {
      return;
    }
    hooks.on_start();
    if (options.writes_jsonl) {
      log.emplace(options.run / kMetricsName, step);
    }
    if (options.writes_csv) {
      table.emplace(options.run / kTableName, step);
    }
    if (options.writes_events) {
      events.emplace(options.run, EventFile::Start{.resumed_step = step,
                                                   .wall_time = wall_time(),
                                                   .process = static_cast<int64_t>(::getpid())});
    }
  }

  void validate_if_wanted() {
    if (!hooks.validate || !hooks.wants_validation || !hooks.wants_validation(step)) {
      return;
    }
    const Metrics metrics = hooks.validate(step);
    if (!metrics.empty() && is_first_rank()) {
      write_metrics(metrics);
    }
  }

  void export_if_wanted() {
    if (!hooks.export_weights || !hooks.wants_export || !hooks.wants_export(step)) {
      return;
    }
    try {
      hooks.export_weights(step);
    } catch (const Stopped&) {  // must_stop() hears of it too, and the state is saved
    } catch (const IoError& error) {
      if (!is_of_disk(error)) {
        throw;
      }
      hooks.on_note(str("the weights of step ", step, " are not exported: ", error.what(),
                        ". The run goes on"));
    }
  }

  // What an earlier process was stopped before it could do after the iteration that it saved.
  void make_up() {
    method.settle(step);
    if (hooks.has_validation && !hooks.has_validation(step)) {
      validate_if_wanted();
    }
    if (hooks.has_export && !hooks.has_export(step)) {
      export_if_wanted();
    }
  }

  void note_unless_empty(const std::string& note) const {
    if (!note.empty()) {
      hooks.on_note(note);
    }
  }

  // The same answer on every rank, since one may be asked to stop before the others.
  bool must_stop() const {
    const bool mine = hooks.stop.stop_requested() ||
                      (options.max_seconds > 0 && seconds_since(start) >= options.max_seconds);
    const at::Tensor asked = at::zeros({1}, at::kLong);
    asked.fill_(mine ? 1 : 0);
    mesh.world->all_reduce_sum(asked);
    return asked.item<int64_t>() > 0;
  }

  TrainResult run(const RunStart& from) {
    if (const std::optional<Checkpoint>& found = from.checkpoint) {
      load(*found);
      hooks.on_note(str("resumed from ", found->folder().string(), ", step ", step));
      if (step >= options.max_steps) {
        hooks.on_note(
            str("no iteration is left: training.loop.max_train_steps is ", options.max_steps));
      }
      saved_step = step;
    }
    if (is_first_rank()) {  // a fresh run's too: retention would count what no run can read
      set_later_checkpoints_aside(options.run, from.checkpoint ? step : -1, hooks.on_note);
    }
    mesh.world->barrier();
    open_logs();
    if (step == 0) {
      validate_if_wanted();
    } else {
      make_up();
    }
    StepProfile profile(is_first_rank() ? options.profile : ProfileOptions{},
                        std::max<int64_t>(0, options.max_steps - step));
    note_unless_empty(profile.warning());
    keep_freed_memory();
    while (step < options.max_steps) {
      profile.before_step();
      const Clock::time_point begin = Clock::now();
      const Metrics metrics = iterate();
      record(metrics, seconds_since(begin));
      const bool stops = must_stop() && step < options.max_steps;
      note_unless_empty(profile.after_step(/*is_last=*/stops || step == options.max_steps));
      const bool is_due = options.checkpoint_every > 0 && step % options.checkpoint_every == 0;
      if (is_due || stops || step == options.max_steps) {
        save();
      }
      if (stops) {
        return {.ended = Ended::kStopped, .step = step, .checkpoint = last_checkpoint};
      }
      validate_if_wanted();
      export_if_wanted();
    }
    if (saved_step != step) {
      save();
    }
    return {.ended = Ended::kDone, .step = step, .checkpoint = last_checkpoint};
  }
};

Trainer::Trainer(Method& method,
                 data::Loader& loader,
                 const distributed::Mesh& mesh,
                 TrainerOptions options,
                 TrainerHooks hooks)
    : impl_(new Impl{.method = method,
                     .loader = loader,
                     .mesh = mesh,
                     .options = std::move(options),
                     .hooks = std::move(hooks)}) {
  for (const auto& [name, trained] : method.networks()) {
    const auto row = impl_->options.roles.find(name);
    invariant(row != impl_->options.roles.end(), "every network that trains has its options");
    Impl::Role role{.name = name, .units = trained.units, .options = row->second};
    role.optimizer = optimizer_of(*role.units, row->second);
    if (row->second.ema) {
      role.ema = std::make_unique<Ema>(*role.units, *row->second.ema);
    }
    role.units->zero_gradients();
    impl_->roles.push_back(std::move(role));
  }
}

Trainer::~Trainer() = default;

TrainResult Trainer::run(const RunStart& start) {
  return impl_->run(start);
}

TrainResult Trainer::run() {
  const Impl& it = *impl_;
  return run(open_run(it.options.run, it.options.resume, *it.mesh.world, it.hooks.on_note));
}

Ema* Trainer::ema(const std::string& role) {
  return impl_->role(role).ema.get();
}

int64_t Trainer::step() const {
  return impl_->step;
}

}  // namespace fastwan::training
