#include "training/manifest.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "base/digest.h"
#include "base/text.h"

namespace fastwan::training {
namespace {

constexpr int64_t kMaxManifestBytes = int64_t{256} << 20;
constexpr std::size_t kDigestDigits = 64;
// How every manifest ends, of this format and of later ones, so that an old program can tell a
// later format from a damaged file.
constexpr std::string_view kTailStart = ",\n  \"sha256\": \"";
constexpr std::string_view kTailEnd = "\"\n}\n";

constexpr std::array kKinds = {
    std::pair{PieceKind::kParameter, "p"}, std::pair{PieceKind::kMoment1, "m"},
    std::pair{PieceKind::kMoment2, "v"}, std::pair{PieceKind::kEma, "ema"}};

[[noreturn]] void refuse(const std::string& origin, const std::string& reason) {
  throw InvalidInput(Code::kBadCheckpoint, str(origin, ": ", reason));
}

PieceKind kind_from(const std::string& name, const std::string& origin) {
  const auto* row = std::find_if(kKinds.begin(), kKinds.end(),
                                 [&name](const auto& kind) { return name == kind.second; });
  if (row == kKinds.end()) {
    refuse(origin, str("piece kind \"", escape_control(name), "\" is none of p, m, v, ema"));
  }
  return row->first;
}

Json json_of(const UnitTable& unit) {
  Json tensors = Json::array();
  for (const StoredTensor& tensor : unit.tensors) {
    tensors.push_back({{"name", tensor.name}, {"shape", tensor.shape}, {"offset", tensor.offset}});
  }
  return {{"role", unit.role},
          {"unit", unit.unit},
          {"numel", unit.numel},
          {"pad", unit.pad},
          {"tensors", std::move(tensors)}};
}

UnitTable unit_from(const Json& json, const std::string& origin) {
  UnitTable unit{.role = json_get<std::string>(json, "role", origin),
                 .unit = json_get<std::string>(json, "unit", origin),
                 .numel = json_get<int64_t>(json, "numel", origin),
                 .pad = json_get<int64_t>(json, "pad", origin)};
  for (const Json& tensor : json_get<Json>(json, "tensors", origin)) {
    unit.tensors.push_back({.name = json_get<std::string>(tensor, "name", origin),
                            .shape = json_get<std::vector<int64_t>>(tensor, "shape", origin),
                            .offset = json_get<int64_t>(tensor, "offset", origin)});
  }
  return unit;
}

void check_unit(const UnitTable& unit, const std::string& origin) {
  int64_t offset = 0;
  for (const StoredTensor& tensor : unit.tensors) {
    if (tensor.offset != offset) {
      refuse(origin, str("unit ", unit.role, "/", unit.unit, ": tensor ", tensor.name,
                         " begins at ", tensor.offset, ", wanted ", offset));
    }
    offset += tensor.num_elements();
  }
  if (offset != unit.numel) {
    refuse(origin, str("unit ", unit.role, "/", unit.unit, " has ", unit.numel,
                       " elements, its tensors ", offset));
  }
}

// Digest of the text as if its own digest were zeros.
std::string digest_of(std::string text) {
  const std::size_t at = text.size() - kTailEnd.size() - kDigestDigits;
  text.replace(at, kDigestDigits, kDigestDigits, '0');
  return sha256_hex(text);
}

std::string verified_text(const Path& file) {
  std::string text = read_file(file, kMaxManifestBytes);
  const std::string_view view = text;
  const std::size_t tail = kTailStart.size() + kDigestDigits + kTailEnd.size();
  if (view.size() < tail || !view.ends_with(kTailEnd) ||
      !view.substr(view.size() - tail).starts_with(kTailStart)) {
    refuse(file.string(), "the file is cut or damaged: it does not end with its digest");
  }
  const std::string_view written =
      view.substr(view.size() - kTailEnd.size() - kDigestDigits, kDigestDigits);
  if (written != digest_of(text)) {
    refuse(file.string(), "the file is damaged: its digest does not fit");
  }
  return text;
}

}  // namespace

const char* name_of(PieceKind kind) {
  return std::find_if(kKinds.begin(), kKinds.end(),
                      [kind](const auto& row) { return row.first == kind; })
      ->second;
}

int64_t StoredTensor::num_elements() const {
  int64_t count = 1;
  for (const int64_t size : shape) {
    count *= size;
  }
  return count;
}

Json json_of(const StoredFile& file) {
  return {{"name", file.name}, {"bytes", file.bytes}, {"sha256_tree", file.digest}};
}

StoredFile stored_file_from(const Json& json, const std::string& origin) {
  return {.name = json_get<std::string>(json, "name", origin),
          .bytes = json_get<int64_t>(json, "bytes", origin),
          .digest = json_get<std::string>(json, "sha256_tree", origin)};
}

Json json_of(const StoredPiece& piece) {
  return {{"role", piece.role},   {"unit", piece.unit},    {"kind", name_of(piece.kind)},
          {"begin", piece.begin}, {"end", piece.end},      {"dtype", piece.dtype},
          {"file", piece.file},   {"tensor", piece.tensor}};
}

StoredPiece stored_piece_from(const Json& json, const std::string& origin) {
  return {.role = json_get<std::string>(json, "role", origin),
          .unit = json_get<std::string>(json, "unit", origin),
          .kind = kind_from(json_get<std::string>(json, "kind", origin), origin),
          .begin = json_get<int64_t>(json, "begin", origin),
          .end = json_get<int64_t>(json, "end", origin),
          .dtype = json_get<std::string>(json, "dtype", origin),
          .file = json_get<std::string>(json, "file", origin),
          .tensor = json_get<std::string>(json, "tensor", origin)};
}

std::string manifest_text(const Manifest& manifest) {
  const RunState& state = manifest.state;
  Json json = {{"format", kCheckpointFormat},
               {"step", state.step},
               {"method", state.method},
               {"seed", state.seed},
               {"batches_consumed", state.batches_consumed},
               {"data_digest", state.data_digest},
               {"config_sha256", sha256_hex(state.config)},
               {"updates", state.updates},
               {"world", state.world},
               {"environment", state.environment},
               {"frozen", state.frozen},
               {"snapshots", state.snapshots},
               {"parent", state.parent}};
  json["units"] = Json::array();
  for (const UnitTable& unit : manifest.units) {
    json["units"].push_back(json_of(unit));
  }
  json["pieces"] = Json::array();
  for (const StoredPiece& piece : manifest.pieces) {
    json["pieces"].push_back(json_of(piece));
  }
  json["files"] = Json::array();
  for (const StoredFile& file : manifest.files) {
    json["files"].push_back(json_of(file));
  }
  std::string text = dump_json(json);
  text.resize(text.rfind('}'));
  while (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  text += str(kTailStart, std::string(kDigestDigits, '0'), kTailEnd);
  text.replace(text.size() - kTailEnd.size() - kDigestDigits, kDigestDigits, digest_of(text));
  return text;
}

void require_coverage(const std::vector<UnitTable>& units,
                      const std::vector<StoredPiece>& pieces,
                      const std::string& origin) {
  std::map<std::tuple<std::string, std::string>, int64_t> numel;
  for (const UnitTable& unit : units) {
    if (!numel.emplace(std::tuple(unit.role, unit.unit), unit.numel).second) {
      refuse(origin, str("unit ", unit.role, "/", unit.unit, " occurs twice"));
    }
  }
  std::map<std::tuple<std::string, std::string, PieceKind>,
           std::vector<std::pair<int64_t, int64_t>>>
      ranges;
  for (const auto& [key, elements] : numel) {
    ranges[std::tuple(std::get<0>(key), std::get<1>(key), PieceKind::kParameter)];
  }
  for (const StoredPiece& piece : pieces) {
    if (!numel.contains(std::tuple(piece.role, piece.unit))) {
      refuse(origin, str("a piece belongs to ", piece.role, "/", piece.unit, ", which is no unit"));
    }
    ranges[std::tuple(piece.role, piece.unit, piece.kind)].emplace_back(piece.begin, piece.end);
  }
  for (auto& [key, list] : ranges) {
    const auto& [role, unit, kind] = key;
    std::sort(list.begin(), list.end());
    int64_t covered = 0;
    for (const auto& [begin, end] : list) {
      if (begin != covered || end < begin) {
        refuse(origin, str(role, "/", unit, "/", name_of(kind), ": a piece covers [", begin, ", ",
                           end, "), wanted one that begins at ", covered));
      }
      covered = end;
    }
    if (covered != numel.at(std::tuple(role, unit))) {
      refuse(origin, str(role, "/", unit, "/", name_of(kind), ": pieces end at ", covered, " of ",
                         numel.at(std::tuple(role, unit)), " elements"));
    }
  }
}

Manifest read_manifest(const Path& folder) {
  const Path file = folder / kManifestName;
  const std::string origin = file.string();
  const Json json = parse_json(verified_text(file), origin);
  const auto format = json_get<int64_t>(json, "format", origin);
  if (format > kCheckpointFormat) {
    throw Failure(Code::kNewerFormat,
                  str(origin, ": format ", format, ", this program reads up to ", kCheckpointFormat,
                      ". Use the program that wrote it, or a newer one"));
  }
  Manifest out;
  out.state = {
      .step = json_get<int64_t>(json, "step", origin),
      .method = json_get<std::string>(json, "method", origin),
      .config = "",
      .seed = json_get<uint64_t>(json, "seed", origin),
      .batches_consumed = json_get<int64_t>(json, "batches_consumed", origin),
      .data_digest = json_get<std::string>(json, "data_digest", origin),
      .updates = json_get<std::map<std::string, int64_t>>(json, "updates", origin),
      .world = json_get<int64_t>(json, "world", origin),
      .environment = json_get<std::map<std::string, std::string>>(json, "environment", origin),
      .frozen = json_get<std::map<std::string, std::string>>(json, "frozen", origin),
      .snapshots = json_get_or<std::map<std::string, std::string>>(json, "snapshots", {}, origin),
      .parent = json_get<std::string>(json, "parent", origin)};
  for (const Json& unit : json_get<Json>(json, "units", origin)) {
    out.units.push_back(unit_from(unit, origin));
    check_unit(out.units.back(), origin);
  }
  for (const Json& piece : json_get<Json>(json, "pieces", origin)) {
    out.pieces.push_back(stored_piece_from(piece, origin));
  }
  for (const Json& stored : json_get<Json>(json, "files", origin)) {
    out.files.push_back(stored_file_from(stored, origin));
    const std::string& name = out.files.back().name;
    if (name.empty() || name.find('/') != std::string::npos || name == "." || name == "..") {
      refuse(origin, str("file name \"", escape_control(name), "\" must be a plain one"));
    }
  }
  require_coverage(out.units, out.pieces, origin);
  return out;
}

void check_sizes(const Path& folder, const Manifest& manifest) {
  for (const StoredFile& stored : manifest.files) {
    const Path file = folder / stored.name;
    std::error_code error;
    const auto bytes = std::filesystem::file_size(file, error);
    if (error) {
      refuse(file.string(), str("cannot be read: ", error.message()));
    }
    if (static_cast<int64_t>(bytes) != stored.bytes) {
      refuse(file.string(), str("has ", bytes, " bytes, the manifest says ", stored.bytes,
                                ". The copy is not complete or the disk lost a part"));
    }
  }
}

void check_digests(const Path& folder, const Manifest& manifest) {
  check_sizes(folder, manifest);
  for (const StoredFile& stored : manifest.files) {
    const Path file = folder / stored.name;
    if (sha256_tree(file) != stored.digest) {
      refuse(file.string(), "is damaged: its digest is not the manifest's");
    }
  }
}

}  // namespace fastwan::training
