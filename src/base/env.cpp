#include "base/env.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include <unistd.h>

namespace fastwan {
namespace {

constexpr std::array<std::string_view, 12> kKnown = {
    "FASTWAN_CONFIG", "FASTWAN_CACHE", "FASTWAN_LOG", "FASTWAN_THREADS", "FASTWAN_API_KEY",
    "FASTWAN_API_KEY_FILE", "FASTWAN_DIST_TIMEOUT", "FASTWAN_FFMPEG_BIN", "FASTWAN_CPU_ISA",
    // Not ours, but a shell that drives our tools exports them: which program tools/train_tiny and
    // the end-to-end tests run, where the Python package finds its library, time of the fuzzers.
    "FASTWAN_BIN", "FASTWAN_LIB_DIR", "FASTWAN_FUZZ_SECONDS"};

}  // namespace

std::optional<std::string> env(const char* name) {
  const char* value = std::getenv(name);
  if (value == nullptr || *value == '\0') {
    return std::nullopt;
  }
  return value;
}

std::vector<std::string> unknown_fastwan_variables() {
  std::vector<std::string> unknown;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view name =
        std::string_view(*entry).substr(0, std::string_view(*entry).find('='));
    if (name.starts_with("FASTWAN_") &&
        std::find(kKnown.begin(), kKnown.end(), name) == kKnown.end()) {
      unknown.emplace_back(name);
    }
  }
  return unknown;
}

}  // namespace fastwan
