// Work and memory of a request, from the models' configs and the sizes asked for.
//
// Work    operations, a multiply-add counts two: matrix products, convolutions, attention. Norms,
//         activations and rotations are left out (below 1 %)
// Memory  bytes of the activations alive at once where a stage is widest: an estimate that follows
//         the order of the computation, without the allocator's own overhead
//
// Dims    S video tokens, L text tokens, D width, N tiles of 4x4x4 tokens
#pragma once

#include <cstdint>

#include "models/layout/configs.h"
#include "models/layout/model_folder.h"

namespace fastwan::layout {

// Latent frames, height and width in patches.
struct TokenGrid {
  int64_t T = 0, H = 0, W = 0;

  int64_t num_tokens() const { return T * H * W; }
  int64_t num_tiles() const { return (T + 3) / 4 * ((H + 3) / 4) * ((W + 3) / 4); }
};
TokenGrid token_grid(const WanDitConfig& config, const LatentSize& latent);

// How self-attention runs.
struct AttentionMode {
  int64_t topk = 0;         // key tiles of a query tile; 0: full attention
  bool uses_gates = false;  // the coarse term is computed and gated
};

// Operations of one forward at batch 1, by kind.
struct DitWork {
  double linears = 0;    // q, k, v, o, cross-attention's four, feed-forward
  double gates = 0;      // projection of the coarse term's gate
  double attention = 0;  // self-attention, over whole tiles when sparse
  double cross = 0;      // attention to the text
  double ends = 0;       // patches, time, text projection, head: once a forward

  double total() const { return linears + gates + attention + cross + ends; }
};
DitWork block_work(const WanDitConfig& config,
                   const TokenGrid& grid,
                   const AttentionMode& mode,
                   int64_t text_tokens);
DitWork forward_work(const WanDitConfig& config,
                     const TokenGrid& grid,
                     const AttentionMode& mode,
                     int64_t text_tokens);

double encoder_work(const Umt5Config& config, int64_t text_tokens);
double decode_work(const WanVaeConfig& config, const LatentSize& latent);
// Of an image or clip of this latent size.
double encode_work(const WanVaeConfig& config, const LatentSize& latent);

// Bytes alive at once, with `element` bytes a value.
double forward_memory(const WanDitConfig& config,
                      const TokenGrid& grid,
                      const AttentionMode& mode,
                      int64_t element);
double encoder_memory(const Umt5Config& config, int64_t text_tokens, int64_t element);
double decode_memory(const WanVaeConfig& config, const LatentSize& latent, int64_t element);

}  // namespace fastwan::layout
