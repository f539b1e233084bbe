// What the config files of a model's components say. Every size comes from here, none from a
// model's name.
//
// Sources of keys and defaults: diffusers transformer_wan.py and autoencoder_kl_wan.py (__init__),
// transformers UMT5Config, diffusers scheduling_unipc_multistep.py.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"

namespace fastwan::layout {

struct WanDitConfig {
  int64_t num_heads = 0;
  int64_t head_dim = 0;
  int64_t num_layers = 0;
  int64_t ffn_dim = 0;
  int64_t in_channels = 0;
  int64_t out_channels = 0;
  int64_t text_dim = 0;
  int64_t freq_dim = 0;
  int64_t patch_t = 1, patch_h = 2, patch_w = 2;
  double eps = 1e-6;
  bool cross_attn_norm = true;
  bool is_gated = false;  // to_gate_compress present in the weights; not a key of config.json

  int64_t width() const { return num_heads * head_dim; }
};

struct WanVaeConfig {
  int64_t base_dim = 96;
  int64_t decoder_base_dim = 96;
  int64_t z_dim = 16;
  std::vector<int64_t> dim_mult = {1, 2, 4, 4};
  int64_t num_res_blocks = 2;
  std::vector<bool> temporal_downsample = {false, true, true};
  std::vector<double> latents_mean, latents_std;  // z_dim each
  bool is_residual = false;                       // VAE 2.2
  int64_t in_channels = 3, out_channels = 3;
  int64_t patch_size = 1;
  int64_t scale_factor_temporal = 4;
  int64_t scale_factor_spatial = 8;
};

struct Umt5Config {
  int64_t d_model = 0;
  int64_t d_kv = 0;
  int64_t num_heads = 0;
  int64_t d_ff = 0;
  int64_t num_layers = 0;
  int64_t vocab_size = 0;
  int64_t num_buckets = 32;
  int64_t max_distance = 128;
  double eps = 1e-6;
};

struct SchedulerConfig {
  std::string class_name;
  std::optional<double> flow_shift;  // UniPC: flow_shift, FlowMatchEuler: shift
};

// Errors name `origin` (the file) and the key. unsupported_model for CLIP-conditioned transformers
// and other classes.
WanDitConfig read_wan_dit(const Json& json, const std::string& origin);
WanVaeConfig read_wan_vae(const Json& json, const std::string& origin);
Umt5Config read_umt5(const Json& json, const std::string& origin);
SchedulerConfig read_scheduler(const Json& json, const std::string& origin);

}  // namespace fastwan::layout
