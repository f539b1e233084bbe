// Loops of CPU kernels over independent rows, split over threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/Parallel.h>

#include "kernels/common/range.h"

namespace fastwan::ops {

// body(Range of rows) on the threads; a row has `width` elements.
template <class Body>
void over_rows(int64_t rows, int64_t width, const Body& body) {
  constexpr int64_t kElements = 16384;  // below that a second thread costs more than it saves
  const int64_t least = std::max<int64_t>(1, kElements / std::max<int64_t>(1, width));
  at::parallel_for(0, rows, least, [&body](int64_t begin, int64_t end) {
    body(kernels::Range{.begin = begin, .end = end});
  });
}

}  // namespace fastwan::ops
