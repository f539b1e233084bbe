#include "ops/cuda/gpu_tensors.h"

#include <cstdint>

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

namespace fastwan::ops {
namespace {

constexpr int64_t kAlignedElements = 8;  // 16 bytes of two-byte elements
constexpr std::uintptr_t kAlignedBytes = 16;

}  // namespace

Capability capability_of(const at::Tensor& x) {
  Capability gpu{};
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&gpu.major, cudaDevAttrComputeCapabilityMajor, x.get_device()));
  C10_CUDA_CHECK(
      cudaDeviceGetAttribute(&gpu.minor, cudaDevAttrComputeCapabilityMinor, x.get_device()));
  return gpu;
}

at::Tensor for_copy_engine(const at::Tensor& x) {
  bool suits =
      x.stride(3) == 1 && reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % kAlignedBytes == 0;
  for (int64_t dim = 0; dim < 3; ++dim) {
    suits = suits && x.stride(dim) > 0 && x.stride(dim) % kAlignedElements == 0;
  }
  return suits ? x : x.contiguous();
}

at::Tensor dense_rows(const at::Tensor& x) {
  const at::Tensor y = x.contiguous();
  const auto alignment = static_cast<std::uintptr_t>(4 * y.element_size());
  return reinterpret_cast<std::uintptr_t>(y.const_data_ptr()) % alignment == 0 ? y : y.clone();
}

void* current_stream(const at::Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.get_device()).stream();
}

at::Tensor workspace_for(const at::Tensor& x, int64_t bytes) {
  return at::empty({bytes}, x.options().dtype(at::kByte));
}

}  // namespace fastwan::ops
