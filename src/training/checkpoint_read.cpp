#include <algorithm>
#include <cerrno>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include <ATen/ops/empty.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/shape.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "training/checkpoint.h"
#include "training/manifest.h"

namespace fastwan::training {
namespace {

constexpr std::string_view kPrefix = "checkpoint-";
constexpr int64_t kPartElements = int64_t{4} << 20;
constexpr int64_t kMaxConfigBytes = 1 << 20;

[[noreturn]] void refuse(const Path& folder, const std::string& reason) {
  throw InvalidInput(Code::kBadCheckpoint, str(folder.string(), ": ", reason));
}

std::span<std::byte> bytes_of(const at::Tensor& dense) {
  return {static_cast<std::byte*>(dense.mutable_data_ptr()), dense.nbytes()};
}

// Elements [begin, end) of a unit, from every stored piece that overlaps them.
void copy_overlapping(const Checkpoint& checkpoint,
                      const NamedPiece& wanted,
                      const std::function<io::SafetensorsFile&(const std::string&)>& open) {
  int64_t copied = 0;
  for (const StoredPiece& piece : checkpoint.pieces()) {
    if (piece.role != wanted.role || piece.unit != wanted.unit || piece.kind != wanted.kind) {
      continue;
    }
    const int64_t begin = std::max(piece.begin, wanted.begin);
    const int64_t end = std::min(piece.end, wanted.end);
    if (begin >= end) {
      continue;
    }
    const io::SafetensorsFile& file = open(piece.file);
    const std::optional<io::TensorInfo> info = file.find(piece.tensor);
    if (!info || info->shape != std::vector<int64_t>{piece.end - piece.begin}) {
      refuse(file.path(), str("tensor \"", escape_control(piece.tensor),
                              "\" is missing or of another size than the manifest says"));
    }
    const at::ScalarType type = models::scalar_type_of(info->dtype);
    if (type != wanted.flat.scalar_type()) {
      refuse(checkpoint.folder(), str(piece.role, "/", piece.unit, "/", name_of(piece.kind),
                                      " is stored as ", piece.dtype, ", this run keeps it as ",
                                      io::name_of(models::dtype_of(wanted.flat.scalar_type())),
                                      ". Set the same precision as the run that wrote it"));
    }
    for (int64_t at = begin; at < end; at += kPartElements) {
      const int64_t count = std::min(kPartElements, end - at);
      const at::Tensor part = at::empty({count}, type);
      file.read(*info, (at - piece.begin) * io::size_of(info->dtype), bytes_of(part));
      wanted.flat.narrow(0, at - wanted.begin, count).copy_(part);
    }
    copied += end - begin;
  }
  if (copied != wanted.end - wanted.begin) {
    refuse(checkpoint.folder(),
           str(wanted.role, "/", wanted.unit, "/", name_of(wanted.kind), " [", wanted.begin, ", ",
               wanted.end, ") is wanted, ", copied, " of its elements are stored"));
  }
}

std::string described(const StoredTensor& tensor) {
  return str(escape_control(tensor.name), " ", format_shape(tensor.shape));
}

std::string described(const std::vector<StoredTensor>& tensors, std::size_t index) {
  return index < tensors.size() ? described(tensors[index]) : "no tensor more";
}

// The first place at which the tables of a unit part, as a person reads it; empty when they agree.
std::string first_difference(const UnitTable& stored, const UnitTable& wanted) {
  const auto is_same = [](const StoredTensor& a, const StoredTensor& b) {
    return a.name == b.name && a.shape == b.shape && a.offset == b.offset;
  };
  const auto [left, right] = std::mismatch(stored.tensors.begin(), stored.tensors.end(),
                                           wanted.tensors.begin(), wanted.tensors.end(), is_same);
  if (left == stored.tensors.end() && right == wanted.tensors.end() &&
      stored.numel == wanted.numel) {
    return "";
  }
  const auto index = static_cast<std::size_t>(left - stored.tensors.begin());
  return str("tensor ", index, " is stored as ", described(stored.tensors, index),
             ", this run has ", described(wanted.tensors, index));
}

// The first element whose bits differ, or -1.
int64_t first_difference(const at::Tensor& a, const at::Tensor& b) {
  const auto* left = static_cast<const std::byte*>(a.const_data_ptr());
  const auto* right = static_cast<const std::byte*>(b.const_data_ptr());
  const auto at = std::mismatch(left, left + a.nbytes(), right).first - left;
  return at == static_cast<std::ptrdiff_t>(a.nbytes())
             ? -1
             : static_cast<int64_t>(at) / static_cast<int64_t>(a.element_size());
}

std::optional<Checkpoint> newest_valid(const Path& run,
                                       const std::function<void(const std::string&)>& on_note) {
  for (const int64_t step : checkpoint_steps(run)) {
    try {
      return Checkpoint::open(checkpoint_folder(run, step));
    } catch (const Failure& failure) {
      if (failure.code() == Code::kNewerFormat) {
        throw;
      }
      on_note(str("checkpoint passed over: ", failure.what()));
    }
  }
  return std::nullopt;
}

}  // namespace

Checkpoint Checkpoint::open(const Path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw_io_error(ENOENT, folder, "open");
  }
  if (const std::vector<int64_t> steps = checkpoint_steps(folder);
      !steps.empty() && !std::filesystem::exists(folder / kManifestName)) {
    refuse(folder, str("is a run, not one of its checkpoints. Name one, such as ",
                       checkpoint_folder(folder, steps.front()).string()));
  }
  Manifest manifest;
  try {
    manifest = read_manifest(folder);
    check_digests(folder, manifest);
    manifest.state.config = read_file(folder / kConfigName, kMaxConfigBytes);
  } catch (const Failure& failure) {
    if (failure.code() == Code::kNewerFormat || failure.code() == Code::kBadCheckpoint ||
        failure.code() == Code::kNoPermission) {
      throw;
    }
    refuse(folder, failure.what());  // a manifest that is missing or no manifest
  }
  Checkpoint out;
  out.folder_ = folder;
  out.state_ = std::move(manifest.state);
  out.units_ = std::move(manifest.units);
  out.pieces_ = std::move(manifest.pieces);
  out.files_ = std::move(manifest.files);
  return out;
}

std::string Checkpoint::state_digest() const {
  std::map<std::string, std::string> digests;
  for (const StoredFile& file : files_) {
    if (file.name != kConfigName) {
      digests.emplace(file.name, file.digest);
    }
  }
  Sha256 all;
  for (const auto& [name, digest] : digests) {
    all.update(str(name, " ", digest, "\n"));
  }
  return all.hex();
}

bool Checkpoint::has(const std::string& role, PieceKind kind) const {
  return std::any_of(pieces_.begin(), pieces_.end(), [&](const StoredPiece& piece) {
    return piece.role == role && piece.kind == kind;
  });
}

const UnitTable& Checkpoint::unit(const std::string& role, const std::string& unit) const {
  const auto found = std::find_if(units_.begin(), units_.end(), [&](const UnitTable& table) {
    return table.role == role && table.unit == unit;
  });
  if (found == units_.end()) {
    refuse(folder_, str("holds no unit ", role, "/", unit));
  }
  return *found;
}

void Checkpoint::require_units(const std::vector<UnitTable>& wanted) const {
  const auto refuse_other = [this](const std::string& what) {
    throw Failure(Code::kChangedRun,
                  str(folder_.string(), ": ", what,
                      ". A run goes on with the networks that it was saved with: their size, "
                      "attention and LoRA. For others give this run its own output_dir; it can "
                      "start from exported weights (models.*.init_from)"));
  };
  using Place = std::pair<std::string, std::string>;  // role, unit
  std::map<Place, const UnitTable*> stored;
  std::set<std::string> stored_roles;
  for (const UnitTable& table : units_) {
    stored[{table.role, table.unit}] = &table;
    stored_roles.insert(table.role);
  }
  std::set<Place> ours;
  std::set<std::string> our_roles;
  for (const UnitTable& table : wanted) {
    ours.insert({table.role, table.unit});
    our_roles.insert(table.role);
    if (!stored_roles.contains(table.role)) {
      const std::vector<std::string> roles(stored_roles.begin(), stored_roles.end());
      refuse_other(str("holds no network ", table.role, ", its method was ",
                       escape_control(state_.method), " and it holds ",
                       escape_control(join_first(roles, roles.size()))));
    }
    const auto found = stored.find({table.role, table.unit});
    if (found == stored.end()) {
      refuse_other(str("the network ", table.role, " is stored without the unit ", table.unit));
    }
    if (const std::string what = first_difference(*found->second, table); !what.empty()) {
      refuse_other(str("the network ", table.role, " is another in unit ", table.unit, ": ", what));
    }
  }
  for (const UnitTable& table : units_) {
    if (our_roles.contains(table.role) && !ours.contains({table.role, table.unit})) {
      refuse_other(str("the network ", table.role, " is stored with a unit ",
                       escape_control(table.unit), " that this run's does not have"));
    }
  }
}

void Checkpoint::load(const NamedPiece& piece) const {
  std::map<std::string, io::SafetensorsFile> files;
  copy_overlapping(*this, piece, [&](const std::string& name) -> io::SafetensorsFile& {
    const auto found = files.find(name);
    return found != files.end()
               ? found->second
               : files.emplace(name, io::SafetensorsFile::open(folder_ / name)).first->second;
  });
}

at::Tensor Checkpoint::tensor(const UnitTable& unit,
                              const StoredTensor& tensor,
                              PieceKind kind) const {
  const auto stored = std::find_if(pieces_.begin(), pieces_.end(), [&](const StoredPiece& piece) {
    return piece.role == unit.role && piece.unit == unit.unit && piece.kind == kind;
  });
  if (stored == pieces_.end()) {
    refuse(folder_, str("holds no ", name_of(kind), " of ", unit.role, "/", unit.unit));
  }
  const io::SafetensorsFile file = io::SafetensorsFile::open(folder_ / stored->file);
  const std::optional<io::TensorInfo> info = file.find(stored->tensor);
  invariant(info.has_value(), "a verified file holds what its manifest names");
  const NamedPiece wanted{
      .role = unit.role,
      .unit = unit.unit,
      .kind = kind,
      .begin = tensor.offset,
      .end = tensor.offset + tensor.num_elements(),
      .flat = at::empty({tensor.num_elements()}, models::scalar_type_of(info->dtype))};
  load(wanted);
  return wanted.flat.view(tensor.shape);
}

ResumeChoice read_resume_choice(const std::string& text) {
  static const std::map<std::string, Resume> kWords = {
      {"auto", Resume::kAuto}, {"latest", Resume::kLatest}, {"none", Resume::kNone}};
  if (const auto word = kWords.find(text); word != kWords.end()) {
    return {.mode = word->second};
  }
  const Path path = text;
  return {.mode = Resume::kPath, .path = path.has_filename() ? path : path.parent_path()};
}

std::optional<Checkpoint> find_checkpoint(const Path& run,
                                          const ResumeChoice& choice,
                                          const std::function<void(const std::string&)>& on_note) {
  switch (choice.mode) {
    case Resume::kPath:
      return Checkpoint::open(choice.path);
    case Resume::kNone:
      if (!checkpoint_steps(run).empty()) {
        throw Failure(Code::kExists, str(run.string(),
                                         " already holds checkpoints. Resume (--resume auto), or "
                                         "give a fresh run another output folder"));
      }
      return std::nullopt;
    case Resume::kAuto:
      return newest_valid(run, on_note);
    case Resume::kLatest:
      break;
  }
  std::optional<Checkpoint> found = newest_valid(run, on_note);
  if (!found && !checkpoint_steps(run).empty()) {
    refuse(run, "every checkpoint is damaged. `--resume auto` starts afresh");
  }
  if (!found) {
    throw IoError(Code::kNotFound, str(run.string(), " holds no checkpoint to resume from"));
  }
  return found;
}

Path checkpoint_folder(const Path& run, int64_t step) {
  return run / str(kPrefix, step);
}

std::vector<int64_t> checkpoint_steps(const Path& run) {
  std::vector<int64_t> steps;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(run, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kPrefix) || !entry.is_directory()) {
      continue;
    }
    const std::optional<int64_t> step = parse_int(name.substr(kPrefix.size()));
    if (step && *step >= 0 && checkpoint_folder(run, *step) == entry.path()) {
      steps.push_back(*step);
    }
  }
  std::sort(steps.rbegin(), steps.rend());
  return steps;
}

void set_later_checkpoints_aside(const Path& run,
                                 int64_t step,
                                 const std::function<void(const std::string&)>& on_note) {
  for (const int64_t later : checkpoint_steps(run)) {
    if (later <= step) {
      return;
    }
    const Path folder = checkpoint_folder(run, later);
    Path aside;
    for (int64_t number = 1; aside.empty() || std::filesystem::exists(aside); ++number) {
      aside = folder;
      aside += str(".superseded-", number);
    }
    rename_durably(folder, aside);
    on_note(str(step < 0 ? "the run starts afresh" : str("the run goes on from step ", step), ": ",
                folder.string(), " is now ", aside.filename().string()));
  }
}

RunLock::RunLock(const Path& run) {
  std::error_code error;
  std::filesystem::create_directories(run, error);
  if (error) {
    throw_io_error(error.value(), run, "create folder");
  }
  const Path file = run / ".lock";
  descriptor_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    throw_io_error(errno, file, "open");
  }
  if (::flock(descriptor_, LOCK_EX | LOCK_NB) != 0) {
    std::string holder(32, '\0');
    const ssize_t got = ::pread(descriptor_, holder.data(), holder.size(), 0);
    holder.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    ::close(descriptor_);
    throw Failure(Code::kLocked, str(run.string(), ": locked by pid ", escape_control(trim(holder)),
                                     ". Wait for it, stop it, or use another output folder"));
  }
  const std::string me = str(::getpid(), "\n");
  if (::ftruncate(descriptor_, 0) != 0 ||
      ::pwrite(descriptor_, me.data(), me.size(), 0) != static_cast<ssize_t>(me.size())) {
    const int reason = errno;
    ::close(descriptor_);
    throw_io_error(reason, file, "write");
  }
  for (const auto& entry : std::filesystem::directory_iterator(run)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(kPrefix) && name.ends_with(".tmp")) {
      std::filesystem::remove_all(entry.path(), error);
    }
  }
}

RunLock::~RunLock() {
  ::close(descriptor_);
}

std::vector<std::string> differences(const Checkpoint& a, const Checkpoint& b) {
  std::vector<std::string> out;
  const auto names = [](const Checkpoint& checkpoint) {
    std::set<std::string> all;
    for (const StoredPiece& piece : checkpoint.pieces()) {
      all.insert(str(piece.role, "/", piece.unit, "/", name_of(piece.kind)));
    }
    return all;
  };
  const std::set<std::string> in_a = names(a), in_b = names(b);
  for (const std::string& name : in_a) {
    if (!in_b.contains(name)) {
      out.push_back(str(name, " is only in ", a.folder().string()));
    }
  }
  for (const std::string& name : in_b) {
    if (!in_a.contains(name)) {
      out.push_back(str(name, " is only in ", b.folder().string()));
    }
  }
  for (const UnitTable& unit : a.units()) {
    for (const PieceKind kind :
         {PieceKind::kParameter, PieceKind::kMoment1, PieceKind::kMoment2, PieceKind::kEma}) {
      const std::string name = str(unit.role, "/", unit.unit, "/", name_of(kind));
      if (!in_a.contains(name) || !in_b.contains(name)) {
        continue;
      }
      const UnitTable& other = b.unit(unit.role, unit.unit);
      for (const StoredTensor& tensor : unit.tensors) {
        const auto twin = std::find_if(
            other.tensors.begin(), other.tensors.end(),
            [&tensor](const StoredTensor& candidate) { return candidate.name == tensor.name; });
        if (twin == other.tensors.end() || twin->shape != tensor.shape) {
          out.push_back(str(name, " ", tensor.name, " is missing or of another shape in ",
                            b.folder().string()));
          continue;
        }
        const at::Tensor left = a.tensor(unit, tensor, kind);
        const at::Tensor right = b.tensor(other, *twin, kind);
        if (left.scalar_type() != right.scalar_type()) {
          out.push_back(str(name, " ", tensor.name, " is stored in another type"));
        } else if (const int64_t at = first_difference(left, right); at >= 0) {
          out.push_back(str(name, " ", tensor.name, " element ", at, ": ",
                            format_number(left.view({-1})[at].item<double>()), " and ",
                            format_number(right.view({-1})[at].item<double>())));
        }
      }
    }
  }
  return out;
}

}  // namespace fastwan::training
