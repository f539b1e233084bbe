#include "models/layout/cost.h"

#include <algorithm>
#include <vector>

namespace fastwan::layout {
namespace {

constexpr double kTileSlots = 64;

double real(int64_t value) {
  return static_cast<double>(value);
}

// rows x in -> rows x out
double linear(double rows, double in, double out) {
  return 2 * rows * in * out;
}

// Both products of softmax(q k^T) v, over all heads.
double attention(double queries, double keys, double width) {
  return 4 * queries * keys * width;
}

// One convolution of the VAE, as it runs over a clip.
struct Conv {
  int64_t in = 0, out = 0;
  int64_t taps = 0;    // kernel volume
  int64_t frames = 0;  // of its output, over the whole clip
  int64_t chunk = 0;   // of its output, for one latent frame
  int64_t height = 0, width = 0;
  bool has_history = false;  // keeps two frames of its input between chunks

  double work() const { return 2.0 * real(in * out * taps) * real(frames * height * width); }
  double plane() const { return real(height * width); }
};

// The layers of one half of the VAE, in order.
struct Walk {
  explicit Walk(const LatentSize& latent)
      : frames(latent.frames), height(latent.height), width(latent.width) {}

  std::vector<Conv> convs;
  double attention_work = 0;
  int64_t frames;     // of the feature map, over the clip
  int64_t chunk = 1;  // of the feature map, for one latent frame
  int64_t height, width;

  void conv(int64_t in, int64_t out, int64_t taps) {
    convs.push_back({in, out, taps, frames, chunk, height, width, taps == 27});
  }
  void residual_block(int64_t in, int64_t out) {
    conv(in, out, 27);
    conv(out, out, 27);
    if (in != out) {
      conv(in, out, 1);
    }
  }
  void mid_block(int64_t dim) {
    residual_block(dim, dim);
    conv(dim, 3 * dim, 1);
    const double tokens = real(height * width);
    attention_work += real(frames) * attention(tokens, tokens, real(dim));
    conv(dim, dim, 1);
    residual_block(dim, dim);
  }
  // The first latent frame stays one frame: only the later ones pass time_conv.
  void upsample(int64_t in, int64_t out, bool is_temporal) {
    if (is_temporal) {
      convs.push_back({in, 2 * in, 3, frames - 1, chunk, height, width, /*has_history=*/true});
      frames = 1 + 2 * (frames - 1);
      chunk *= 2;
    }
    height *= 2;
    width *= 2;
    conv(in, out, 9);
  }
  void downsample(int64_t dim, bool is_temporal) {
    height /= 2;
    width /= 2;
    conv(dim, dim, 9);
    if (is_temporal) {
      frames = 1 + (frames - 1) / 2;
      chunk /= 2;
      convs.push_back({dim, dim, 3, frames - 1, chunk, height, width, /*has_history=*/true});
    }
  }
  double work() const {
    double sum = attention_work;
    for (const Conv& layer : convs) {
      sum += layer.work();
    }
    return sum;
  }
};

Walk walk_decoder(const WanVaeConfig& c, const LatentSize& latent) {
  Walk walk(latent);
  const std::size_t levels = c.dim_mult.size();
  int64_t dim = c.decoder_base_dim * c.dim_mult.back();
  walk.conv(c.z_dim, c.z_dim, 1);
  walk.conv(c.z_dim, dim, 27);
  walk.mid_block(dim);
  for (std::size_t i = 0; i < levels; ++i) {
    const int64_t out = c.decoder_base_dim * c.dim_mult[levels - 1 - i];
    if (!c.is_residual && i > 0) {
      dim /= 2;  // the upsampler before halved it
    }
    for (int64_t j = 0; j <= c.num_res_blocks; ++j) {
      walk.residual_block(dim, out);
      dim = out;
    }
    if (i + 1 < levels) {
      walk.upsample(out, c.is_residual ? out : out / 2, c.temporal_downsample[levels - 2 - i]);
    }
  }
  walk.conv(dim, c.out_channels, 27);
  return walk;
}

Walk walk_encoder(const WanVaeConfig& c, const LatentSize& latent) {
  Walk walk(latent);
  const std::size_t levels = c.dim_mult.size();
  for (std::size_t i = 0; i + 1 < levels; ++i) {
    walk.height *= 2;
    walk.width *= 2;
    if (c.temporal_downsample[i]) {
      walk.frames = 1 + 2 * (walk.frames - 1);
      walk.chunk *= 2;
    }
  }
  walk.conv(c.in_channels, c.base_dim, 27);
  int64_t dim = c.base_dim;
  for (std::size_t i = 0; i < levels; ++i) {
    const int64_t out = c.base_dim * c.dim_mult[i];
    for (int64_t j = 0; j < c.num_res_blocks; ++j) {
      walk.residual_block(dim, out);
      dim = out;
    }
    if (i + 1 < levels) {
      walk.downsample(out, c.temporal_downsample[i]);
    }
  }
  walk.mid_block(dim);
  walk.conv(dim, 2 * c.z_dim, 27);
  walk.conv(2 * c.z_dim, 2 * c.z_dim, 1);
  return walk;
}

}  // namespace

TokenGrid token_grid(const WanDitConfig& config, const LatentSize& latent) {
  return {latent.frames / config.patch_t, latent.height / config.patch_h,
          latent.width / config.patch_w};
}

DitWork block_work(const WanDitConfig& config,
                   const TokenGrid& grid,
                   const AttentionMode& mode,
                   int64_t text_tokens) {
  const double S = real(grid.num_tokens());
  const double L = real(text_tokens);
  const double D = real(config.width());
  const double N = real(grid.num_tiles());
  DitWork work;
  work.linears = 4 * linear(S, D, D)                          // q, k, v, o
                 + 2 * linear(S, D, D) + 2 * linear(L, D, D)  // cross: q, o of video; k, v of text
                 + 2 * linear(S, D, real(config.ffn_dim));    // up and down
  work.cross = attention(S, L, D);
  if (mode.topk == 0) {
    work.attention = attention(S, S, D);
    return work;
  }
  work.attention = attention(N * kTileSlots, real(mode.topk) * kTileSlots, D);
  work.attention += linear(N, D, N);  // scores of tile means choose the tiles
  if (mode.uses_gates) {
    work.attention += linear(N, N, D);  // and weigh the coarse values
    work.gates = linear(S, D, D);
  }
  return work;
}

DitWork forward_work(const WanDitConfig& config,
                     const TokenGrid& grid,
                     const AttentionMode& mode,
                     int64_t text_tokens) {
  const DitWork block = block_work(config, grid, mode, text_tokens);
  const double layers = real(config.num_layers);
  const double S = real(grid.num_tokens());
  const double L = real(text_tokens);
  const double D = real(config.width());
  const double patch = real(config.patch_t * config.patch_h * config.patch_w);
  DitWork work{.linears = layers * block.linears,
               .gates = layers * block.gates,
               .attention = layers * block.attention,
               .cross = layers * block.cross};
  work.ends = linear(S, real(config.in_channels) * patch, D) +
              linear(S, D, real(config.out_channels) * patch) +
              linear(L, real(config.text_dim), D) + linear(L, D, D) +
              linear(1, real(config.freq_dim), D) + linear(1, D, D) + linear(1, D, 6 * D);
  return work;
}

double encoder_work(const Umt5Config& config, int64_t text_tokens) {
  const double L = real(text_tokens);
  const double inner = real(config.num_heads * config.d_kv);
  const double width = real(config.d_model);
  const double layer = 4 * linear(L, width, inner) + 3 * linear(L, width, real(config.d_ff)) +
                       attention(L, L, inner);
  return real(config.num_layers) * layer;
}

double decode_work(const WanVaeConfig& config, const LatentSize& latent) {
  return walk_decoder(config, latent).work();
}

double encode_work(const WanVaeConfig& config, const LatentSize& latent) {
  return walk_encoder(config, latent).work();
}

double forward_memory(const WanDitConfig& config,
                      const TokenGrid& grid,
                      const AttentionMode& mode,
                      int64_t element) {
  const double S = real(grid.num_tokens());
  const double D = real(config.width());
  const double slots = real(grid.num_tiles()) * kTileSlots;
  const double x = S * D;
  // The residual, then what a part of the block holds at its widest.
  const double feed_forward = x + 2 * S * real(config.ffn_dim);
  double attention_part = 5 * x;  // normed input, q, k, v, result
  if (mode.topk > 0) {
    attention_part += 4 * slots * D + (mode.uses_gates ? x : 0);  // q, k, v, result in tile order
  }
  return real(element) * (x + std::max(feed_forward, attention_part));
}

double encoder_memory(const Umt5Config& config, int64_t text_tokens, int64_t element) {
  const double L = real(text_tokens);
  const double inner = real(config.num_heads * config.d_kv);
  const double width = real(config.d_model);
  const double scores = 3 * real(config.num_heads) * L * L;  // bias, scores, softmax
  const double feed_forward = 3 * L * real(config.d_ff);
  return real(element) * (2 * L * width + std::max(scores + 4 * L * inner, feed_forward));
}

double decode_memory(const WanVaeConfig& config, const LatentSize& latent, int64_t element) {
  double history = 0;
  double widest = 0;
  for (const Conv& conv : walk_decoder(config, latent).convs) {
    const int64_t kept = conv.has_history ? 2 : 0;
    history += real(conv.in * kept) * conv.plane();
    // The block's input, the activation, that with its history before it, and the result.
    const double values =
        real(conv.in * (2 * conv.chunk + conv.chunk + kept) + conv.out * conv.chunk);
    widest = std::max(widest, values * conv.plane());
  }
  return real(element) * (history + widest);
}

}  // namespace fastwan::layout
