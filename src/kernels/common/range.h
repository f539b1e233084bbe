// A part of the independent pieces of an operation: the caller splits them over threads.
#pragma once

#include <cstdint>

namespace fastwan::kernels {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

}  // namespace fastwan::kernels
