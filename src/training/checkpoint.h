// Training state on disk: a folder that is valid only if its manifest verifies.
//
//   <run>/checkpoint-<step>/
//     state-<r>-<i>.safetensors  flat pieces of rank r, in files of at most max_file_bytes
//     config.yaml                the complete config
//     manifest.json              step, seed, loader position, unit table, piece table, sizes and
//                                tree digests of the other files; its last line holds the sha256 of
//                                the file with that digest's 64 digits replaced by zeros
//
// Units   a role's network is a list of units; a unit is one flat vector that joins tensors in the
//         order of its table. Pieces are ranges of that vector without its padding, so any number
//         of ranks can read what any other number wrote
// Commit  everything into checkpoint-<step>.tmp, each file and the folder synced, manifest last,
//         rename, sync of the run folder. A kill at any moment leaves the previous checkpoints as
//         they were
// Sums    nothing is trusted before its digest was compared
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/files.h"

namespace fastwan::training {

inline constexpr int64_t kCheckpointFormat = 1;
inline constexpr int64_t kDefaultMaxFileBytes = int64_t{4} << 30;

// Master weights, first and second moment, moving average.
enum class PieceKind { kParameter, kMoment1, kMoment2, kEma };
const char* name_of(PieceKind kind);  // p, m, v, ema

struct StoredTensor {
  std::string name;  // as Diffusers spells it
  std::vector<int64_t> shape;
  int64_t offset = 0;  // elements

  int64_t num_elements() const;
};
struct UnitTable {
  std::string role, unit;             // "student", "blocks.3"
  std::vector<StoredTensor> tensors;  // in order, without gaps
  int64_t numel = 0;                  // without padding
  int64_t pad = 0;                    // zeros behind, not stored
};

// Elements [begin, end) of a unit's flat vector.
struct NamedPiece {
  std::string role, unit;
  PieceKind kind = PieceKind::kParameter;
  int64_t begin = 0, end = 0;
  at::Tensor flat;  // [end - begin], contiguous, any device
};

// What a run is, besides its pieces.
struct RunState {
  int64_t step = 0;    // iterations done
  std::string method;  // finetune, distill, ...
  std::string config;  // complete, YAML
  uint64_t seed = 0;
  int64_t batches_consumed = 0;
  std::string data_digest;
  std::map<std::string, int64_t> updates;  // optimizer updates of each role
  int64_t world = 1;
  // Versions, device, threads: what decides bits besides config and data. A change is told.
  std::map<std::string, std::string> environment;
  std::map<std::string, std::string> frozen;     // role -> digests of its weights
  std::map<std::string, std::string> snapshots;  // key of a cached hub id -> commit it meant
  std::string parent;                            // the checkpoint this run resumed from
};

// Writing

struct StoredFile {
  std::string name;
  int64_t bytes = 0;
  std::string digest;  // sha256_tree
};
struct StoredPiece {
  std::string role, unit;
  PieceKind kind = PieceKind::kParameter;
  int64_t begin = 0, end = 0;
  std::string dtype, file, tensor;
};
// What one rank wrote.
struct StateFiles {
  std::vector<StoredFile> files;
  std::vector<StoredPiece> pieces;
};
// For the trip to rank 0.
std::string to_text(const StateFiles& files);
StateFiles state_files_from(const std::string& text);

// NonFinite, naming role, unit, tensor and element, when any piece holds NaN or infinity.
void require_finite(const std::vector<UnitTable>& units, const std::vector<NamedPiece>& pieces);

// An empty <run>/checkpoint-<step>.tmp, once; disk_full when `bytes` will not fit.
Path begin_checkpoint(const Path& run, int64_t step, int64_t bytes);
// This rank's pieces, synced. bad_value when max_file_bytes is too small to hold anything.
StateFiles write_state(const Path& unfinished,
                       int64_t rank,
                       const std::vector<NamedPiece>& pieces,
                       int64_t max_file_bytes);
// Rank 0, after all ranks have written: checks that the pieces cover every element of every unit
// exactly once, writes config.yaml and the manifest, renames. A valid checkpoint of the same step
// and digests stays and the new one is dropped; another one is moved to checkpoint-<step>.bad-<n>.
Path commit_checkpoint(const Path& unfinished,
                       const RunState& state,
                       const std::vector<UnitTable>& units,
                       const std::vector<StateFiles>& ranks);
// After the new manifest was read again: removes the oldest checkpoints beyond `limit` (0: none),
// never below two. What cannot be removed is said.
void retain_checkpoints(const Path& run,
                        int64_t limit,
                        const std::function<void(const std::string&)>& on_note);

struct SaveOptions {
  int64_t max_file_bytes = kDefaultMaxFileBytes;
  int64_t limit = 3;  // checkpoints kept; 0: all
  std::function<void(const std::string&)> on_note = [](const std::string&) {};
};
// The four steps in a process of its own.
Path save_checkpoint(const Path& run,
                     const RunState& state,
                     const std::vector<UnitTable>& units,
                     const std::vector<NamedPiece>& pieces,
                     const SaveOptions& options);

// Reading

class Checkpoint {
 public:
  // Verifies manifest, sizes and every digest. InvalidInput bad_checkpoint naming file and reason;
  // newer_format (exit 8) for a manifest of a later program.
  static Checkpoint open(const Path& folder);

  const Path& folder() const { return folder_; }
  const RunState& state() const { return state_; }
  const std::vector<UnitTable>& units() const { return units_; }
  const std::vector<StoredPiece>& pieces() const { return pieces_; }
  const std::vector<StoredFile>& files() const { return files_; }
  // sha256 over the sorted names and digests of the state files.
  std::string state_digest() const;

  bool has(const std::string& role, PieceKind kind) const;
  const UnitTable& unit(const std::string& role, const std::string& unit) const;
  // Failure changed_run, naming the first network, unit or tensor that is not as in `wanted`, the
  // tables of every network of the run. Stored networks that the run does not have are no matter.
  // load() goes by role, unit and range alone: without this, numbers of other tensors would pass.
  void require_units(const std::vector<UnitTable>& wanted) const;
  // Fills piece.flat, whose type must be the stored one: a resume changes no bit.
  void load(const NamedPiece& piece) const;
  // A tensor of a unit's table, on the host, in its stored type.
  at::Tensor tensor(const UnitTable& unit, const StoredTensor& tensor, PieceKind kind) const;

 private:
  Path folder_;
  RunState state_;
  std::vector<UnitTable> units_;
  std::vector<StoredPiece> pieces_;
  std::vector<StoredFile> files_;
};

enum class Resume { kAuto, kLatest, kPath, kNone };
struct ResumeChoice {
  Resume mode = Resume::kAuto;
  Path path;  // kPath
};
ResumeChoice read_resume_choice(const std::string& text);  // auto, latest, none, else a path

// auto    the newest valid one, else nothing
// latest  the newest valid one; not_found, bad_checkpoint when there is none
// path    that one
// none    nothing; exists when the folder holds checkpoints, which a fresh run would mix with
// Broken ones that are passed over are said. newer_format stops the search: an older checkpoint
// would silently undo what a later program did.
std::optional<Checkpoint> find_checkpoint(const Path& run,
                                          const ResumeChoice& choice,
                                          const std::function<void(const std::string&)>& on_note);
// Steps of the folders named checkpoint-<step>, newest first, valid or not.
std::vector<int64_t> checkpoint_steps(const Path& run);
Path checkpoint_folder(const Path& run, int64_t step);

// Moves checkpoints later than `step` (-1: all) out of the way (checkpoint-<n>.superseded-<k>): a
// run that went on from an earlier one must not find them after its next stop, and retention must
// not keep them instead of the run's own.
void set_later_checkpoints_aside(const Path& run,
                                 int64_t step,
                                 const std::function<void(const std::string&)>& on_note);

// One process a run folder: a held lock is Failure locked (exit 8), naming the holder. Removes what
// a killed owner left unfinished.
class RunLock {
 public:
  explicit RunLock(const Path& run);  // creates the folder
  ~RunLock();
  RunLock(const RunLock&) = delete;
  RunLock& operator=(const RunLock&) = delete;

 private:
  int descriptor_ = -1;
};

// Lines for a person: where two checkpoints differ, first differing tensor and element first; empty
// when every stored number is the same.
std::vector<std::string> differences(const Checkpoint& a, const Checkpoint& b);

}  // namespace fastwan::training
