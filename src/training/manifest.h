// manifest.json of a checkpoint: text to values and back, with its own digest.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "training/checkpoint.h"

namespace fastwan::training {

inline constexpr const char* kManifestName = "manifest.json";
inline constexpr const char* kConfigName = "config.yaml";

struct Manifest {
  RunState state;  // without the config's text, which is a file of its own
  std::vector<UnitTable> units;
  std::vector<StoredPiece> pieces;
  std::vector<StoredFile> files;
};

std::string manifest_text(const Manifest& manifest);
// The manifest's own digest, format and structure, and that its pieces cover every unit once. The
// files it names are not looked at. InvalidInput bad_checkpoint, newer_format.
Manifest read_manifest(const Path& folder);

Json json_of(const StoredFile& file);
Json json_of(const StoredPiece& piece);
StoredFile stored_file_from(const Json& json, const std::string& origin);
StoredPiece stored_piece_from(const Json& json, const std::string& origin);

// bad_checkpoint unless the pieces of every (role, unit, kind) cover [0, numel) exactly once and
// every unit has its master weights.
void require_coverage(const std::vector<UnitTable>& units,
                      const std::vector<StoredPiece>& pieces,
                      const std::string& origin);

// Sizes as the manifest says, without reading the files: cheap. Throws as Checkpoint::open.
void check_sizes(const Path& folder, const Manifest& manifest);
// Sizes and every digest.
void check_digests(const Path& folder, const Manifest& manifest);

}  // namespace fastwan::training
