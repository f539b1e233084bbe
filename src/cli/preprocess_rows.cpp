#include "cli/preprocess_rows.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>

#include <CLI/CLI.hpp>

#include "base/check.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/shape.h"
#include "base/text.h"
#include "cli/options.h"
#include "cli/preprocess_call.h"
#include "cli/progress.h"
#include "cli/request.h"
#include "cli/signals.h"
#include "cli/table.h"
#include "cli/tensor_library.h"
#include "io/parquet.h"

namespace fastwan::cli {
namespace {

constexpr std::size_t kMaxListed = 10;

// Every column of every schema; a file has some of them.
std::vector<io::Column> all_columns() {
  std::vector<io::Column> columns;
  std::set<std::string> names;
  for (const auto schema :
       {io::RowSchema::kI2v, io::RowSchema::kTextOnly, io::RowSchema::kOdeTrajectoryTextOnly}) {
    for (io::Column column : io::columns_of(schema)) {
      column.is_required = false;
      if (names.insert(column.name).second) {
        columns.push_back(std::move(column));
      }
    }
  }
  return columns;
}

std::string describe(const io::Cell& cell) {
  if (const auto* tensor = std::get_if<io::TensorCell>(&cell)) {
    return str(io::word_of(tensor->dtype), " ", format_shape(tensor->shape));
  }
  if (const auto* text = std::get_if<std::string>(&cell)) {
    return escape_control(*text);
  }
  if (const auto* integer = std::get_if<int64_t>(&cell)) {
    return str(*integer);
  }
  if (const auto* real = std::get_if<double>(&cell)) {
    return format_number(*real);
  }
  return "(none)";
}

template <class Word>
bool any_all_ones_exponent(const std::string& bytes, Word mask) {
  for (std::size_t at = 0; at + sizeof(Word) <= bytes.size(); at += sizeof(Word)) {
    Word word = 0;
    std::memcpy(&word, bytes.data() + at, sizeof(Word));
    if ((word & mask) == mask) {
      return true;
    }
  }
  return false;
}

// NaN and infinity have an exponent of ones alone.
bool holds_non_finite(const io::TensorCell& tensor) {
  switch (tensor.dtype) {
    case io::Dtype::kF32:
      return any_all_ones_exponent<uint32_t>(tensor.bytes, 0x7F800000U);
    case io::Dtype::kF16:
      return any_all_ones_exponent<uint16_t>(tensor.bytes, 0x7C00U);
    case io::Dtype::kBf16:
      return any_all_ones_exponent<uint16_t>(tensor.bytes, 0x7F80U);
    case io::Dtype::kF64:
      return any_all_ones_exponent<uint64_t>(tensor.bytes, 0x7FF0000000000000U);
    default:
      return false;
  }
}

// Collects what is wrong; the first few are told.
class Problems {
 public:
  void add(std::string problem) {
    ++count_;
    if (listed_.size() < kMaxListed) {
      listed_.push_back(std::move(problem));
    }
  }
  int64_t count() const { return count_; }
  const std::vector<std::string>& listed() const { return listed_; }

 private:
  int64_t count_ = 0;
  std::vector<std::string> listed_;
};

// What training reads and how many dimensions it wants.
const std::map<std::string, std::size_t, std::less<>>& trained_tensors() {
  static const std::map<std::string, std::size_t, std::less<>> tensors = {
      {"vae_latent", 4},
      {"text_embedding", 2},
      {"trajectory_latents", 5},
      {"trajectory_timesteps", 1}};
  return tensors;
}

bool is_floating(io::Dtype dtype) {
  return dtype == io::Dtype::kF32 || dtype == io::Dtype::kF16 || dtype == io::Dtype::kBf16 ||
         dtype == io::Dtype::kF64;
}

// One data set holds one size: of texts the width, of all else the shape.
std::vector<int64_t> size_of_set(const std::string& name, const std::vector<int64_t>& shape) {
  return name == "text_embedding" ? std::vector<int64_t>{shape.back()} : shape;
}

void verify_trained(const std::string& name,
                    const io::TensorCell& tensor,
                    const std::string& place,
                    std::map<std::string, std::vector<int64_t>>& shapes,
                    Problems& problems) {
  const std::size_t dims = trained_tensors().at(name);
  if (tensor.shape.size() != dims) {
    problems.add(str(place, ": ", name, " must have ", dims, " dimensions, its shape is ",
                     format_shape(tensor.shape)));
    return;
  }
  if (!is_floating(tensor.dtype)) {
    problems.add(str(place, ": ", name, " holds ", io::word_of(tensor.dtype),
                     ", wanted float32, float16 or bfloat16"));
  }
  const std::vector<int64_t> size = size_of_set(name, tensor.shape);
  const auto [first, is_new] = shapes.emplace(name, size);
  if (!is_new && first->second != size) {
    problems.add(str(place, ": ", name, name == "text_embedding" ? " is of width " : " is ",
                     format_shape(size), ", the first is ", format_shape(first->second)));
  }
}

void verify_row(const io::Row& row,
                const std::string& place,
                std::map<std::string, std::string>& ids,
                std::map<std::string, std::vector<int64_t>>& shapes,
                Problems& problems) {
  const auto id = row.find("id");
  const auto* text = id == row.end() ? nullptr : std::get_if<std::string>(&id->second);
  if (text == nullptr || text->empty()) {
    problems.add(str(place, ": has no id"));
  } else if (const auto [first, is_new] = ids.emplace(*text, place); !is_new) {
    problems.add(
        str(place, ": the id ", escape_control(*text), " comes at ", first->second, " already"));
  }
  if (!row.contains("text_embedding")) {
    problems.add(str(place, ": its file has no column text_embedding_bytes"));
  }
  for (const auto& [name, cell] : row) {
    const auto* tensor = std::get_if<io::TensorCell>(&cell);
    if (tensor == nullptr) {
      if (trained_tensors().contains(name)) {
        problems.add(str(place, ": ", name, " is empty"));
      }
      continue;
    }
    if (holds_non_finite(*tensor)) {
      problems.add(str(place, ": ", name, " holds NaN or infinity"));
    }
    if (trained_tensors().contains(name)) {
      verify_trained(name, *tensor, place, shapes, problems);
    }
  }
}

// Of shards 0/n to n-1/n in one folder each is there and the number is one.
void verify_shards(const Path& folder, Problems& problems) {
  std::map<std::string, std::set<std::string>> found;  // n -> shards
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const Path manifest = entry.path() / "manifest.json";
    if (!std::filesystem::exists(manifest)) {
      continue;
    }
    const Json document = read_json_file(manifest.string());
    if (document.value("files", Json::array()).empty() && !document.value("finished", false)) {
      continue;  // begun and no more
    }
    const Json depends_on = document.value("depends_on", Json::object());
    const std::vector<std::string> parts = split(depends_on.value("--shard", ""), '/');
    if (parts.size() == 2) {
      found[parts[1]].insert(parts[0]);
    }
  }
  const std::string where = escape_control(folder.string());
  if (found.size() > 1) {
    std::vector<std::string> numbers;
    for (const auto& [number, shards] : found) {
      numbers.push_back(number);
    }
    problems.add(str(where, ": holds shards of runs with unlike numbers of them: ",
                     join_first(numbers, kMaxListed)));
  }
  for (const auto& [number, shards] : found) {
    for (int64_t i = 0; i < parse_int(number).value_or(0); ++i) {
      if (!shards.contains(str(i))) {
        problems.add(str(where, ": --shard ", i, "/", number, " is missing; run it"));
      }
    }
  }
}

bool is_same(const Path& one, const Path& other) {
  std::error_code error;
  return std::filesystem::equivalent(one, other, error);
}

// Size and checksum of the files that manifests list; whether the shards are all there.
void verify_manifests(const Path& root, const std::vector<Path>& files, Problems& problems) {
  std::set<Path> folders, sets;
  for (const Path& file : files) {
    folders.insert(file.parent_path());
    if (!is_same(file, root) &&
        !is_same(file.parent_path(), root)) {  // a shard asked for is enough
      sets.insert(file.parent_path().parent_path());
    }
  }
  for (const Path& set : sets) {
    verify_shards(set, problems);
  }
  for (const Path& folder : folders) {
    const Path manifest = folder / "manifest.json";
    if (!std::filesystem::exists(manifest)) {
      continue;
    }
    const std::string where = escape_control(manifest.string());
    const Json document = read_json_file(manifest.string());
    if (!json_get<bool>(document, "finished", where)) {
      problems.add(str(where, ": the shard is not finished; run the same command again"));
    }
    for (const Json& entry : document.at("files")) {
      const Path file = folder / json_get<std::string>(entry, "name", where);
      if (!std::filesystem::exists(file)) {
        problems.add(str(escape_control(file.string()), ": is listed and missing"));
      } else if (sha256_file(file) != json_get<std::string>(entry, "sha256", where)) {
        problems.add(str(escape_control(file.string()), ": its sha256 is not the listed one"));
      }
    }
  }
}

}  // namespace

int inspect_rows(const std::vector<std::string>& words) {
  CLI::App app("What Parquet files of training rows hold", "preprocess inspect");
  std::string path;
  int64_t row = 0;
  bool json = false;
  app.add_option("path", path, "folder or file")->required();
  app.add_option("--row", row, "the row to show");
  app.add_flag("--json", json, "as one JSON document");
  if (!parse(app, prepare(words).words)) {
    return 0;
  }
  const std::vector<Path> files = io::parquet_files(path);
  const auto rows = io::open_rows(files, {.columns = all_columns(), .cache_bytes = 0});
  Json document = {{"files", files.size()}, {"rows", rows->rows()}};
  if (rows->rows() > 0) {
    if (row < 0 || row >= rows->rows()) {
      throw InvalidInput(Code::kBadValue,
                         str("--row must be in 0 to ", rows->rows() - 1, ", got ", row));
    }
    document["row"] = rows->place(row);
    document["columns"] = Json::object();
    for (const auto& [name, cell] : rows->read(row)) {
      document["columns"][name] = describe(cell);
    }
  }
  if (json) {
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
    return 0;
  }
  Table table;
  table.add({"files", str(files.size())});
  table.add({"rows", str(rows->rows())});
  if (document.contains("row")) {
    table.add({"shown", document["row"].get<std::string>()});
    for (const auto& [name, text] : document["columns"].items()) {
      table.add({name, text.get<std::string>()});
    }
  }
  std::fputs(table.text().c_str(), stdout);
  return 0;
}

int verify_rows(const std::vector<std::string>& words) {
  CLI::App app("Reads and checks every training row", "preprocess verify");
  std::string path;
  bool json = false;
  app.add_option("path", path, "folder or file")->required();
  app.add_flag("--json", json, "as one JSON document");
  if (!parse(app, prepare(words).words)) {
    return 0;
  }
  const std::vector<Path> files = io::parquet_files(path);
  const auto rows = io::open_rows(files, {.columns = all_columns()});
  Problems problems;
  verify_manifests(path, files, problems);
  std::map<std::string, std::string> ids;
  std::map<std::string, std::vector<int64_t>> shapes;
  for (int64_t i = 0; i < rows->rows(); ++i) {
    try {
      verify_row(rows->read(i), rows->place(i), ids, shapes, problems);
    } catch (const InvalidInput& error) {
      problems.add(error.what());
    }
  }
  if (json) {
    const Json document = {{"files", files.size()},
                           {"rows", rows->rows()},
                           {"problems", problems.count()},
                           {"listed", problems.listed()}};
    std::fputs((dump_json(document) + "\n").c_str(), stdout);
  } else if (problems.count() == 0) {
    std::fputs(str(rows->rows(), " rows in ", files.size(), " files are whole\n").c_str(), stdout);
  }
  if (problems.count() > 0) {
    throw InvalidInput(
        Code::kBadDataset,
        str(problems.count(), " problems: ", join_first(problems.listed(), kMaxListed)));
  }
  return 0;
}

int decode_rows(const Program& program, const std::vector<std::string>& words) {
  CLI::App app("Stored latents to mp4 files, to look at", "preprocess decode");
  std::string path, model_path, out, device = "auto";
  int64_t row = 0, count = 1, fps = 0;
  app.add_option("path", path, "folder or file of rows")->required();
  app.add_option("-m,--model-path", model_path, "model whose VAE made them");
  app.add_option("-o,--out", out, "folder for row_<number>.mp4");
  app.add_option("--row", row, "the first");
  app.add_option("--count", count, "how many");
  app.add_option("--fps", fps, "default: the model's");
  app.add_option("--device", device, "auto, cpu, cuda or cuda:i");
  if (!parse(app, prepare(words).words)) {
    return 0;
  }
  if (out.empty()) {
    throw InvalidInput(Code::kUsage, "--out is missing");
  }
  config::Generate settings;
  settings.model_path.set(model_path, config::Origin::kFlag);
  const layout::ModelFolder model = open_model(settings);
  resolve_request(settings, model);
  check_device(device);
  require_writable_folder(out);
  const std::vector<Path> venvs = venvs_of(program);
  const StopOnSignal stop;
  const Watch watch{stop.token(), {}};
  const TensorLibrary library(program);
  library.decode_rows(
      {.model = model,
       .rows = path,
       .first = row,
       .count = count,
       .output = out,
       .fps = fps == 0 ? *settings.fps : fps,
       .device = device,
       .media_roots = venvs,
       .watch = watch,
       .on_video = [](const Path& video) { std::fputs((video.string() + "\n").c_str(), stdout); }});
  return 0;
}

}  // namespace fastwan::cli
