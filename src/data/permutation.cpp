#include "data/permutation.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/rng.h"

namespace fastwan::data {

std::vector<int64_t> epoch_permutation(uint64_t seed, int64_t epoch, int64_t size) {
  constexpr double kTwoTo24 = 16777216.0;
  const Philox random(seed, Stream::kPermutation, epoch, /*slot=*/0);
  std::vector<int64_t> order(static_cast<std::size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (int64_t i = size - 1; i > 0; --i) {
    const double high = std::floor(random.uniform(2 * i) * kTwoTo24);
    const double u = (high + random.uniform(2 * i + 1)) / kTwoTo24;  // exact: 49 bits
    const auto j = static_cast<int64_t>(u * static_cast<double>(i + 1));
    std::swap(order[static_cast<std::size_t>(i)], order[static_cast<std::size_t>(std::min(i, j))]);
  }
  return order;
}

}  // namespace fastwan::data
