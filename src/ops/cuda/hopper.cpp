#include "ops/cuda/hopper.h"

#include <cstdint>

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAStream.h>
#include <cuda_runtime_api.h>

namespace fastwan::ops {
namespace {

constexpr int64_t kAlignedElements = 8;  // 16 bytes of bf16
constexpr std::uintptr_t kAlignedBytes = 16;

bool is_hopper(const at::Tensor& x) {
  int major = 0, minor = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, x.get_device()));
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, x.get_device()));
  return major == 9 && minor == 0;
}

}  // namespace

bool hopper_takes(const at::Tensor& q) {
  return q.scalar_type() == at::kBFloat16 && (q.size(3) == 64 || q.size(3) == 128) &&
         q.numel() > 0 && is_hopper(q);
}

at::Tensor for_copy_engine(const at::Tensor& x) {
  bool suits =
      x.stride(3) == 1 && reinterpret_cast<std::uintptr_t>(x.const_data_ptr()) % kAlignedBytes == 0;
  for (int64_t dim = 0; dim < 3; ++dim) {
    suits = suits && x.stride(dim) > 0 && x.stride(dim) % kAlignedElements == 0;
  }
  return suits ? x : x.contiguous();
}

void* current_stream(const at::Tensor& x) {
  return c10::cuda::getCurrentCUDAStream(x.get_device()).stream();
}

at::Tensor workspace_for(const at::Tensor& x, int64_t bytes) {
  return at::empty({bytes}, x.options().dtype(at::kByte));
}

}  // namespace fastwan::ops
