// For tests: where the complete checkpoint with random weights lies (tests/models/random-shapes).
#pragma once

#include "base/files.h"

namespace fastwan::testing {

inline Path random_model() {
  return Path(FASTWAN_SOURCE_DIR) / "tests/models/random-shapes";
}

}  // namespace fastwan::testing
