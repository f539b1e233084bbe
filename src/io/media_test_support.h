// What the tests of this room share: the ffmpeg of the Python environment, fake programs, frames.
#pragma once

#include <fstream>
#include <string>
#include <vector>

#include "base/files.h"
#include "io/media.h"

namespace fastwan::io {

// The tests need the real program: the one that the product itself would find.
inline const Ffmpeg& test_ffmpeg() {
  static const Ffmpeg ffmpeg = [] {
    const std::vector<Path> venvs = {Path(FASTWAN_SOURCE_DIR) / ".deps/venv"};
    return open_ffmpeg(venvs);
  }();
  return ffmpeg;
}

// An executable shell script.
inline Path write_script(const Path& file, const std::string& body) {
  std::ofstream(file) << "#!/bin/sh\n" << body << "\n";
  std::filesystem::permissions(file, std::filesystem::perms::owner_all);
  return file;
}

}  // namespace fastwan::io
