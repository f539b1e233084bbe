#include <algorithm>
#include <cerrno>
#include <span>
#include <utility>

#include <ATen/ops/isfinite.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "training/checkpoint.h"
#include "training/manifest.h"

namespace fastwan::training {
namespace {

constexpr int64_t kPartElements = int64_t{4} << 20;
// What a tensor takes in a file's header: its name twice over and the fixed words.
constexpr int64_t kHeaderBytesOfATensor = 160;
constexpr int64_t kHeaderBytesOfAFile = 64;
constexpr const char* kUnfinished = ".tmp";

std::string where_of(const NamedPiece& piece) {
  return str(piece.role, "/", piece.unit, "/", name_of(piece.kind));
}

std::string tensor_name(const NamedPiece& piece, int64_t begin) {
  return str(where_of(piece), "/", begin);
}

// The tensor of a unit that element `index` of its vector belongs to.
std::string element_name(const std::vector<UnitTable>& units,
                         const NamedPiece& piece,
                         int64_t index) {
  for (const UnitTable& unit : units) {
    if (unit.role != piece.role || unit.unit != piece.unit) {
      continue;
    }
    for (const StoredTensor& tensor : unit.tensors) {
      if (index < tensor.offset + tensor.num_elements()) {
        return str(tensor.name, " element ", index - tensor.offset);
      }
    }
  }
  return str("element ", index);
}

// A part of a piece in one file.
struct Part {
  const NamedPiece* piece;
  int64_t begin, end;  // elements of the unit

  int64_t bytes() const { return (end - begin) * static_cast<int64_t>(piece->flat.element_size()); }
};

// Files filled to the brim, in the order of the pieces.
std::vector<std::vector<Part>> split_into_files(const std::vector<NamedPiece>& pieces,
                                                int64_t max_file_bytes) {
  std::vector<std::vector<Part>> files;
  int64_t room = 0;
  for (const NamedPiece& piece : pieces) {
    const auto element = static_cast<int64_t>(piece.flat.element_size());
    const int64_t entry =
        kHeaderBytesOfATensor + static_cast<int64_t>(tensor_name(piece, piece.end).size());
    int64_t begin = piece.begin;
    while (begin < piece.end) {
      if (files.empty() || room < entry + element) {
        files.emplace_back();
        room = max_file_bytes - kHeaderBytesOfAFile;
        if (room < entry + element) {
          throw InvalidInput(Code::kBadValue,
                             str("training.checkpoint.max_file_bytes ", max_file_bytes,
                                 " is too small to hold one number and its header"));
        }
      }
      const int64_t count = std::min(piece.end - begin, (room - entry) / element);
      files.back().push_back({&piece, begin, begin + count});
      room -= entry + count * element;
      begin += count;
    }
  }
  return files;
}

void write_part(const Part& part, FileSink& sink) {
  const at::Tensor flat =
      part.piece->flat.narrow(0, part.begin - part.piece->begin, part.end - part.begin);
  for (int64_t first = 0; first < flat.numel(); first += kPartElements) {
    const at::Tensor dense =
        flat.narrow(0, first, std::min(kPartElements, flat.numel() - first)).cpu().contiguous();
    sink.write(std::span(static_cast<const std::byte*>(dense.const_data_ptr()), dense.nbytes()));
  }
}

StoredFile stored(const Path& file) {
  return {.name = file.filename().string(),
          .bytes = static_cast<int64_t>(std::filesystem::file_size(file)),
          .digest = sha256_tree(file)};
}

// A name beside `folder` that is free: checkpoint-5.bad-1.
Path free_name(const Path& folder, const char* word) {
  for (int64_t number = 1;; ++number) {
    Path name = folder;
    name += str(".", word, "-", number);
    if (!std::filesystem::exists(name)) {
      return name;
    }
  }
}

bool same_contents(const Manifest& a, const Manifest& b) {
  const auto digests = [](const Manifest& manifest) {
    std::vector<std::pair<std::string, std::string>> out;
    for (const StoredFile& file : manifest.files) {
      out.emplace_back(file.name, file.digest);
    }
    std::sort(out.begin(), out.end());
    return out;
  };
  return digests(a) == digests(b);
}

// Whether `folder` is a whole checkpoint with the same contents.
bool holds_already(const Path& folder, const Manifest& manifest) {
  try {
    const Manifest old = read_manifest(folder);
    if (!same_contents(old, manifest)) {
      return false;
    }
    check_digests(folder, old);
    return true;
  } catch (const Failure&) {
    return false;
  }
}

}  // namespace

void require_finite(const std::vector<UnitTable>& units, const std::vector<NamedPiece>& pieces) {
  for (const NamedPiece& piece : pieces) {
    for (int64_t first = 0; first < piece.flat.numel(); first += kPartElements) {
      const at::Tensor part =
          piece.flat.narrow(0, first, std::min(kPartElements, piece.flat.numel() - first));
      const at::Tensor finite = at::isfinite(part);
      if (finite.all().item<bool>()) {
        continue;
      }
      const int64_t index =
          piece.begin + first + finite.logical_not().to(at::kByte).argmax().item<int64_t>();
      throw Failure(Code::kNonFinite,
                    str(where_of(piece), ": ", element_name(units, piece, index),
                        " is NaN or infinite: no checkpoint is written, the previous one stays. "
                        "Try a lower learning rate, or go on from an earlier checkpoint"));
    }
  }
}

Path begin_checkpoint(const Path& run, int64_t step, int64_t bytes) {
  Path unfinished = checkpoint_folder(run, step);
  unfinished += kUnfinished;
  std::error_code error;
  std::filesystem::remove_all(unfinished, error);
  if (error) {
    throw_io_error(error.value(), unfinished, "remove");
  }
  const std::filesystem::space_info space = std::filesystem::space(run, error);
  if (!error && static_cast<int64_t>(space.available) < bytes) {
    throw IoError(Code::kDiskFull,
                  str("cannot write ", unfinished.string(), ": it needs ",
                      format_bytes(static_cast<double>(bytes)), ", ",
                      format_bytes(static_cast<double>(space.available)), " are free"));
  }
  if (!std::filesystem::create_directory(unfinished, error)) {
    throw_io_error(error.value(), unfinished, "create folder");
  }
  return unfinished;
}

StateFiles write_state(const Path& unfinished,
                       int64_t rank,
                       const std::vector<NamedPiece>& pieces,
                       int64_t max_file_bytes) {
  for (const NamedPiece& piece : pieces) {
    invariant(piece.flat.dim() == 1 && piece.flat.numel() == piece.end - piece.begin,
              "a piece has as many numbers as its range");
  }
  StateFiles out;
  for (const std::vector<Part>& parts : split_into_files(pieces, max_file_bytes)) {
    const Path file = unfinished / str("state-", rank, "-", out.files.size(), ".safetensors");
    std::vector<io::TensorInfo> infos;
    std::map<std::string, const Part*> by_name;
    for (const Part& part : parts) {
      const std::string name = tensor_name(*part.piece, part.begin);
      const io::Dtype dtype = models::dtype_of(part.piece->flat.scalar_type());
      infos.push_back({.name = name, .dtype = dtype, .shape = {part.end - part.begin}});
      invariant(by_name.emplace(name, &part).second, "pieces do not overlap");
      out.pieces.push_back({.role = part.piece->role,
                            .unit = part.piece->unit,
                            .kind = part.piece->kind,
                            .begin = part.begin,
                            .end = part.end,
                            .dtype = io::name_of(dtype),
                            .file = file.filename().string(),
                            .tensor = name});
    }
    io::SafetensorsWriter::write(file, infos, {}, [&](const io::TensorInfo& info, FileSink& sink) {
      write_part(*by_name.at(info.name), sink);
    });
    out.files.push_back(stored(file));
    invariant(out.files.back().bytes <= max_file_bytes, "no file is larger than max_file_bytes");
  }
  return out;
}

std::string to_text(const StateFiles& files) {
  Json json = {{"files", Json::array()}, {"pieces", Json::array()}};
  for (const StoredFile& file : files.files) {
    json["files"].push_back(json_of(file));
  }
  for (const StoredPiece& piece : files.pieces) {
    json["pieces"].push_back(json_of(piece));
  }
  return json.dump();
}

StateFiles state_files_from(const std::string& text) {
  const std::string origin = "a rank's list of state files";
  const Json json = parse_json(text, origin);
  StateFiles out;
  for (const Json& file : json_get<Json>(json, "files", origin)) {
    out.files.push_back(stored_file_from(file, origin));
  }
  for (const Json& piece : json_get<Json>(json, "pieces", origin)) {
    out.pieces.push_back(stored_piece_from(piece, origin));
  }
  return out;
}

Path commit_checkpoint(const Path& unfinished,
                       const RunState& state,
                       const std::vector<UnitTable>& units,
                       const std::vector<StateFiles>& ranks) {
  Manifest manifest{.state = state, .units = units};
  for (const StateFiles& rank : ranks) {
    manifest.files.insert(manifest.files.end(), rank.files.begin(), rank.files.end());
    manifest.pieces.insert(manifest.pieces.end(), rank.pieces.begin(), rank.pieces.end());
  }
  require_coverage(units, manifest.pieces, unfinished.string());
  check_sizes(unfinished, manifest);  // as this process sees them, on a shared file system too
  write_durably(unfinished / kConfigName, state.config);
  manifest.files.push_back(stored(unfinished / kConfigName));
  write_durably(unfinished / kManifestName, manifest_text(manifest));

  const Path run = unfinished.parent_path();
  const Path folder = checkpoint_folder(run, state.step);
  if (std::filesystem::exists(folder)) {
    if (holds_already(folder, manifest)) {
      std::filesystem::remove_all(unfinished);
      return folder;
    }
    rename_durably(folder, free_name(folder, "bad"));
  }
  rename_durably(unfinished, folder);
  return folder;
}

void retain_checkpoints(const Path& run,
                        int64_t limit,
                        const std::function<void(const std::string&)>& on_note) {
  constexpr int64_t kFewest = 2;
  if (limit == 0) {
    return;
  }
  int64_t sound = 0;
  for (const int64_t step : checkpoint_steps(run)) {  // newest first
    const Path folder = checkpoint_folder(run, step);
    if (sound < std::max(limit, kFewest)) {
      try {
        check_sizes(folder, read_manifest(folder));
        ++sound;
      } catch (const Failure& failure) {
        on_note(str("checkpoint not counted: ", failure.what()));
      }
      continue;
    }
    try {
      // Out of the way first: a removal that is cut short leaves no half checkpoint.
      Path doomed = folder;
      doomed += kUnfinished;
      rename_durably(folder, doomed);
      std::filesystem::remove_all(doomed);
    } catch (const std::exception& error) {
      on_note(str("cannot remove ", folder.string(), ": ", error.what()));
    }
  }
}

Path save_checkpoint(const Path& run,
                     const RunState& state,
                     const std::vector<UnitTable>& units,
                     const std::vector<NamedPiece>& pieces,
                     const SaveOptions& options) {
  require_finite(units, pieces);
  int64_t bytes = static_cast<int64_t>(state.config.size());
  for (const NamedPiece& piece : pieces) {
    bytes += static_cast<int64_t>(piece.flat.nbytes()) + kHeaderBytesOfATensor;
  }
  const Path unfinished = begin_checkpoint(run, state.step, bytes);
  try {
    const StateFiles files = write_state(unfinished, /*rank=*/0, pieces, options.max_file_bytes);
    Path folder = commit_checkpoint(unfinished, state, units, {files});
    retain_checkpoints(run, options.limit, options.on_note);
    return folder;
  } catch (...) {
    std::error_code ignored;  // a full disk stays full if the attempt stays
    std::filesystem::remove_all(unfinished, ignored);
    throw;
  }
}

}  // namespace fastwan::training
