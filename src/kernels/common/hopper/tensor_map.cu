#include <cuda_runtime.h>

#include "kernels/common/device_failure.h"
#include "kernels/common/hopper/tensor_map.h"

namespace fastwan::kernels::hopper {
namespace {

// The driver's function, found at run time: nothing links libcuda.
decltype(&cuTensorMapEncodeTiled) encoder() {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
  constexpr unsigned kCudaVersion = 12000;
  const cudaError_t error = cudaGetDriverEntryPointByVersion(
      "cuTensorMapEncodeTiled", &found, kCudaVersion, cudaEnableDefault, &result);
  if (error != cudaSuccess || result != cudaDriverEntryPointSuccess) {
    throw_device_failure("tensor_map", "the driver has no cuTensorMapEncodeTiled");
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found);
}

}  // namespace

CUtensorMap tensor_map(const TensorMapArgs& args) {
  static const auto encode = encoder();
  std::array<cuuint64_t, kMaxMapDims> size{};
  std::array<cuuint64_t, kMaxMapDims> stride_bytes{};
  std::array<cuuint32_t, kMaxMapDims> box{};
  std::array<cuuint32_t, kMaxMapDims> every{};
  for (std::size_t i = 0; i < static_cast<std::size_t>(args.num_dims); ++i) {
    size[i] = static_cast<cuuint64_t>(args.size[i]);
    box[i] = static_cast<cuuint32_t>(args.box[i]);
    every[i] = 1;
    if (i > 0) {
      stride_bytes[i - 1] = static_cast<cuuint64_t>(args.stride[i]) * 2;
    }
  }
  CUtensorMap map{};
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, static_cast<cuuint32_t>(args.num_dims),
             const_cast<void*>(args.base), size.data(), stride_bytes.data(), box.data(),
             every.data(), CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw_device_failure("tensor_map",
                         "cuTensorMapEncodeTiled refused; base and strides need 16-byte alignment");
  }
  return map;
}

}  // namespace fastwan::kernels::hopper
