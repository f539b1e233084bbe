// WanTransformer3DModel: latents, a timestep and a text to the flow velocity (noise - x0).
//
// Dims    B batch, C latent channels, T latent frames, H W latent height and width, L text tokens,
//         S = T * H/2 * W/2 tokens (patch 1x2x2), D width = heads * head size, U distinct timesteps
// Source  diffusers transformer_wan.py; gates and sparse attention from FastVideo wanvideo.py
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "io/safetensors.h"
#include "models/layout/configs.h"
#include "models/parameters.h"
#include "ops/attention.h"

namespace fastwan::models {

// Which roundings a forward makes: one table, four instances. In fp32 and fp64 the two bf16 recipes
// are one, up to the order of operations.
struct RoundingProfile {
  at::ScalarType compute = at::kFloat;  // weights and activations of the GEMMs
  at::ScalarType kept = at::kFloat;     // time embedder, modulation tables, norm2
  at::ScalarType wide = at::kFloat;     // norms, modulation, rotation and residual sums
  // q/k RMS norm, norm3 and the head's norm round before they are scaled.
  bool rounds_norm_before_scale = false;
  bool norm2_reads_unrounded = false;       // norm2 sees the residual sum before it is rounded
  bool head_modulation_in_compute = false;  // the head's shift and scale are rounded

  static RoundingProfile fp32();
  static RoundingProfile fp64();  // to check gradients
  static RoundingProfile diffusers_bf16();
  static RoundingProfile fastvideo_bf16();
};

// Shift, scale and gate vectors of a block or the head, per sample or per token.
class Modulation {
 public:
  // table [U, K, D]: K vectors for each of U distinct timesteps; row [B] or [B, S] int64 says
  // which.
  Modulation(at::Tensor table, at::Tensor row) : table_(std::move(table)), row_(std::move(row)) {}
  // The same, with the vectors of samples picked at once; those of tokens are picked as they are
  // asked for: they are as large as activations.
  Modulation of_samples() const;
  at::Tensor vector(int64_t k) const;  // [B, 1, D] or [B, S, D]
  const at::Tensor& table() const { return table_; }
  const at::Tensor& row() const { return row_; }

 private:
  at::Tensor table_, row_;
  std::vector<at::Tensor> vectors_;
};

struct Rope {
  at::Tensor rotation;  // [S, 1, d/2] complex: cos + i sin of each token's angles
};
struct RopeArgs {
  int64_t head_dim, T, H, W;  // token grid
};
// Angles in fp64 from integer token coordinates, widths [d - 4*(d/6), 2*(d/6), 2*(d/6)] for t, h,
// w; rounded once to the complex form of `type`.
Rope make_rope(const RopeArgs& args, at::ScalarType type, at::Device device);

// cos and sin of timesteps 0..1000: [U] -> [U, freq_dim] in the same type, cos first.
at::Tensor timestep_wave(const at::Tensor& timestep, int64_t freq_dim);

struct AdapterOptions {
  int64_t rank = 32;
  double scale = 1;                  // alpha / rank
  std::vector<std::string> modules;  // linear layers of a block, by layout::LoraModule::name
};

class WanBlock final : public torch::nn::Module {
 public:
  WanBlock(const layout::WanDitConfig& config, const RoundingProfile& profile, at::Device device);

  // Low-rank adapters on the named layers (models/parameters.h).
  void add_adapters(const AdapterOptions& options);

  // x [B, S, D], text [B, L, D] embedded, time [U, 6, D] rows of `row`
  at::Tensor forward(const at::Tensor& x,
                     const at::Tensor& text,
                     const Modulation& time,
                     const Rope& rope,
                     const ops::Attention& attention,
                     const ops::AttentionPlan& plan) const;

 private:
  struct AttentionWeights {
    Linear to_q, to_k, to_v, to_out;
    at::Tensor norm_q, norm_k;  // [D]
  };
  AttentionWeights make_attention(const std::string& name, const at::TensorOptions& options);
  at::Tensor self_attention(const at::Tensor& x,
                            const Rope& rope,
                            const ops::Attention& attention,
                            const ops::AttentionPlan& plan) const;
  at::Tensor cross_attention(const at::Tensor& x, const at::Tensor& text) const;

  int64_t num_heads_, head_dim_;
  double eps_;
  RoundingProfile profile_;
  at::Tensor scale_shift_table_;  // [1, 6, D]
  AttentionWeights attn1_, attn2_;
  at::Tensor norm2_weight_, norm2_bias_;  // [D]
  Linear ffn_in_, ffn_out_;
  Linear gate_;  // to_gate_compress; empty without
};

class WanDit final : public torch::nn::Module {
 public:
  // Parameters are allocated, not initialised; names are the Diffusers checkpoint's.
  WanDit(const layout::WanDitConfig& config,
         std::shared_ptr<const ops::Attention> attention,
         const RoundingProfile& profile,
         at::Device device);

  // latents [B, C, T, H, W], timestep [B] or [B, S] fp32 in 0..1000, text [B, L, D] from embed_text
  // -> velocity [B, C, T, H, W] in the compute dtype.
  at::Tensor forward(const at::Tensor& latents,
                     const at::Tensor& timestep,
                     const at::Tensor& text,
                     const ops::AttentionPlan& plan) const;

  // Encoder output [B, L, text_dim], zero rows included -> [B, L, D]; depends on the prompt alone.
  at::Tensor embed_text(const at::Tensor& encoded) const;

  // The doors of forward, for an executor that drives the blocks itself.
  struct State {
    at::Tensor x;     // [B, S, D]
    at::Tensor temb;  // [U, D]
    Modulation time;  // [U, 6, D]
  };
  State head_in(const at::Tensor& latents,
                const at::Tensor& timestep,
                const ops::AttentionPlan& plan) const;
  const std::vector<std::shared_ptr<WanBlock>>& blocks() const { return blocks_; }
  at::Tensor head_out(const State& state, at::IntArrayRef latent_sizes) const;

  const layout::WanDitConfig& config() const { return config_; }
  const RoundingProfile& profile() const { return profile_; }
  const ops::Attention& attention() const { return *attention_; }
  const std::shared_ptr<const ops::Attention>& shared_attention() const { return attention_; }
  // The plan of a latent shape [B, C, T, H, W].
  ops::AttentionPlan plan_for(at::IntArrayRef latent_sizes, at::Device device) const;
  // Of a plan, for its blocks.
  Rope rope_for(const ops::AttentionPlan& plan, at::Device device) const;

 private:
  layout::WanDitConfig config_;
  std::shared_ptr<const ops::Attention> attention_;
  RoundingProfile profile_;
  at::Tensor patch_weight_, patch_bias_;  // [D, C, 1, 2, 2], [D]
  Linear time_1_, time_2_, time_proj_, text_1_, text_2_, proj_out_;
  at::Tensor scale_shift_table_;  // [1, 2, D]
  std::vector<std::shared_ptr<WanBlock>> blocks_;
};

struct WanDitOptions {
  RoundingProfile profile;
  at::Device device = at::kCPU;
  // Gates are loaded only for an attention that wants them, else known and left out; blocks without
  // one then get zeros. Either is said here.
  std::function<void(const std::string&)> on_note;
};

// Fills a model's parameters, which may be lent in another dtype than the model computes in. Gates
// that the files have not become zero; adapters stay as they are.
void load_wan_dit_weights(WanDit& model,
                          const io::WeightFiles& files,
                          const std::function<void(const std::string&)>& on_note = {});

// Whether the weights hold gates (to_gate_compress).
bool has_gates(const io::WeightFiles& files);
// A model with its weights. Names may be Diffusers', the original Wan's or FastVideo's internal
// ones.
std::shared_ptr<WanDit> load_wan_dit(layout::WanDitConfig config,
                                     const io::WeightFiles& files,
                                     std::shared_ptr<const ops::Attention> attention,
                                     const WanDitOptions& options);

}  // namespace fastwan::models
