// The coarse stage of a raster problem: on the device, and on the host from the device's means.
#pragma once

#include <string>
#include <vector>

#include "kernels/vsa_coarse/vsa_coarse.h"
#include "tests/gpu/problem.h"

namespace fastwan::gpu {

struct CoarseResults {
  std::vector<double> means[kernels::kPooled];  // [B, N, H, D]
  std::vector<double> out;                      // [B, N, H, D]
  std::vector<double> scores;                   // [B, H, N, N], host only
  std::vector<int32_t> index;                   // [B, H, N, K]
};

class CoarseStage {
 public:
  explicit CoarseStage(const Problem& p);
  void run(void* stream) const;
  CoarseResults download() const;
  const kernels::TilePoolArgs& pool() const { return pool_; }
  const kernels::CoarseArgs& select() const { return select_; }

 private:
  DeviceArray<Bf16> q_mean_, k_mean_, v_mean_, out_;
  DeviceArray<int32_t> index_, count_;
  kernels::TilePoolArgs pool_;
  kernels::CoarseArgs select_;
};

CoarseResults coarse_reference(const Problem& p, const CoarseResults& device);
// What is wrong with the device's lists, or nothing.
std::string wrong_selection(const Problem& p, const CoarseResults& got, const CoarseResults& want);

}  // namespace fastwan::gpu
