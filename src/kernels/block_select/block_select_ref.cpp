#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "kernels/block_select/block_select.h"

namespace fastwan::kernels::ref {

template <class Element>
void block_select(const BlockSelectArgs<Element>& a) {
  const auto& [R, N, K] = a.dims;
  std::vector<int32_t> order(static_cast<std::size_t>(N));
  for (int64_t r = 0; r < R; ++r) {
    const auto before = [row = a.scores + r * N](int32_t i, int32_t j) {
      const double x = to_double(row[i]), y = to_double(row[j]);
      return std::isnan(x) ? !std::isnan(y) : x > y;
    };
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), before);
    std::sort(order.begin(), order.begin() + K);
    std::copy_n(order.begin(), K, a.index + r * K);
  }
}

template void block_select(const BlockSelectArgs<double>&);
template void block_select(const BlockSelectArgs<float>&);
template void block_select(const BlockSelectArgs<Bf16>&);
template void block_select(const BlockSelectArgs<Fp16>&);

}  // namespace fastwan::kernels::ref
