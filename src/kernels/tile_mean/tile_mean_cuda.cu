// Schedule  one block a tile; a thread owns columns c, c + kThreads, ... and walks down the tile
// Budget    no shared memory; one float a thread
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/common/cuda_launch.h"
#include "kernels/tile_mean/tile_mean.h"

namespace fastwan::kernels::cuda {
namespace {

constexpr int kThreads = 256;

__device__ float to_float(float x) {
  return x;
}
__device__ float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ float to_float(__half x) {
  return __half2float(x);
}
__device__ void store_as(float x, float* to) {
  *to = x;
}
__device__ void store_as(float x, __nv_bfloat16* to) {
  *to = __float2bfloat16_rn(x);
}

__device__ void store_as(float x, __half* to) {
  *to = __float2half_rn(x);
}

template <class Element>
__global__ void tile_mean_kernel(
    const Element* x, const int32_t* len, Element* out, int64_t N, int64_t T, int64_t row) {
  const int64_t bn = blockIdx.x;
  // Never beyond the tile: a wrong length must not reach other memory.
  const auto count = static_cast<int32_t>(min(static_cast<int64_t>(len[bn % N]), T));
  for (int64_t c = threadIdx.x; c < row; c += kThreads) {
    float sum = 0;
    for (int32_t t = 0; t < count; ++t) {
      sum += to_float(x[(bn * T + t) * row + c]);
    }
    store_as(sum / static_cast<float>(count), &out[bn * row + c]);
  }
}

template <class Element>
void launch(const Element* x, const int32_t* len, Element* out, const TileDims& d, void* stream) {
  const auto blocks = static_cast<unsigned>(d.B * d.N);
  if (blocks == 0) {
    return;
  }
  tile_mean_kernel<<<blocks, kThreads, 0, static_cast<cudaStream_t>(stream)>>>(x, len, out, d.N,
                                                                               d.T, d.H * d.D);
  check_launch("tile_mean");
}

}  // namespace

void tile_mean(const TileMeanArgs<float>& a, void* stream) {
  launch(a.x, a.len, a.out, a.dims, stream);
}

void tile_mean(const TileMeanArgs<Bf16>& a, void* stream) {
  launch(reinterpret_cast<const __nv_bfloat16*>(a.x), a.len,
         reinterpret_cast<__nv_bfloat16*>(a.out), a.dims, stream);
}

void tile_mean(const TileMeanArgs<Fp16>& a, void* stream) {
  launch(reinterpret_cast<const __half*>(a.x), a.len, reinterpret_cast<__half*>(a.out), a.dims,
         stream);
}

}  // namespace fastwan::kernels::cuda
