// tile_mean and block_select, the parts of the whole operation that serve GPUs without a fused one,
// against the host: every type, ragged tiles, ties, zeros of both signs, NaN and infinities.
#pragma once

namespace fastwan::gpu {

bool tile_mean_holds();
bool block_select_holds();

}  // namespace fastwan::gpu
