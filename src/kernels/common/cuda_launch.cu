#include "kernels/common/cuda_launch.h"
#include "kernels/common/device_failure.h"

namespace fastwan::kernels::cuda {

void check_launch(const char* operation) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw_device_failure(operation, cudaGetErrorString(error));
  }
}

}  // namespace fastwan::kernels::cuda
