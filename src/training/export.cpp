#include "training/export.h"

#include <algorithm>
#include <cerrno>
#include <map>
#include <span>
#include <utility>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "models/layout/configs.h"
#include "models/layout/tensors.h"

namespace fastwan::training {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostListed = 10;

// Of weight files, by the library that wrote the component.
const char* stem_of(const std::string& component) {
  return component == "text_encoder" ? "model" : "diffusion_pytorch_model";
}

int64_t bytes_of(const ExportTensor& tensor, at::ScalarType dtype) {
  int64_t bytes = static_cast<int64_t>(c10::elementSize(dtype));
  for (const int64_t size : tensor.shape) {
    bytes *= size;
  }
  return bytes;
}

using Shard = std::vector<const ExportTensor*>;

std::vector<Shard> split_into_shards(const std::vector<ExportTensor>& weights,
                                     const ExportOptions& options) {
  std::vector<Shard> shards(1);
  int64_t filled = 0;
  for (const ExportTensor& tensor : weights) {
    const int64_t bytes = bytes_of(tensor, options.dtype);
    if (!shards.back().empty() && filled + bytes > options.max_file_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(&tensor);
    filled += bytes;
  }
  return shards;
}

void write_shard(const Path& file, const Shard& shard, at::ScalarType dtype) {
  std::vector<io::TensorInfo> infos;
  std::map<std::string, const ExportTensor*> by_name;
  for (const ExportTensor* tensor : shard) {
    infos.push_back(
        {.name = tensor->name, .dtype = models::dtype_of(dtype), .shape = tensor->shape});
    by_name.emplace(tensor->name, tensor);
  }
  io::SafetensorsWriter::write(
      file, infos, {{"format", "pt"}}, [&](const io::TensorInfo& info, FileSink& sink) {
        const at::Tensor value = by_name.at(info.name)->value().cpu().to(dtype).contiguous();
        invariant(value.sizes().vec() == info.shape, "an exported weight has its table's shape");
        sink.write(
            std::span(static_cast<const std::byte*>(value.const_data_ptr()), value.nbytes()));
      });
}

std::string padded(std::size_t number) {
  const std::string digits = str(number);
  return std::string(digits.size() < 5 ? 5 - digits.size() : 0, '0') + digits;
}

void write_weights(const Path& folder,
                   const std::vector<ExportTensor>& weights,
                   const ExportOptions& options) {
  const std::vector<Shard> shards = split_into_shards(weights, options);
  const char* stem = stem_of(options.component);
  Json map = Json::object();
  int64_t total = 0;
  for (std::size_t i = 0; i < shards.size(); ++i) {
    const std::string name = shards.size() == 1 ? str(stem, ".safetensors")
                                                : str(stem, "-", padded(i + 1), "-of-",
                                                      padded(shards.size()), ".safetensors");
    write_shard(folder / name, shards[i], options.dtype);
    const auto bytes = static_cast<int64_t>(fs::file_size(folder / name));
    if (options.limit_bytes > 0 && bytes > options.limit_bytes) {
      throw Failure(Code::kDoesNotFit,
                    str(name, " has ", bytes, " bytes, at most ", options.limit_bytes,
                        " are allowed. Export bf16, or raise export_limit_bytes"));
    }
    for (const ExportTensor* tensor : shards[i]) {
      map[tensor->name] = name;
      total += bytes_of(*tensor, options.dtype);
    }
  }
  if (shards.size() > 1) {
    const Json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
    write_durably(folder / str(stem, ".safetensors.index.json"), dump_json(index));
  }
}

// As the component's config implies them; gates may be there or not.
std::vector<layout::TensorSpec> wanted_tensors(const std::vector<ExportTensor>& weights,
                                               const std::string& component,
                                               const std::string& config_file) {
  const Json json = read_json_file(config_file);
  if (component == "vae") {
    return layout::tensors_of(layout::read_wan_vae(json, config_file));
  }
  if (component == "text_encoder") {
    return layout::tensors_of(layout::read_umt5(json, config_file));
  }
  layout::WanDitConfig config = layout::read_wan_dit(json, config_file);
  config.is_gated = std::any_of(weights.begin(), weights.end(), [](const ExportTensor& tensor) {
    return tensor.name.find(layout::kGateName) != std::string::npos;
  });
  return layout::tensors_of(config);
}

void check_against_config(const std::vector<ExportTensor>& weights,
                          const std::string& component,
                          const Path& config_file) {
  std::map<std::string, std::vector<int64_t>> given;
  for (const ExportTensor& tensor : weights) {
    given.emplace(tensor.name, tensor.shape);
  }
  std::vector<std::string> wrong;
  for (const layout::TensorSpec& wanted :
       wanted_tensors(weights, component, config_file.string())) {
    const auto found = given.find(wanted.name);
    if (found == given.end() || found->second != wanted.shape) {
      wrong.push_back(wanted.name);
    } else {
      given.erase(found);
    }
  }
  for (const auto& [name, shape] : given) {
    wrong.push_back(name);
  }
  if (!wrong.empty()) {
    throw InvalidInput(Code::kMissingWeights,
                       str("the trained weights do not fit ", config_file.string(),
                           ": missing, unexpected or of another shape: ",
                           join_first(wrong, kMostListed), ". Is it the model they come from?"));
  }
}

// `around`: the folders that `folder` lies in, links followed.
void check_copies(const Path& folder, std::vector<Path> around) {
  around.push_back(fs::canonical(folder));
  for (const auto& entry : fs::directory_iterator(folder)) {
    std::error_code error;
    const Path meant = fs::canonical(entry.path(), error);
    const bool is_around = std::find(around.begin(), around.end(), meant) != around.end();
    if (error || is_around) {
      throw InvalidInput(
          Code::kNotFound,
          str(entry.path().string(), " leads to ", is_around ? "a folder around itself" : "nothing",
              ": the run's export could not copy it. Mend the model folder"));
    }
    if (fs::is_directory(meant)) {
      check_copies(entry.path(), around);
    }
  }
}

void copy_or_link(const Path& from, const Path& to, bool links) {
  std::error_code error;
  if (links) {
    fs::create_symlink(fs::absolute(from), to, error);
  } else {  // links are followed: hub caches keep their blobs elsewhere
    fs::copy(from, to, fs::copy_options::recursive, error);
  }
  if (error) {
    throw_io_error(error.value(), from, links ? "link" : "copy");
  }
}

void write_index(const Path& from, const Path& to, const std::string& class_name) {
  Json index = read_json_file(from.string());
  if (!class_name.empty()) {
    index["_class_name"] = class_name;
  }
  write_durably(to, dump_json(index));
}

// Everything of the base but the replaced component and the index.
void fill(const Path& folder,
          const std::vector<ExportTensor>& weights,
          const ExportOptions& options) {
  for (const auto& entry : fs::directory_iterator(options.base)) {
    const std::string name = entry.path().filename().string();
    if (name != options.component && name != "model_index.json" && !name.starts_with(".")) {
      copy_or_link(entry.path(), folder / name, options.links && entry.is_directory());
    }
  }
  if (!options.preset.empty()) {
    const Path preset = folder / "fastwan.json";
    Json changed = fs::exists(preset) ? read_json_file(preset.string()) : Json::object();
    changed.merge_patch(parse_json(options.preset, "preset of the export"));
    write_durably(preset, dump_json(changed));
  }
  fs::create_directory(folder / options.component);
  const Path config = Path(options.component) / "config.json";
  if (options.config.empty()) {
    copy_or_link(options.base / config, folder / config, /*links=*/false);
  } else {
    Json changed = read_json_file((options.base / config).string());
    changed.merge_patch(parse_json(options.config, "config of the export"));
    write_durably(folder / config, dump_json(changed));
  }
  write_weights(folder / options.component, weights, options);
  write_index(options.base / "model_index.json", folder / "model_index.json", options.class_name);
}

constexpr const char* kMark = ".fastwan-export";

// A hidden file that tells an export from a user's folder.
void mark_as_export(const Path& folder) {
  write_durably(folder / kMark, "Written by an export; a later one to this path replaces it.\n");
}

// As AtomicFile names the mark until it is whole: what a kill leaves of it.
bool is_unfinished_mark(const fs::directory_entry& entry) {
  const std::string name = entry.path().filename().string();
  return name.starts_with(str('.', kMark, '.')) && name.ends_with(".part");
}

bool is_export(const Path& folder) {
  return fs::is_directory(folder) &&
         (fs::exists(folder / kMark) || std::all_of(fs::directory_iterator(folder),
                                                    fs::directory_iterator(), is_unfinished_mark));
}

// The mark goes last: a kill in between leaves an export, not a folder of someone's. Of a link the
// link alone.
void remove_export(const Path& folder) {
  if (fs::is_directory(fs::symlink_status(folder))) {
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().filename() != kMark) {
        fs::remove_all(entry.path());
      }
    }
  }
  fs::remove_all(folder);
}

void check_replaceable(const Path& to) {
  if (fs::exists(to) && !is_export(to)) {
    throw Failure(
        Code::kExists,
        str(to.string(), fs::is_directory(to) ? " holds what no export wrote" : " is a file",
            ". Name another folder for the export, or move this one away"));
  }
}

// Where an export grows until it is whole.
Path unfinished_of(const Path& to) {
  Path unfinished = to.has_filename() ? to : to.parent_path();
  unfinished += ".tmp";
  return unfinished;
}

// The first folder above `to` that is there takes new folders.
void check_place(const Path& to) {
  Path above = fs::absolute(to).lexically_normal();
  std::error_code error;
  while (!fs::exists(above, error) && above.has_relative_path()) {
    above = above.parent_path();
  }
  require_writable_folder(above);
}

// Without a slash at the end, links followed as far as there is something.
Path plain(const Path& path) {
  const Path whole = fs::weakly_canonical(fs::absolute(path));
  return whole.has_filename() ? whole : whole.parent_path();
}

bool is_or_holds(const Path& folder, const Path& path) {
  const auto [end, _] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return end == folder.end();
}

}  // namespace

void check_export_base(const Path& base) {
  check_copies(base, {});
}

void check_export_target(const Path& to, std::span<const Path> in_use) {
  for (const Path& path : in_use) {
    if (is_or_holds(plain(to), plain(path))) {
      throw InvalidInput(Code::kConflict,
                         str("the export would replace ", to.string(), ", which is or holds ",
                             path.string(), " of this run. Name another folder for it"));
    }
  }
  check_replaceable(to);
  check_replaceable(unfinished_of(to));
  check_place(to);
}

std::vector<ExportTensor> weights_of(const Checkpoint& checkpoint,
                                     const std::string& role,
                                     PieceKind kind) {
  if (!checkpoint.has(role, kind)) {
    throw InvalidInput(Code::kBadCheckpoint, str(checkpoint.folder().string(), " holds no ",
                                                 name_of(kind), " of ", role));
  }
  std::vector<ExportTensor> weights;
  for (const UnitTable& unit : checkpoint.units()) {
    if (unit.role != role) {
      continue;
    }
    for (const StoredTensor& tensor : unit.tensors) {
      weights.push_back(
          {.name = tensor.name, .shape = tensor.shape, .value = [&checkpoint, unit, tensor, kind] {
             return checkpoint.tensor(unit, tensor, kind);
           }});
    }
  }
  return weights;
}

std::vector<ExportTensor> weights_of(const Units& units) {
  std::vector<ExportTensor> weights;
  for (const Units::Named& named : units.values()) {
    weights.push_back({.name = named.name,
                       .shape = named.value.sizes().vec(),
                       .value = [value = named.value] { return value; }});
  }
  return weights;
}

void replace_export(const Path& to, const std::function<void(const Path& unfinished)>& fill) {
  const Path unfinished = unfinished_of(to);
  check_replaceable(to);
  check_replaceable(unfinished);  // a killed export marked its own first
  remove_export(unfinished);
  std::error_code error;
  fs::create_directories(unfinished, error);
  if (error) {
    throw_io_error(error.value(), unfinished, "create folder");
  }
  mark_as_export(unfinished);
  try {
    fill(unfinished);
    remove_export(to);
    rename_durably(unfinished, to);
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(unfinished, ignored);
    throw;
  }
}

void export_folder(const std::vector<ExportTensor>& weights, const ExportOptions& options) {
  if (!fs::is_regular_file(options.base / "model_index.json")) {
    throw_io_error(ENOENT, options.base / "model_index.json", "open");
  }
  if (!options.replaces && fs::exists(options.to)) {
    throw Failure(Code::kExists,
                  str(options.to.string(), " exists. Choose another folder or remove it"));
  }
  check_against_config(weights, options.component,
                       options.base / options.component / "config.json");
  replace_export(options.to, [&](const Path& unfinished) { fill(unfinished, weights, options); });
}

}  // namespace fastwan::training
