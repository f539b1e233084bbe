// Where results go: names, collisions, what may be overwritten; all checked before any weights are
// read.
#pragma once

#include <string>
#include <vector>

#include "base/files.h"
#include "config/generate.h"

namespace fastwan::cli {

// A prompt as a file name: the first 100 characters without \ / : * ? " < > | and control bytes.
std::string file_name_of(const std::string& prompt);

// One path a video. -o names it (numbered when there are several); otherwise prompt and seed do,
// inside --output-path. Checks extensions, folders and existing files: InvalidInput bad_value,
// IoError not_found or no_permission, exists.
std::vector<Path> choose_outputs(const config::Generate& settings,
                                 const std::vector<std::string>& prompts);

// "4x4" -> columns, rows.
struct Grid {
  int64_t columns = 0, rows = 0;
};
Grid parse_grid(const std::string& text);

// What else one video leaves; an empty path: not asked for.
struct SideFiles {
  Path contact_sheet, latents, embeds, frames;
  Grid sheet;
};
// One for each video: --save-latents and its like, numbered as the videos are, and the contact
// sheet beside its video. Checks as choose_outputs() does; --report too.
std::vector<SideFiles> choose_side_outputs(const config::Generate& settings,
                                           const std::vector<Path>& outputs);

}  // namespace fastwan::cli
