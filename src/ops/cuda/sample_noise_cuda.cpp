// sample_noise on CUDA. ops/sample_noise.cpp asks for it.
#include <bit>

#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAGuard.h>
#include <torch/library.h>

#include "kernels/sample_noise/sample_noise.h"
#include "ops/checks.h"
#include "ops/cuda/gpu_tensors.h"
#include "ops/cuda/registry_cuda.h"

namespace fastwan::ops {
namespace {

at::Tensor sample_noise(
    const at::Tensor& slots_any, int64_t count, int64_t seed, int64_t step, int64_t tag) {
  check_rank("sample_noise", {"slots", slots_any}, 1, "B");
  const c10::cuda::CUDAGuard guard(slots_any.device());
  const at::Tensor slots = slots_any.to(at::kLong).contiguous();
  const at::Tensor out = at::empty({slots.size(0), count}, slots.options().dtype(at::kFloat));
  kernels::cuda::sample_noise({.slots = read<int64_t>(slots),
                               .out = write<float>(out),
                               .B = slots.size(0),
                               .count = count,
                               .seed = std::bit_cast<uint64_t>(seed),
                               .step = static_cast<uint32_t>(step),
                               .tag = static_cast<uint32_t>(tag)},
                              current_stream(slots));
  return out;
}

}  // namespace

void define_sample_noise_cuda(torch::Library& m) {
  m.def("_sample_noise(Tensor slots, int count, int seed, int step, int tag) -> Tensor");
}

void register_sample_noise_cuda(torch::Library& m) {
  m.impl("_sample_noise", sample_noise);
}

}  // namespace fastwan::ops
