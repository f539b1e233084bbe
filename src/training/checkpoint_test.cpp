#include "training/checkpoint.h"

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <limits>
#include <random>
#include <set>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "support/compare.h"
#include "support/golden.h"
#include "training/fault_injection.h"
#include "training/manifest.h"

namespace fastwan::training {
namespace {

using fastwan::testing::Fault;
using fastwan::testing::FaultPlan;
using fastwan::testing::golden_tensor;
using fastwan::testing::is_equal;
using fastwan::testing::is_killed_in_child;
using fastwan::testing::with_faults;

template <class Action>
std::pair<Code, std::string> failure_of(const Action& action) {
  try {
    action();
  } catch (const Failure& failure) {
    return {failure.code(), failure.what()};
  }
  return {Code::kInternal, "no failure"};
}

UnitTable unit_of(const std::string& role, const std::string& name, int64_t rows, int64_t columns) {
  return {
      .role = role,
      .unit = name,
      .tensors = {{name + ".weight", {rows, columns}, 0}, {name + ".bias", {rows}, rows * columns}},
      .numel = rows * columns + rows,
      .pad = 3};
}

// Two roles; sizes that nothing divides.
std::vector<UnitTable> toy_units() {
  return {unit_of("student", "head_in", 3, 5), unit_of("student", "blocks.0", 7, 11),
          unit_of("critic", "head_in", 3, 5)};
}

// Every kind of every unit, with values that depend on `step`; rank r of n has a share of each.
std::vector<NamedPiece> toy_pieces(int64_t step, int64_t rank = 0, int64_t ranks = 1) {
  std::vector<NamedPiece> pieces;
  for (const UnitTable& unit : toy_units()) {
    for (const PieceKind kind :
         {PieceKind::kParameter, PieceKind::kMoment1, PieceKind::kMoment2, PieceKind::kEma}) {
      const int64_t share = (unit.numel + ranks - 1) / ranks;
      const int64_t begin = std::min(unit.numel, rank * share);
      const int64_t end = std::min(unit.numel, begin + share);
      const at::Tensor whole =
          golden_tensor(str("step", step), str(unit.role, unit.unit, name_of(kind)), {unit.numel});
      pieces.push_back({.role = unit.role,
                        .unit = unit.unit,
                        .kind = kind,
                        .begin = begin,
                        .end = end,
                        .flat = whole.narrow(0, begin, end - begin).clone()});
    }
  }
  return pieces;
}

RunState toy_state(int64_t step) {
  return {.step = step,
          .method = "distill",
          .config = "method: distill\n",
          .seed = std::numeric_limits<uint64_t>::max(),
          .batches_consumed = step * 2,
          .data_digest = "d1",
          .updates = {{"student", step / 5}, {"critic", step}},
          .world = 1,
          .environment = {{"torch", "2.11.0"}},
          .frozen = {{"teacher", "folder sha256:1"}},
          .parent = "checkpoint-1"};
}

Path save_toy(const Path& run, int64_t step, const SaveOptions& options = {}) {
  return save_checkpoint(run, toy_state(step), toy_units(), toy_pieces(step), options);
}

::testing::AssertionResult holds_step(const Checkpoint& checkpoint, int64_t step) {
  for (const NamedPiece& wanted : toy_pieces(step)) {
    NamedPiece read = wanted;
    read.flat = at::empty_like(wanted.flat);
    checkpoint.load(read);
    if (auto same = is_equal(read.flat, wanted.flat); !same) {
      return same << " in " << wanted.role << "/" << wanted.unit;
    }
  }
  return ::testing::AssertionSuccess();
}

std::set<std::string> names_in(const Path& folder) {
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    names.insert(entry.path().filename().string());
  }
  return names;
}

TEST(Checkpoint, GivesBackEveryBitAndEveryWord) {
  TempFolder run;
  const Path folder = save_toy(run.where(), 10);
  EXPECT_EQ(folder, run.where() / "checkpoint-10");
  const Checkpoint read = Checkpoint::open(folder);
  EXPECT_TRUE(holds_step(read, 10));
  EXPECT_FALSE(holds_step(read, 11));  // the comparison can fail
  const RunState wanted = toy_state(10);
  EXPECT_EQ(read.state().step, 10);
  EXPECT_EQ(read.state().method, wanted.method);
  EXPECT_EQ(read.state().config, wanted.config);
  EXPECT_EQ(read.state().seed, wanted.seed);
  EXPECT_EQ(read.state().batches_consumed, wanted.batches_consumed);
  EXPECT_EQ(read.state().updates, wanted.updates);
  EXPECT_EQ(read.state().environment, wanted.environment);
  EXPECT_EQ(read.state().frozen, wanted.frozen);
  EXPECT_EQ(read.state().parent, wanted.parent);
  EXPECT_EQ(names_in(folder),
            (std::set<std::string>{"config.yaml", "manifest.json", "state-0-0.safetensors"}));
  EXPECT_TRUE(read.has("critic", PieceKind::kEma));
  const UnitTable& unit = read.unit("student", "blocks.0");
  const at::Tensor bias = read.tensor(unit, unit.tensors[1], PieceKind::kParameter);  // [7]
  EXPECT_TRUE(is_equal(bias, toy_pieces(10)[4].flat.narrow(0, 77, 7)));
}

TEST(Checkpoint, WhatThreeRanksWroteTwoAndFiveCanRead) {
  TempFolder run;
  const Path unfinished = begin_checkpoint(run.where(), 4, 1000);
  std::vector<StateFiles> ranks;
  for (int64_t rank = 0; rank < 3; ++rank) {
    const StateFiles written =
        write_state(unfinished, rank, toy_pieces(4, rank, 3), kDefaultMaxFileBytes);
    ranks.push_back(state_files_from(to_text(written)));
  }
  const Checkpoint read =
      Checkpoint::open(commit_checkpoint(unfinished, toy_state(4), toy_units(), ranks));
  for (const int64_t readers : {1, 2, 5}) {
    for (int64_t rank = 0; rank < readers; ++rank) {
      for (const NamedPiece& wanted : toy_pieces(4, rank, readers)) {
        NamedPiece got = wanted;
        got.flat = at::full({wanted.end - wanted.begin}, -1.0);
        read.load(got);
        EXPECT_TRUE(is_equal(got.flat, wanted.flat)) << readers << " " << rank;
      }
    }
  }
}

TEST(Checkpoint, NoFileExceedsTheCapAndThePiecesStillCoverAll) {
  TempFolder run;
  for (const int64_t cap : {700, 1000, 1500, 4096}) {
    const Path folder = save_toy(run.where(), cap, {.max_file_bytes = cap, .limit = 10});
    int64_t files = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".safetensors") {
        EXPECT_LE(static_cast<int64_t>(entry.file_size()), cap);
        ++files;
      }
    }
    EXPECT_GT(files, 1) << cap;
    EXPECT_TRUE(holds_step(Checkpoint::open(folder), cap));
  }
  EXPECT_EQ(failure_of([&] { save_toy(run.where(), 1, {.max_file_bytes = 100}); }).first,
            Code::kBadValue);
  EXPECT_FALSE(std::filesystem::exists(run.where() / "checkpoint-1.tmp"));
}

TEST(Checkpoint, PiecesThatOverlapOrLeaveAHoleAreNotCommitted) {
  for (const int64_t shift : {-1, 1}) {
    TempFolder run;
    const Path unfinished = begin_checkpoint(run.where(), 4, 1000);
    std::vector<StateFiles> ranks = {write_state(unfinished, 0, toy_pieces(4), 1 << 20)};
    ranks[0].pieces[2].begin += shift;
    const auto [code, message] =
        failure_of([&] { commit_checkpoint(unfinished, toy_state(4), toy_units(), ranks); });
    EXPECT_EQ(code, Code::kBadCheckpoint);
    EXPECT_NE(message.find("student/head_in/v"), std::string::npos) << message;
    EXPECT_TRUE(checkpoint_steps(run.where()).empty());
  }
}

TEST(Checkpoint, ANumberThatIsNotFiniteIsNamedAndNothingIsWritten) {
  TempFolder run;
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    std::vector<NamedPiece> pieces = toy_pieces(3);
    pieces[6].flat[79] = bad;  // student, blocks.0, v: two behind the weight's 77
    const auto [code, message] =
        failure_of([&] { save_checkpoint(run.where(), toy_state(3), toy_units(), pieces, {}); });
    EXPECT_EQ(code, Code::kNonFinite);
    EXPECT_NE(message.find("student/blocks.0/v: blocks.0.bias element 2"), std::string::npos)
        << message;
    EXPECT_TRUE(names_in(run.where()).empty());
  }
}

TEST(Checkpoint, OtherPrecisionIsRefusedNotConverted) {
  TempFolder run;
  const Checkpoint read = Checkpoint::open(save_toy(run.where(), 1));
  NamedPiece wanted = toy_pieces(1)[0];
  wanted.flat = wanted.flat.to(at::kBFloat16);
  EXPECT_EQ(failure_of([&] { read.load(wanted); }).first, Code::kBadCheckpoint);
}

TEST(Checkpoint, NetworksAreTheStoredOnesOrRefusedByTheFirstTensorThatIsNot) {
  TempFolder run;
  const Checkpoint read = Checkpoint::open(save_toy(run.where(), 1));
  read.require_units(toy_units());
  read.require_units({toy_units()[2]});  // the student is no matter to a run without one
  const auto expect_refused = [&](const std::function<void(std::vector<UnitTable>&)>& change,
                                  const std::string& told) {
    std::vector<UnitTable> wanted = toy_units();
    change(wanted);
    const auto [code, message] = failure_of([&] { read.require_units(wanted); });
    EXPECT_EQ(code, Code::kChangedRun) << told;
    EXPECT_NE(message.find("checkpoint-1: "), std::string::npos) << message;
    EXPECT_NE(message.find(told), std::string::npos) << message;
    EXPECT_NE(message.find("output_dir"), std::string::npos) << message;
  };
  expect_refused(
      [](auto& units) {
        units[1].tensors[0].shape = {11, 7};
      },
      "the network student is another in unit blocks.0: tensor 0 is stored as "
      "blocks.0.weight [7, 11], this run has blocks.0.weight [11, 7]");
  expect_refused([](auto& units) { units[0].tensors[1].name = "head_in.lora_A"; },
                 "is stored as head_in.bias [3], this run has head_in.lora_A [3]");
  expect_refused([](auto& units) { std::swap(units[0].tensors[0], units[0].tensors[1]); },
                 "tensor 0 is stored as head_in.weight [3, 5], this run has head_in.bias [3]");
  expect_refused([](auto& units) { units[0].tensors.pop_back(); },
                 "tensor 1 is stored as head_in.bias [3], this run has no tensor more");
  expect_refused(
      [](auto& units) {
        units[0].tensors.push_back({"gate", {2}, 18});
      },
      "tensor 2 is stored as no tensor more, this run has gate [2]");
  expect_refused([](auto& units) { units.erase(units.begin() + 1); },
                 "the network student is stored with a unit blocks.0 that this run's does not");
  expect_refused([](auto& units) { units.push_back(unit_of("student", "blocks.1", 7, 11)); },
                 "the network student is stored without the unit blocks.1");
  expect_refused([](auto& units) { units.push_back(unit_of("judge", "all", 2, 2)); },
                 "holds no network judge, its method was distill and it holds critic, student");
}

// Damage

TEST(Checkpoint, EachOfAThousandFlippedBitsAndCutsIsFound) {
  TempFolder run;
  const Path folder = save_toy(run.where(), 5);
  std::mt19937_64 random(7);
  const std::vector<std::string> names = {"config.yaml", "manifest.json", "state-0-0.safetensors"};
  int64_t found = 0;
  constexpr int64_t kTrials = 1000;
  for (int64_t trial = 0; trial < kTrials; ++trial) {
    const Path file = folder / names[static_cast<std::size_t>(trial) % names.size()];
    const std::string whole = read_file(file);
    std::string damaged = whole;
    const std::size_t at = random() % whole.size();
    if (trial % 4 == 3) {
      damaged.resize(at);
    } else {
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (random() % 8)));
    }
    std::ofstream(file, std::ios::binary) << damaged;
    const auto [code, message] = failure_of([&] { Checkpoint::open(folder); });
    found += code == Code::kBadCheckpoint ? 1 : 0;
    EXPECT_EQ(code, Code::kBadCheckpoint) << file << " byte " << at << ": " << message;
    std::ofstream(file, std::ios::binary) << whole;
  }
  EXPECT_EQ(found, kTrials);
  EXPECT_TRUE(holds_step(Checkpoint::open(folder), 5));
}

TEST(Checkpoint, AFileThatIsMissingIsNamed) {
  TempFolder run;
  const Path folder = save_toy(run.where(), 5);
  std::filesystem::remove(folder / "state-0-0.safetensors");
  const auto [code, message] = failure_of([&] { Checkpoint::open(folder); });
  EXPECT_EQ(code, Code::kBadCheckpoint);
  EXPECT_NE(message.find("state-0-0.safetensors"), std::string::npos) << message;
  std::filesystem::remove(folder / "manifest.json");
  EXPECT_EQ(failure_of([&] { Checkpoint::open(folder); }).first, Code::kBadCheckpoint);
  EXPECT_EQ(failure_of([&] { Checkpoint::open(run.where() / "checkpoint-6"); }).first,
            Code::kNotFound);
}

// A sound manifest of a format to come: only its digest rule is the same.
void make_newer(const Path& folder) {
  std::string text =
      replace_all(read_file(folder / "manifest.json"), "\"format\": 1,", "\"format\": 2,");
  const std::size_t digits = text.size() - std::string("\"\n}\n").size() - 64;
  text.replace(digits, 64, std::string(64, '0'));
  text.replace(digits, 64, sha256_hex(text));
  std::ofstream(folder / "manifest.json") << text;
}

TEST(Checkpoint, ANewerFormatStopsTheSearch) {
  TempFolder run;
  save_toy(run.where(), 1);
  make_newer(save_toy(run.where(), 2));
  for (const Resume mode : {Resume::kAuto, Resume::kLatest}) {
    const auto [code, message] = failure_of(
        [&] { find_checkpoint(run.where(), {.mode = mode}, [](const std::string&) {}); });
    EXPECT_EQ(code, Code::kNewerFormat);
    EXPECT_EQ(info(code).exit_status, 8);
    EXPECT_NE(message.find("format 2"), std::string::npos) << message;
  }
}

void damage(const Path& folder) {
  std::ofstream(folder / "state-0-0.safetensors", std::ios::app) << "x";
}

TEST(FindCheckpoint, FollowsTheWord) {
  TempFolder run;
  std::vector<std::string> notes;
  const auto note = [&notes](const std::string& line) { notes.push_back(line); };
  const auto find = [&](const std::string& word) {
    return find_checkpoint(run.where(), read_resume_choice(word), note);
  };
  EXPECT_FALSE(find("auto"));
  EXPECT_FALSE(find("none"));
  EXPECT_EQ(failure_of([&] { find("latest"); }).first, Code::kNotFound);

  const Path first = save_toy(run.where(), 9);
  const Path second = save_toy(run.where(), 10);  // not the larger name: "9" > "10" as text
  std::filesystem::create_directory(run.where() / "checkpoint-11.tmp");
  std::filesystem::create_directory(run.where() / "checkpoint-12");
  std::filesystem::create_directory(run.where() / "checkpoint-007");
  std::ofstream(run.where() / "checkpoint-13") << "a file";
  EXPECT_EQ(find("auto")->state().step, 10);
  EXPECT_EQ(notes.size(), 1u);  // the empty checkpoint-12
  EXPECT_EQ(find("latest")->state().step, 10);
  EXPECT_EQ(find(first.string())->state().step, 9);
  const auto [code, message] = failure_of([&] { find("none"); });
  EXPECT_EQ(code, Code::kExists);

  damage(second);
  notes.clear();
  EXPECT_EQ(find("auto")->state().step, 9);
  EXPECT_NE(notes.at(1).find("checkpoint-10"), std::string::npos);
  EXPECT_EQ(failure_of([&] { find(second.string()); }).first, Code::kBadCheckpoint);
  damage(first);
  EXPECT_FALSE(find("auto"));
  EXPECT_EQ(failure_of([&] { find("latest"); }).first, Code::kBadCheckpoint);
}

// Keeping

TEST(Retention, KeepsTheNewestAndNeverFewerThanTwo) {
  for (const auto& [limit, kept] : std::vector<std::pair<int64_t, std::vector<int64_t>>>{
           {1, {5, 4}}, {2, {5, 4}}, {3, {5, 4, 3}}, {0, {5, 4, 3, 2, 1}}}) {
    TempFolder run;
    for (int64_t step = 1; step <= 5; ++step) {
      save_toy(run.where(), step, {.limit = limit});
    }
    EXPECT_EQ(checkpoint_steps(run.where()), kept) << limit;
  }
}

TEST(Retention, DoesNotCountDamagedOnes) {
  TempFolder run;
  save_toy(run.where(), 1, {.limit = 2});
  damage(save_toy(run.where(), 2, {.limit = 2}));
  save_toy(run.where(), 3, {.limit = 2});
  EXPECT_EQ(checkpoint_steps(run.where()), (std::vector<int64_t>{3, 2, 1}));
  EXPECT_TRUE(holds_step(Checkpoint::open(run.where() / "checkpoint-1"), 1));
}

TEST(Commit, TheSameContentsStayAndOthersAreMovedAside) {
  TempFolder run;
  const Path folder = save_toy(run.where(), 5);
  save_toy(run.where(), 5);
  EXPECT_EQ(names_in(run.where()), (std::set<std::string>{"checkpoint-5"}));
  save_checkpoint(run.where(), toy_state(5), toy_units(), toy_pieces(6), {});
  EXPECT_EQ(names_in(run.where()), (std::set<std::string>{"checkpoint-5", "checkpoint-5.bad-1"}));
  EXPECT_TRUE(holds_step(Checkpoint::open(folder), 6));
  damage(folder);
  save_toy(run.where(), 5);
  EXPECT_TRUE(holds_step(Checkpoint::open(folder), 5));
}

TEST(SetAside, LaterCheckpointsAreNoLongerFound) {
  TempFolder run;
  for (const int64_t step : {1, 2, 3}) {
    save_toy(run.where(), step, {.limit = 9});
  }
  set_later_checkpoints_aside(run.where(), 1, [](const std::string&) {});
  EXPECT_EQ(checkpoint_steps(run.where()), (std::vector<int64_t>{1}));
  EXPECT_TRUE(holds_step(Checkpoint::open(run.where() / "checkpoint-3.superseded-1"), 3));
}

TEST(Resume, AFolderOfARunIsToldFromItsCheckpoints) {
  TempFolder run;
  save_toy(run.where(), 3);
  const auto [code, message] = failure_of([&] { Checkpoint::open(run.where()); });
  EXPECT_EQ(code, Code::kBadCheckpoint);
  EXPECT_NE(message.find((run.where() / "checkpoint-3").string()), std::string::npos) << message;
  EXPECT_EQ(read_resume_choice("run/checkpoint-3/").path, Path("run/checkpoint-3"));
}

TEST(RunLock, ASecondOwnerIsRefusedByName) {
  TempFolder folder;
  const Path run = folder.where() / "runs" / "a";
  {
    const RunLock lock(run);
    const auto [code, message] = failure_of([&] { RunLock second(run); });
    EXPECT_EQ(code, Code::kLocked);
    EXPECT_EQ(info(code).exit_status, 8);
    EXPECT_NE(message.find(str("locked by pid ", ::getpid())), std::string::npos) << message;
  }
  std::filesystem::create_directories(run / "checkpoint-4.tmp");
  const RunLock again(run);
  EXPECT_FALSE(std::filesystem::exists(run / "checkpoint-4.tmp"));
}

TEST(BeginCheckpoint, ADiskThatIsTooSmallIsNoticedFirst) {
  TempFolder run;
  EXPECT_EQ(failure_of([&] {
              begin_checkpoint(run.where(), 1, std::numeric_limits<int64_t>::max());
            }).first,
            Code::kDiskFull);
  EXPECT_TRUE(names_in(run.where()).empty());
}

// Every call that changes the disk, one after the other: steps 1 and 2 are there, 3 is being saved,
// of which two are kept. Whatever happens, 2 or 3 is the newest valid one and loads, another valid
// one lies behind it, and the next owner finds the folder clean.
class Faults : public ::testing::Test {
 protected:
  void prepare() {
    std::filesystem::remove_all(run_);
    std::filesystem::create_directory(run_);
    save_toy(run_, 1, kOptions);
    save_toy(run_, 2, kOptions);
  }
  void save_third() const { save_toy(run_, 3, kOptions); }

  void expect_sound(int64_t call) const {
    const auto found = find_checkpoint(run_, {.mode = Resume::kAuto}, [](const std::string&) {});
    ASSERT_TRUE(found) << call;
    const int64_t step = found->state().step;
    EXPECT_TRUE(step == 2 || step == 3) << call;
    EXPECT_TRUE(holds_step(*found, step)) << call;
    EXPECT_TRUE(holds_step(Checkpoint::open(checkpoint_folder(run_, step - 1)), step - 1)) << call;
    const RunLock next(run_);
    for (const std::string& name : names_in(run_)) {
      EXPECT_FALSE(name.ends_with(".tmp")) << call << " " << name;
    }
    save_third();
    EXPECT_EQ(checkpoint_steps(run_), (std::vector<int64_t>{3, 2})) << call;
  }

  TempFolder folder_;
  Path run_ = folder_.where() / "run";
  const SaveOptions kOptions{.max_file_bytes = 2000, .limit = 2};
};

TEST_F(Faults, KilledAtAnyCallTheRunGoesOnFromAValidCheckpoint) {
  prepare();
  const int64_t calls = with_faults({}, [&] { save_third(); });
  ASSERT_GT(calls, 20);
  for (int64_t call = 1; call <= calls; ++call) {
    prepare();
    EXPECT_TRUE(is_killed_in_child({.fault = Fault::kKill, .call = call}, [&] { save_third(); }))
        << call;
    expect_sound(call);
  }
}

TEST_F(Faults, AnErrorAtAnyCallIsReportedOrHarmless) {
  prepare();
  const int64_t calls = with_faults({}, [&] { save_third(); });
  int64_t reported = 0;
  for (const int error : {ENOSPC, EIO}) {
    for (int64_t call = 1; call <= calls; ++call) {
      prepare();
      try {
        with_faults({.fault = Fault::kFail, .call = call, .error = error}, [&] { save_third(); });
        EXPECT_EQ(checkpoint_steps(run_).front(), 3) << call;  // an old one could not be removed
      } catch (const IoError& failure) {
        EXPECT_NE(std::string(failure.what()).find(run_.string()), std::string::npos)
            << failure.what();
        ++reported;
      }
      expect_sound(call);
    }
  }
  EXPECT_GT(reported, calls);  // most of them
}

TEST(Differences, NameTheFirstElementOfEachTensor) {
  TempFolder run;
  const Path a = save_toy(run.where(), 1, {.limit = 9});
  std::vector<NamedPiece> pieces = toy_pieces(1);
  pieces[4].flat[78] = 0.5F;  // student, blocks.0, p: bias element 1
  pieces[4].flat[80] = 0.5F;
  const Path b = save_checkpoint(run.where(), toy_state(2), toy_units(), pieces, {});
  EXPECT_TRUE(differences(Checkpoint::open(a), Checkpoint::open(a)).empty());
  const std::vector<std::string> lines = differences(Checkpoint::open(a), Checkpoint::open(b));
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_NE(lines[0].find("student/blocks.0/p blocks.0.bias element 1: "), std::string::npos)
      << lines[0];
  EXPECT_NE(Checkpoint::open(a).state_digest(), Checkpoint::open(b).state_digest());
}

}  // namespace
}  // namespace fastwan::training
