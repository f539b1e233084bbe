// One problem of block attention with everything a kernel needs on the device and what a reference
// needs on the host.
#pragma once

#include <string>
#include <vector>

#include "kernels/block_attention/block_attention_sm90.h"
#include "tests/gpu/device.h"

namespace fastwan::gpu {

using kernels::Bf16;

enum class Order { kTiled, kTiledHeadMajor, kRaster };
const char* name_of(Order order);

struct Case {
  std::string name;
  int64_t B, H, D, K;
  kernels::TokenGrid grid;       // raster order, or tiles of these sizes
  std::vector<int32_t> q_sizes;  // with an empty grid: tiled order only
  std::vector<int32_t> kv_sizes;
  bool random_counts = false;  // lists of 0 ... K entries instead of K
};

// Where the tokens of a tile lie: token r of tile n is tokens[n][r], its entry in lse slots[n][r].
struct TileTokens {
  std::vector<std::vector<int64_t>> tokens, slots;
  int64_t length = 0;  // of the token dimension

  int64_t num_tiles() const { return static_cast<int64_t>(tokens.size()); }
};

struct Problem {
  Case c;
  Order order;
  TileTokens queries, keys;
  std::vector<int32_t> index, count;      // [B, H, Nq, K], [B, H, Nq]
  std::vector<Bf16> q, k, v, gate, dout;  // [B, length, H, D] in the order's strides
  std::vector<Bf16> coarse;               // [B, Nq, H, D]
  DeviceArray<Bf16> d_q, d_k, d_v, d_gate, d_dout, d_coarse, d_out, d_dq, d_dk, d_dv;
  DeviceArray<float> d_lse;
  DeviceArray<int32_t> d_index, d_count, d_q_sizes, d_kv_sizes;

  kernels::FineArgs forward_args(bool with_gate) const;
  kernels::FineBackwardArgs backward_args() const;
  template <class T>
  kernels::Tokens<T> tokens(T* data, const TileTokens& at) const {
    const bool head_major = order == Order::kTiledHeadMajor;
    return {data, at.length * c.H * c.D, head_major ? c.D : c.H * c.D,
            head_major ? at.length * c.D : c.D};
  }
};

// Normal numbers, NaN in every slot without a token, lists of distinct random tiles.
Problem make_problem(const Case& c, Order order, uint64_t seed);

float to_float(Bf16 x);
Bf16 round_to_bf16(double x);

}  // namespace fastwan::gpu
