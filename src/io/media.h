// The ffmpeg program: where it is, what it can do, and the limits under which it runs.
#pragma once

#include <optional>
#include <span>
#include <stop_token>
#include <string>

#include "base/files.h"
#include "io/process.h"

namespace fastwan::io {

struct Ffmpeg {
  Path program;
  std::string version;           // "9.0.2", as it names itself
  bool has_fd_protocol = false;  // since 6.0: reads a descriptor and can seek in it
};

// The first of: $FASTWAN_FFMPEG_BIN, $FASTVIDEO_FFMPEG_BIN, `ffmpeg` on PATH, the imageio-ffmpeg
// wheel of the first of `venvs` that has one. A variable that names no program is an error
// (missing_program), not a reason to look further.
std::optional<Path> find_ffmpeg(std::span<const Path> venvs);

// Asks the program for its version. missing_program when there is none or it is no ffmpeg; the
// message says how to get one.
Ffmpeg open_ffmpeg(std::span<const Path> venvs);
Ffmpeg open_ffmpeg_at(const Path& program);

// `arguments` after the common ones (no banner, no questions, errors only).
//   decoder: 2 GiB, 60 s CPU, 120 s in all, 64 descriptors, no file written
//   encoder: 4 GiB, 64 descriptors; ends only when it takes no data for 120 s
ProcessSpec decoder_spec(const Ffmpeg& ffmpeg,
                         std::vector<std::string> arguments,
                         std::stop_token stop);
ProcessSpec encoder_spec(const Ffmpeg& ffmpeg,
                         std::vector<std::string> arguments,
                         std::stop_token stop);

}  // namespace fastwan::io
