// What is to be made into rows: lists of clips with captions, or of prompts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/files.h"

namespace fastwan::data {

struct ClipInput {
  std::string id;             // unique in the list
  Path video;                 // empty: a prompt alone
  std::string caption;        // may be empty: such clips are left out
  std::optional<double> fps;  // where the list says it; else the file is asked
};

// `root`/videos2caption.json, an array of {"path", "cap": [caption, ...] or caption, "fps", ...};
// videos lie in `root`/videos. The first caption counts, other keys are not used. The id is the
// path without its extension.
std::vector<ClipInput> read_merged(const Path& root);
// One object a line: {"video" or "path", "caption" or "cap", "fps"}; paths are relative to the
// file's folder.
std::vector<ClipInput> read_jsonl(const Path& file);
// One prompt a line, empty lines left out; the id is prompt-<number>, from 0.
std::vector<ClipInput> read_prompts(const Path& file);

// All: InvalidInput bad_json; bad_dataset naming the entry: a missing path or caption of another
// type, not UTF-8, an id that comes twice, no entry at all. IoError not_found.

}  // namespace fastwan::data
