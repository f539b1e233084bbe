// Describes a bf16 tensor to the copy engine. Host side.
#pragma once

#include <array>
#include <cstdint>

#include <cuda.h>

namespace fastwan::kernels::hopper {

inline constexpr int kMaxMapDims = 5;

struct TensorMapArgs {
  const void* base;  // 16-byte aligned
  int num_dims;
  std::array<int64_t, kMaxMapDims> size;    // innermost first
  std::array<int64_t, kMaxMapDims> stride;  // elements; stride[0] is 1, others multiples of 8
  std::array<int32_t, kMaxMapDims> box;     // box[0] = 64: one 128-byte row of shared memory
};

// 128-byte swizzle, zeros outside the tensor. Throws DeviceError if the driver refuses.
CUtensorMap tensor_map(const TensorMapArgs& args);

}  // namespace fastwan::kernels::hopper
