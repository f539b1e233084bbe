// What is to be made into rows: lists of clips with captions, or of prompts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/files.h"

namespace fastwan::data {

struct ClipInput {
  std::string id;             // unique in the list, but of what repeats
  Path video;                 // empty: a prompt alone
  std::string caption;        // may be empty: such clips are left out
  std::optional<double> fps;  // where the list says it; else the file is asked
  std::string repeats;        // where the list has this video a second time: what to say of it
};

// The id of a clip is its path in the list without its extension; where several videos would have
// the same, as a.mp4 and a.webm, it is the whole path.

// `root`/videos2caption.json, an array of {"path", "cap": [caption, ...] or caption, "fps", ...};
// videos lie in `root`/videos. The first caption counts, other keys are not used.
std::vector<ClipInput> read_merged(const Path& root);
// Such an array in a file of any name; paths are relative to its folder, or to videos/ there.
std::vector<ClipInput> read_json(const Path& file);
// One object a line: {"video" or "path", "caption" or "cap", "fps"}; paths are relative to the
// file's folder.
std::vector<ClipInput> read_jsonl(const Path& file);
// One prompt a line, empty lines left out; the id is prompt-<number>, from 0.
std::vector<ClipInput> read_prompts(const Path& file);

// All: InvalidInput bad_json; bad_dataset naming the entry: a missing path or caption of another
// type, not UTF-8, no entry at all. IoError not_found.

}  // namespace fastwan::data
