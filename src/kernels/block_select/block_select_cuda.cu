// Schedule  one warp a row; the row is read from global memory, after the first time from the L1
//           cache
// Budget    no shared memory
#include "kernels/block_select/block_select.h"
#include "kernels/block_select/select_row.cuh"
#include "kernels/common/cuda_launch.h"

namespace fastwan::kernels::cuda {
namespace {

constexpr int kWarps = 4;

template <int kBits, uint32_t kInfinity, class Word>
__global__ void __launch_bounds__(kWarps * 32)
    select_kernel(const Word* scores, int32_t* index, SelectDims d) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
  if (row >= d.R) {
    return;
  }
  const Word* from = scores + row * d.N;
  select_row<kBits>([from](int n) { return order_of_any<kBits, kInfinity>(__ldg(from + n)); },
                    static_cast<int>(d.N), static_cast<int>(d.K), index + row * d.K);
}

template <int kBits, uint32_t kInfinity, class Word>
void launch(const void* scores, int32_t* index, const SelectDims& d, void* stream) {
  const auto blocks = static_cast<unsigned>((d.R + kWarps - 1) / kWarps);
  if (blocks == 0) {
    return;
  }
  select_kernel<kBits, kInfinity><<<blocks, kWarps * 32, 0, static_cast<cudaStream_t>(stream)>>>(
      static_cast<const Word*>(scores), index, d);
  check_launch("block_select");
}

}  // namespace

void block_select(const BlockSelectArgs<float>& a, void* stream) {
  launch<32, 0x7F800000U, uint32_t>(a.scores, a.index, a.dims, stream);
}

void block_select(const BlockSelectArgs<Bf16>& a, void* stream) {
  launch<16, 0x7F80U, uint16_t>(a.scores, a.index, a.dims, stream);
}

void block_select(const BlockSelectArgs<Fp16>& a, void* stream) {
  launch<16, 0x7C00U, uint16_t>(a.scores, a.index, a.dims, stream);
}

}  // namespace fastwan::kernels::cuda
