#include "training/trainer.h"

#include <cerrno>
#include <csignal>
#include <random>
#include <set>
#include <thread>

#include <ATen/Parallel.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "support/compare.h"
#include "training/fault_injection.h"
#include "training/toy_method.h"

namespace fastwan::training {
namespace {

using fastwan::testing::Fault;
using fastwan::testing::is_equal;
using fastwan::testing::is_killed_in_child;
using fastwan::testing::toy_source;
using fastwan::testing::ToyMethod;
using fastwan::testing::with_faults;

constexpr int64_t kSteps = 10;

TrainerOptions toy_options(const Path& run, int64_t max_steps = kSteps) {
  TrainerOptions options;
  options.run = run;
  options.identity = {.method = "toy", .config = "toy: 1\n", .seed = 11, .data_digest = "rows"};
  const LrSchedule schedule{.kind = LrKind::kCosine, .warmup_steps = 2, .total_steps = kSteps};
  options.roles["student"] = {.learning_rate = 0.02,
                              .schedule = schedule,
                              .ema = EmaOptions{.decay = 0.9, .start_step = 3}};
  options.roles["critic"] = {
      .learning_rate = 0.05, .schedule = schedule, .rate_name = "fake_score_learning_rate"};
  options.max_steps = max_steps;
  options.micro_batches = 2;
  options.checkpoint_every = 2;
  options.save.limit = 3;
  options.retry_ms = {};
  return options;
}

TrainerHooks toy_hooks() {
  TrainerHooks hooks;
  hooks.prepare = [](const data::Batch& batch) {
    return MicroBatch{.latents = batch.latents, .text = batch.text, .slots = batch.slots};
  };
  return hooks;
}

// A run with networks and loader of its own, as a process would have.
struct ToyRun {
  explicit ToyRun(const TrainerOptions& options, const TrainerHooks& hooks = toy_hooks())
      : loader(toy_source(13),
               {.seed = 11,
                .global_batch = 2 * options.micro_batches,
                .micro_batches = options.micro_batches,
                .text_rows = 4,
                .prefetch = 0}),
        trainer(method, loader, mesh, options, hooks) {}

  distributed::Mesh mesh = distributed::one_process();
  ToyMethod method{mesh};
  data::Loader loader;
  Trainer trainer;
};

TrainResult run_toy(const TrainerOptions& options, const TrainerHooks& hooks = toy_hooks()) {
  return ToyRun(options, hooks).trainer.run();
}

std::string final_digest(const Path& run) {
  return Checkpoint::open(checkpoint_folder(run, kSteps)).state_digest();
}

// The lines of metrics.jsonl without what a clock says.
std::vector<std::string> timeless_lines(const Path& run) {
  std::vector<std::string> lines;
  for (const std::string& line : split(read_file(run / "metrics.jsonl"), '\n')) {
    if (!line.empty()) {
      Json json = parse_json(line, "metrics.jsonl");
      json.erase("step_time");
      json.erase("avg_step_time");
      lines.push_back(json.dump());
    }
  }
  return lines;
}

class Resumed : public ::testing::Test {
 protected:
  void SetUp() override { run_toy(toy_options(straight_)); }

  void expect_as_straight(const Path& run, const std::string& what) const {
    EXPECT_EQ(final_digest(run), final_digest(straight_)) << what;
    EXPECT_EQ(timeless_lines(run), timeless_lines(straight_)) << what;
    const Checkpoint a = Checkpoint::open(checkpoint_folder(run, kSteps));
    EXPECT_EQ(a.state().batches_consumed, kSteps) << what;
    EXPECT_EQ(a.state().updates,
              (std::map<std::string, int64_t>{{"student", kSteps / 2}, {"critic", kSteps}}))
        << what;
  }

  TempFolder folder_;
  Path straight_ = folder_.where() / "straight";
};

TEST_F(Resumed, CutAtEveryStepIsTheStraightRun) {
  ASSERT_EQ(timeless_lines(straight_).size(), static_cast<std::size_t>(kSteps));
  for (int64_t cut = 0; cut <= kSteps; ++cut) {
    const Path run = folder_.where() / str("cut-", cut);
    EXPECT_EQ(run_toy(toy_options(run, cut)).step, cut);
    EXPECT_EQ(run_toy(toy_options(run)).step, kSteps);
    expect_as_straight(run, str("cut at ", cut));
  }
}

TEST_F(Resumed, OneStepAProcessIsTheStraightRun) {
  const Path run = folder_.where() / "run";
  for (int64_t cut = 1; cut <= kSteps; ++cut) {
    run_toy(toy_options(run, cut));
  }
  expect_as_straight(run, "one step a process");
}

// A seed that is not the run's gives other weights: the comparisons above can fail.
TEST_F(Resumed, AnotherRateIsNotTheStraightRun) {
  TrainerOptions options = toy_options(folder_.where() / "other");
  options.roles["critic"].learning_rate = 0.050001;
  run_toy(options);
  EXPECT_NE(final_digest(options.run), final_digest(straight_));
}

TEST_F(Resumed, AStopFinishesTheIterationAndCommits) {
  const Path run = folder_.where() / "run";
  std::stop_source stop;
  TrainerHooks hooks = toy_hooks();
  hooks.stop = stop.get_token();
  hooks.on_step = [&stop](int64_t step, const Metrics&) {
    if (step == 3) {
      stop.request_stop();
    }
  };
  const TrainResult stopped = run_toy(toy_options(run), hooks);
  EXPECT_EQ(stopped.ended, Ended::kStopped);
  EXPECT_EQ(stopped.step, 3);
  EXPECT_EQ(stopped.checkpoint, run / "checkpoint-3");
  TrainerOptions options = toy_options(run);
  options.max_seconds = 1e-9;  // one iteration a process
  EXPECT_EQ(run_toy(options).step, 4);
  EXPECT_EQ(run_toy(toy_options(run)).ended, Ended::kDone);
  expect_as_straight(run, "stopped at 3 and 4");
}

TEST_F(Resumed, ADamagedCheckpointIsPassedOver) {
  const Path run = folder_.where() / "run";
  run_toy(toy_options(run, 6));
  std::filesystem::resize_file(run / "checkpoint-6" / "state-0-0.safetensors", 100);
  run_toy(toy_options(run));
  expect_as_straight(run, "checkpoint-6 cut");
}

TEST_F(Resumed, GoingOnFromAnEarlierCheckpointSetsLaterOnesAside) {
  const Path run = folder_.where() / "run";
  run_toy(toy_options(run, 6));
  TrainerOptions options = toy_options(run, 5);
  options.resume = {.mode = Resume::kPath, .path = run / "checkpoint-2"};
  run_toy(options);
  EXPECT_EQ(checkpoint_steps(run), (std::vector<int64_t>{5, 4, 2}));
  run_toy(toy_options(run));
  expect_as_straight(run, "from checkpoint-2");
}

// Retention would count the damaged ones, and remove what the fresh run has just written.
TEST_F(Resumed, AFreshRunAmongDamagedCheckpointsKeepsItsOwn) {
  const Path run = folder_.where() / "run";
  TrainerOptions options = toy_options(run, 8);
  options.save.limit = 2;
  run_toy(options);
  ASSERT_EQ(checkpoint_steps(run), (std::vector<int64_t>{8, 6}));
  for (const int64_t step : {6, 8}) {
    const Path file = checkpoint_folder(run, step) / "state-0-0.safetensors";
    std::string bytes = read_file(file);
    bytes.back() ^= 1;
    write_durably(file, bytes);
  }
  options.max_steps = 5;
  EXPECT_EQ(run_toy(options).step, 5);
  EXPECT_EQ(checkpoint_steps(run), (std::vector<int64_t>{5, 4}));
  EXPECT_TRUE(std::filesystem::exists(run / "checkpoint-8.superseded-1"));
  run_toy(toy_options(run));
  expect_as_straight(run, "afresh among damaged checkpoints");
}

TEST_F(Resumed, DataThatCannotBeReadCostNoIteration) {
  for (const int64_t micro : {0, 1}) {  // the first of an iteration, or the second
    const Path run = folder_.where() / str("run-", micro);
    TrainerOptions options = toy_options(run);
    options.checkpoint_every = 0;
    TrainerHooks hooks = toy_hooks();
    int64_t prepared = 0;
    hooks.prepare = [&](const data::Batch& batch) {
      if (prepared++ == 2 * 5 + micro) {
        throw InvalidInput(Code::kBadDataset, "row 3 is damaged");
      }
      return toy_hooks().prepare(batch);
    };
    EXPECT_THROW(run_toy(options, hooks), InvalidInput);
    EXPECT_EQ(checkpoint_steps(run), (std::vector<int64_t>{5}));
    EXPECT_EQ(run_toy(toy_options(run)).step, kSteps);
    expect_as_straight(run, str("micro-batch ", micro));
  }
}

TEST_F(Resumed, WhatAProcessWasStoppedInIsMadeUpByTheNext) {
  const Path run = folder_.where() / "run";
  std::set<int64_t> validated, exported;
  TrainerHooks hooks = toy_hooks();
  const auto every_third = [](int64_t step) { return step > 0 && step % 3 == 0; };
  hooks.wants_validation = hooks.wants_export = every_third;
  hooks.has_validation = [&](int64_t step) { return validated.contains(step); };
  hooks.has_export = [&](int64_t step) { return exported.contains(step); };
  hooks.validate = [&](int64_t step) -> Metrics {
    EXPECT_TRUE(validated.insert(step).second) << step << " twice";
    return {};
  };
  hooks.export_weights = [&](int64_t step) {
    EXPECT_TRUE(exported.insert(step).second) << step << " twice";
  };
  const TrainerHooks whole = hooks;
  TrainerHooks stopped = hooks;
  std::stop_source stop;
  stopped.stop = stop.get_token();
  stopped.on_step = [&stop](int64_t step, const Metrics&) {
    if (step == 3) {
      stop.request_stop();
    }
  };
  EXPECT_EQ(run_toy(toy_options(run), stopped).step, 3);
  EXPECT_TRUE(validated.empty() && exported.empty());
  hooks.export_weights = [&](int64_t step) {
    exported.insert(step);
    if (step == 6) {
      exported.erase(step);
      throw Stopped();  // what an export does that is asked to stop
    }
  };
  run_toy(toy_options(run, 6), hooks);
  EXPECT_EQ(validated, (std::set<int64_t>{3, 6}));
  EXPECT_EQ(exported, (std::set<int64_t>{3}));
  run_toy(toy_options(run), whole);
  EXPECT_EQ(validated, (std::set<int64_t>{3, 6, 9}));
  EXPECT_EQ(exported, (std::set<int64_t>{3, 6, 9}));
  expect_as_straight(run, "with made-up steps");
}

// Whichever row it is that the disk has no room for.
TEST_F(Resumed, ARowOfMetricsThatCannotBeWrittenCostsTheRowAlone) {
  const auto once = [&](const Path& run, int64_t call, std::vector<std::string>& notes) {
    TrainerOptions options = toy_options(run);
    options.checkpoint_every = 0;
    TrainerHooks hooks = toy_hooks();
    hooks.on_note = [&notes](const std::string& line) { notes.push_back(line); };
    return with_faults(
        {.fault = call > 0 ? Fault::kFail : Fault::kNone, .call = call, .error = ENOSPC},
        [&] { run_toy(options, hooks); });
  };
  std::vector<std::string> notes;
  const int64_t calls = once(folder_.where() / "all", 0, notes);
  int64_t rows_lost = 0;
  for (int64_t call = 1; call <= calls; ++call) {
    const Path run = folder_.where() / str("run-", call);
    notes.clear();
    try {
      once(run, call, notes);
    } catch (const IoError&) {
      continue;  // at the start, or the one save
    }
    EXPECT_EQ(final_digest(run), final_digest(straight_)) << call;
    if (std::any_of(notes.begin(), notes.end(), [](const std::string& line) {
          return line.find("are lost: ") != std::string::npos;
        })) {
      ++rows_lost;
      EXPECT_EQ(timeless_lines(run).size(), static_cast<std::size_t>(kSteps - 1)) << call;
    }
    std::filesystem::remove_all(run);
  }
  EXPECT_EQ(rows_lost, kSteps);
}

TEST_F(Resumed, ValidationChangesNothing) {
  const Path run = folder_.where() / "run";
  TrainerOptions options = toy_options(run);
  TrainerHooks hooks = toy_hooks();
  std::vector<int64_t> validated;
  hooks.wants_validation = [](int64_t step) { return step % 3 == 0; };
  ToyRun* now = nullptr;
  hooks.validate = [&](int64_t step) -> Metrics {
    validated.push_back(step);
    const WithEma average(*now->trainer.ema("student"));
    return {};
  };
  ToyRun toy(options, hooks);
  now = &toy;
  toy.trainer.run();
  EXPECT_EQ(validated, (std::vector<int64_t>{0, 3, 6, 9}));
  expect_as_straight(run, "with validation");
}

// Killed by the clock, wherever that is, and inside a save, until the run is through.
TEST_F(Resumed, KilledAgainAndAgainItEndsAsTheStraightRun) {
  const Path run = folder_.where() / "run";
  const TrainerOptions options = toy_options(run);
  std::mt19937_64 random(3);
  int64_t kills = 0, kills_in_saves = 0;
  for (int64_t round = 0; kills < 12 || kills_in_saves < 12; ++round) {
    ASSERT_LT(round, 400);
    if (round % 2 == 0) {
      // A save makes some twenty calls that change the disk; logs make one an iteration.
      const auto call = static_cast<int64_t>(1 + random() % 40);
      kills_in_saves +=
          is_killed_in_child({.fault = Fault::kKill, .call = call}, [&] { run_toy(options); });
    } else {
      const pid_t child = ::fork();
      if (child == 0) {
        at::set_num_threads(1);
        try {
          run_toy(options);
        } catch (...) {
          ::_exit(1);
        }
        ::_exit(0);
      }
      std::this_thread::sleep_for(std::chrono::microseconds(random() % 20'000));
      ::kill(child, SIGKILL);
      int status = 0;
      ::waitpid(child, &status, 0);
      kills += WIFSIGNALED(status) ? 1 : 0;
    }
    if (std::filesystem::exists(checkpoint_folder(run, kSteps))) {
      expect_as_straight(run, str("after ", kills, " kills and ", kills_in_saves, " in saves"));
      std::filesystem::remove_all(run);
    }
  }
  run_toy(options);
  expect_as_straight(run, "in the end");
}

TEST(Trainer, MicroBatchesAreDistinctAndTheirMeanIsTheLargeBatch) {
  TempFolder folder;
  TrainerOptions two = toy_options(folder.where() / "two", 4);
  two.max_grad_norm = 0;
  TrainerOptions one = toy_options(folder.where() / "one", 4);
  one.max_grad_norm = 0;
  one.micro_batches = 1;
  ToyRun split_run(two);
  split_run.trainer.run();
  // Iteration 1 updates the critic alone: the slots of its two micro-batches are the batch's four.
  EXPECT_EQ(std::vector<int64_t>(split_run.method.slots_seen.begin(),
                                 split_run.method.slots_seen.begin() + 4),
            (std::vector<int64_t>{0, 1, 2, 3}));

  distributed::Mesh mesh = distributed::one_process();
  ToyMethod method(mesh);
  data::Loader loader(toy_source(13),
                      {.seed = 11, .global_batch = 4, .text_rows = 4, .prefetch = 0});
  Trainer whole(method, loader, mesh, one, toy_hooks());
  whole.run();
  const at::Tensor a = split_run.method.networks().at("critic").units->master(0);
  const at::Tensor b = method.networks().at("critic").units->master(0);
  // Adam divides by sqrt(v): fp32 rounding of a mean of two means, through four updates.
  EXPECT_TRUE(fastwan::testing::is_close(a, b, {.of_range = 1e-5, .relative_l2 = 1e-5}));
}

TEST(Trainer, TheScheduleCountsIterationsForEveryNetwork) {
  TempFolder folder;
  const TrainerOptions options = toy_options(folder.where());
  run_toy(options);
  const std::vector<std::string> lines = timeless_lines(folder.where());
  for (int64_t step = 1; step <= kSteps; ++step) {
    const Json line = parse_json(lines[static_cast<std::size_t>(step - 1)], "line");
    const double factor = lr_factor(options.roles.at("student").schedule, step - 1);
    EXPECT_EQ(line.at("learning_rate").get<double>(), 0.02 * factor);
    EXPECT_EQ(line.at("fake_score_learning_rate").get<double>(), 0.05 * factor);
    EXPECT_EQ(line.contains("train_generator_loss"), step % 2 == 0);
  }
}

TEST(Trainer, ANumberThatIsNotFiniteStopsBeforeAnyWeightMoves) {
  TempFolder folder;
  const Path run = folder.where();
  run_toy(toy_options(run, 4));
  ToyRun toy(toy_options(run));
  toy.method.poisoned_step = 6;
  try {
    toy.trainer.run();
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.code(), Code::kNonFinite);
    EXPECT_EQ(info(failure.code()).exit_status, 6);
    EXPECT_NE(std::string(failure.what()).find("step 6, student"), std::string::npos)
        << failure.what();
  }
  EXPECT_EQ(checkpoint_steps(run), (std::vector<int64_t>{4, 2}));
  const Json dump = read_json_file((run / "non_finite-6.json").string());
  EXPECT_EQ(dump.at("network"), "student");
  EXPECT_EQ(dump.at("micro_batches").size(), 2u);
  EXPECT_EQ(dump.at("micro_batches")[0].at("captions").size(), 2u);
  // The weights are those after step 5.
  ToyRun until_five(toy_options(folder.where() / "five", 5));
  until_five.trainer.run();
  for (const char* role : {"student", "critic"}) {
    EXPECT_TRUE(is_equal(toy.method.networks().at(role).units->master(0),
                         until_five.method.networks().at(role).units->master(0)))
        << role;
  }
}

TEST(Trainer, ASaveThatFailsIsTriedAgain) {
  TempFolder folder;
  TrainerOptions options = toy_options(folder.where() / "run", 2);
  options.retry_ms = {1, 1};
  std::vector<std::string> notes;
  TrainerHooks hooks = toy_hooks();
  hooks.on_note = [&notes](const std::string& line) { notes.push_back(line); };
  const int64_t calls = with_faults({}, [&] { run_toy(options, hooks); });
  std::filesystem::remove_all(options.run);
  notes.clear();
  // The last call but a few is inside the only save.
  with_faults({.fault = Fault::kFail, .call = calls - 6, .error = ENOSPC},
              [&] { run_toy(options, hooks); });
  EXPECT_EQ(std::count_if(notes.begin(), notes.end(),
                          [](const std::string& line) {
                            return line.find("trying again") != std::string::npos;
                          }),
            1);
  EXPECT_EQ(Checkpoint::open(options.run / "checkpoint-2").state().step, 2);
}

// What a run of `max_steps` says of its profile; it stops after `stop_after` iterations.
std::vector<std::string> notes_on_profile(TrainerOptions options,
                                          int64_t stop_after,
                                          const ProfileOptions& profile) {
  options.profile = profile;
  std::stop_source stop;
  TrainerHooks hooks = toy_hooks();
  hooks.stop = stop.get_token();
  hooks.on_step = [&stop, stop_after](int64_t step, const Metrics&) {
    if (step == stop_after) {
      stop.request_stop();
    }
  };
  std::vector<std::string> notes;
  hooks.on_note = [&notes](const std::string& note) {
    if (note.find("profile") != std::string::npos) {
      notes.push_back(note);
    }
  };
  run_toy(options, hooks);
  return notes;
}

bool holds_operations(const Path& trace) {
  return read_file(trace, 1 << 28).find("aten::") != std::string::npos;
}

TEST(Trainer, AProfileOfAShortRunIsOfItsLastIterations) {
  TempFolder folder;
  const Path trace = folder.where() / "trace.json";
  const std::vector<std::string> notes =
      notes_on_profile(toy_options(folder.where(), 2), -1, {.file = trace});
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_NE(notes[0].find("2 iterations left"), std::string::npos) << notes[0];
  EXPECT_NE(notes[1].find("profile of 2 iterations in"), std::string::npos) << notes[1];
  EXPECT_TRUE(holds_operations(trace));
  // Nothing is left to record.
  const Path second = folder.where() / "second.json";
  const std::vector<std::string> more =
      notes_on_profile(toy_options(folder.where(), 2), -1, {.file = second});
  ASSERT_EQ(more.size(), 1u);
  EXPECT_NE(more[0].find("no profile: the run has no iteration left"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(second));
}

TEST(Trainer, AProfileOfALongEnoughRunIsAsAskedAndSaidOnce) {
  TempFolder folder;
  const Path trace = folder.where() / "trace.json";
  const std::vector<std::string> notes =
      notes_on_profile(toy_options(folder.where(), 4), -1, {.file = trace, .skipped = 1});
  EXPECT_EQ(notes, std::vector<std::string>{str("profile of 3 iterations in ", trace.string())});
}

TEST(Trainer, AProfileOfAStoppedRunIsWhatThereIsOrSaysThatThereIsNone) {
  TempFolder folder;
  const Path trace = folder.where() / "trace.json";
  const std::vector<std::string> cut =
      notes_on_profile(toy_options(folder.where()), 3, {.file = trace, .skipped = 2});
  EXPECT_EQ(cut, std::vector<std::string>{str("profile of 1 iteration in ", trace.string())});
  EXPECT_TRUE(holds_operations(trace));
  const Path second = folder.where() / "second.json";
  const std::vector<std::string> none =
      notes_on_profile(toy_options(folder.where()), 5, {.file = second, .skipped = 4});
  ASSERT_EQ(none.size(), 1u);
  EXPECT_NE(none[0].find("no profile: the run stopped after 2 iterations"), std::string::npos)
      << none[0];
  EXPECT_FALSE(std::filesystem::exists(second));
}

// A checkpoint of the toy's networks after `change` to their tables.
void save_changed(const Path& run, const std::function<void(std::vector<UnitTable>&)>& change) {
  std::filesystem::create_directories(run);
  const distributed::Mesh mesh = distributed::one_process();
  ToyMethod method(mesh);
  std::vector<UnitTable> tables;
  for (const auto& [role, trained] : method.networks()) {
    const std::vector<UnitTable> of_role = unit_tables(role, *trained.units);
    tables.insert(tables.end(), of_role.begin(), of_role.end());
  }
  change(tables);
  RunState state = toy_options(run).identity;
  state.step = 1;
  std::vector<NamedPiece> pieces;
  for (const UnitTable& table : tables) {
    state.updates[table.role] = 1;
    for (const PieceKind kind : {PieceKind::kParameter, PieceKind::kMoment1, PieceKind::kMoment2}) {
      pieces.push_back({.role = table.role,
                        .unit = table.unit,
                        .kind = kind,
                        .begin = 0,
                        .end = table.numel,
                        .flat = at::zeros({table.numel}, at::kFloat)});
    }
  }
  save_checkpoint(run, state, tables, pieces, {});
}

std::pair<Code, std::string> failure_of_run(const TrainerOptions& options) {
  try {
    run_toy(options);
  } catch (const Failure& failure) {
    return {failure.code(), failure.what()};
  }
  return {Code::kInternal, "no failure"};
}

TEST(Trainer, AResumeReadsNoOtherTensorsOfTheSameLength) {
  TempFolder folder;
  save_changed(folder.where() / "same", [](auto&) {});
  EXPECT_EQ(run_toy(toy_options(folder.where() / "same", 2)).step, 2);
  save_changed(folder.where() / "other", [](std::vector<UnitTable>& tables) {
    for (UnitTable& table : tables) {
      std::swap(table.tensors[1].shape[0], table.tensors[1].shape[1]);
    }
  });
  const auto [code, message] = failure_of_run(toy_options(folder.where() / "other", 2));
  EXPECT_EQ(code, Code::kChangedRun);
  EXPECT_NE(message.find("linear.weight [6, 5], this run has linear.weight [5, 6]"),
            std::string::npos)
      << message;
}

TEST(Trainer, AResumeWithANetworkMoreSaysWhichOneIsNotStored) {
  TempFolder folder;
  save_changed(folder.where(), [](std::vector<UnitTable>& tables) {
    std::erase_if(tables, [](const UnitTable& table) { return table.role == "critic"; });
  });
  const auto [code, message] = failure_of_run(toy_options(folder.where(), 2));
  EXPECT_EQ(code, Code::kChangedRun);
  EXPECT_NE(message.find("holds no network critic"), std::string::npos) << message;
}

TEST(Trainer, AnAverageThatIsNewIsAskedToBeginWithTheResume) {
  TempFolder folder;
  TrainerOptions options = toy_options(folder.where(), 4);
  options.roles["student"].ema.reset();
  run_toy(options);
  options = toy_options(folder.where());
  options.roles["student"].ema = EmaOptions{.decay = 0.9, .start_step = 0};
  const auto [code, message] = failure_of_run(options);
  EXPECT_EQ(code, Code::kChangedRun);
  EXPECT_NE(message.find("checkpoint-4: holds no average of the network student. Set "
                         "callbacks.ema.start_iter to 5"),
            std::string::npos)
      << message;
  options.roles["student"].ema->start_step = 5;
  EXPECT_EQ(run_toy(options).step, kSteps);
  EXPECT_TRUE(
      Checkpoint::open(checkpoint_folder(folder.where(), kSteps)).has("student", PieceKind::kEma));
}

TEST(Trainer, ARunThatIsDoneDoesNothingMore) {
  TempFolder folder;
  run_toy(toy_options(folder.where()));
  const std::string lines = read_file(folder.where() / "metrics.jsonl");
  const TrainResult again = run_toy(toy_options(folder.where()));
  EXPECT_EQ(again.ended, Ended::kDone);
  EXPECT_EQ(again.checkpoint, folder.where() / "checkpoint-10");
  EXPECT_EQ(read_file(folder.where() / "metrics.jsonl"), lines);
}

}  // namespace
}  // namespace fastwan::training
