// video_sparse_attn_raster in a few fused kernels, where libfastwan_ops_cuda.so has been opened.
#pragma once

#include <optional>

#include "ops/attention.h"

namespace fastwan::ops {

struct RasterGrid {
  int64_t T, H, W;  // in tiles of 4x4x4
};

// Nothing if the library is absent, a gradient is wanted, a tracer looks on, or the kernels do not
// take these inputs. Shapes must have been checked.
std::optional<at::Tensor> fused_raster(const AttentionInputs& in,
                                       const RasterGrid& grid,
                                       int64_t topk);

}  // namespace fastwan::ops
