// Where a run computes. Nothing here links CUDA: torch's GPU library is opened when a GPU is wanted
// and there.
#pragma once

#include <cstdint>
#include <string>

#include <c10/core/Device.h>

namespace fastwan::pipelines {

// "auto", "cpu", "cuda" or "cuda:i". auto takes the first GPU that works, else the CPU.
// InvalidInput bad_value; DeviceError no_gpu, naming what is missing.
at::Device resolve_device(const std::string& wanted);

// Number of GPUs that torch can use now; opens its GPU library if a driver is there.
int64_t num_gpus();

// Bytes that may still be taken: host memory the kernel calls available, or the GPU's free memory.
int64_t free_memory_bytes(at::Device device);

}  // namespace fastwan::pipelines
