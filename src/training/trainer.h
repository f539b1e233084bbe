// The loop of a training run: batches to gradients to weights, checkpoints, metrics, a clean stop.
//
//   iteration k = 1 .. max_steps
//     micro-batches   `micro_batches` distinct ones from the loader
//     for each network of method.updates(k), in that order:
//       gradient      sum over micro-batches of accumulate(..., share = 1 / micro_batches)
//       stop          a loss or norm that is not finite ends the run before any weight moves
//       clip          by the norm over all units and ranks
//       AdamW         at lr * factor(k - 1): schedules count iterations, not updates
//       EMA           one tick an update
//     log, checkpoint, export, validation, stop on request
//
// Everything an iteration does is a function of (config, k, weights, moments, loader position):
// a resume is the uninterrupted run, bit by bit on one machine with one thread count.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "base/files.h"
#include "data/loader.h"
#include "distributed/comm.h"
#include "training/checkpoint.h"
#include "training/ema.h"
#include "training/method.h"
#include "training/metrics_log.h"
#include "training/optimizer.h"
#include "training/schedule.h"
#include "training/step_profile.h"

namespace fastwan::training {

// How one network is updated.
struct RoleOptions {
  double learning_rate = 0;
  LrSchedule schedule;
  AdamWOptions adamw;
  bool takes_muon = false;  // for the matrices of blocks
  std::optional<EmaOptions> ema;
  std::string rate_name = "learning_rate";  // in the metrics
};

struct TrainerOptions {
  Path run;  // the folder of checkpoints and metrics
  // What a checkpoint says of the run; step, loader position and updates are filled in.
  RunState identity;
  std::map<std::string, RoleOptions> roles;
  int64_t max_steps = 1;
  int64_t micro_batches = 1;
  double max_grad_norm = 1.0;    // 0: off
  double max_seconds = 0;        // of this process; 0: no limit
  int64_t checkpoint_every = 0;  // 0: at the end and on a stop
  SaveOptions save;
  std::vector<int64_t> retry_ms = {1000, 4000,
                                   16000};  // pauses before a failed save is tried again
  ResumeChoice resume;
  // A wish to go on with another config, data or seed is refused before anything is loaded: throws.
  std::function<void(const RunState& stored)> check_resume;

  int64_t log_every = 1;
  bool writes_jsonl = true, writes_csv = false, writes_events = false;
  int64_t tokens_per_step = 0;                     // 0: unknown
  std::function<double(int64_t step)> operations;  // of an iteration; empty: unknown
  std::optional<double> peak_rate;                 // operations a second of all devices
  std::optional<at::Device> gpu;                   // whose peak of memory is logged
  ProfileOptions profile;                          // rank 0 records it
};

struct TrainerHooks {
  // Latents normalised, on the networks' device.
  std::function<MicroBatch(const data::Batch&)> prepare;
  // After an iteration that was logged.
  std::function<void(int64_t step, const Metrics&)> on_step = [](int64_t, const Metrics&) {};
  std::function<void(const std::string&)> on_note = [](const std::string&) {};
  // On rank 0, once the run folder is locked and the resume is settled.
  std::function<void()> on_start = [] {};
  // After iteration `step` (0: before the first) wherever `wants_validation` says so; nothing that
  // trains may change. Returned numbers are logged.
  std::function<bool(int64_t step)> wants_validation;
  std::function<Metrics(int64_t step)> validate;
  // Weights of iteration `step` as files, wherever `wants_export` says so. A full disk costs the
  // files, not the run.
  std::function<bool(int64_t step)> wants_export;
  std::function<void(int64_t step)> export_weights;
  // Whether those of iteration `step` are there: a process that goes on from it makes up what the
  // one before was stopped or killed in. Empty: nothing is made up.
  std::function<bool(int64_t step)> has_validation, has_export;
  std::stop_token stop;  // finish the iteration, commit, return
};

// A run folder that this process holds, and what the run goes on from.
struct RunStart {
  std::unique_ptr<RunLock> lock;  // of the first rank
  std::optional<Checkpoint> checkpoint;
};
// All ranks. Throws as RunLock and find_checkpoint() do.
RunStart open_run(const Path& run,
                  const ResumeChoice& choice,
                  distributed::Comm& world,
                  const std::function<void(const std::string&)>& on_note);

enum class Ended { kDone, kStopped };
struct TrainResult {
  Ended ended = Ended::kDone;
  int64_t step = 0;
  Path checkpoint;  // the last one; empty when none was written
};

class Trainer {
 public:
  // The networks are those of method.networks(); each needs a row in options.roles.
  Trainer(Method& method,
          data::Loader& loader,
          const distributed::Mesh& mesh,
          TrainerOptions options,
          TrainerHooks hooks);
  ~Trainer();
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  // Resumes, then runs to the end or to a stop. `start` is of options.run and outlives the call.
  // Failure non_finite (a dump non_finite-<step>.json is written); what checkpoints, loader and
  // method throw.
  TrainResult run(const RunStart& start);
  // From where the options say; holds the run folder meanwhile.
  TrainResult run();

  // A network's average of weights; nullptr without one.
  Ema* ema(const std::string& role);
  int64_t step() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The units of a network as a checkpoint names them.
std::vector<UnitTable> unit_tables(const std::string& role, const Units& units);
std::vector<NamedPiece> named_pieces(const std::string& role, const std::vector<FlatPiece>& pieces);

}  // namespace fastwan::training
