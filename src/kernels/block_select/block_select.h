// block_select: which key tiles a query tile attends to (the selection of video sparse attention).
//
//   index[r, :] = the K first tiles of row r by falling score, ties to the lower tile; ascending
//
// Dims     R rows (batch, head and query tile), N key tiles, 1 <= K <= N
// Layout   scores [R, N], index [R, K]; dense
// Types    float, bf16 or fp16 scores, index int32; nothing is rounded
// Order    a minus zero equals a zero; a NaN of either sign counts as highest, NaNs tie
// Cost     reads a row once for each bit of a score (from the L1 cache but the first time)
#pragma once

#include <cstdint>

#include "kernels/common/bf16.h"
#include "kernels/common/fp16.h"

namespace fastwan::kernels {

struct SelectDims {
  int64_t R, N, K;
};

template <class Element>  // float, Bf16, Fp16; the reference also double
struct BlockSelectArgs {
  const Element* scores;
  int32_t* index;
  SelectDims dims;
};

namespace ref {
template <class Element>
void block_select(const BlockSelectArgs<Element>& args);
}
namespace cuda {
void block_select(const BlockSelectArgs<float>& args, void* stream);
void block_select(const BlockSelectArgs<Bf16>& args, void* stream);
void block_select(const BlockSelectArgs<Fp16>& args, void* stream);
}  // namespace cuda

}  // namespace fastwan::kernels
