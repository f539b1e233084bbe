// AutoencoderKLWan, versions 2.1 and 2.2: latents to frames and back, one latent frame at a time.
//
// Dims    B batch, z latent channels, T H W latent frames, height and width; F P Q pixel frames,
//         height and width (P = H * scale_factor_spatial, F = 1 + (T - 1) * scale_factor_temporal)
// Types   weights and activations of one type: fp32, or bf16 rounded as diffusers rounds
// Memory  the activations of one chunk and two frames of history a convolution, never the clip,
//         but for the two functions of training
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "base/files.h"
#include "models/layout/configs.h"

namespace fastwan::models {

namespace wan_vae {
class Decoder;
class Encoder;
struct PointwiseConv;
}  // namespace wan_vae

// How a normalised latent becomes a latent again. In fp32 the two agree within 2.4e-7, in bf16 they
// do not.
enum class LatentForm {
  kDiffusers,  // z / (1 / std) + mean
  kFastVideo,  // z * std + mean
};

// Spatial tiles in pixels, cut and blended as diffusers does; neighbours overlap by size - stride.
// All four are multiples of scale_factor_spatial. Tiles save memory and give other frames than the
// whole does.
struct VaeTiling {
  int64_t height = 256;
  int64_t width = 256;
  int64_t stride_height = 192;
  int64_t stride_width = 192;
};

enum class VaeParts { kBoth, kEncoder, kDecoder };

struct VaeOptions {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  VaeParts parts = VaeParts::kBoth;  // a part that is left out costs neither time nor memory
};

struct LatentPosterior {
  at::Tensor mean;    // [B, z, T, H, W]
  at::Tensor logvar;  // [B, z, T, H, W], in [-30, 20]
};

// decode() and encode() make no gradients; reconstruct() and posterior() follow the caller's grad
// mode and take the whole clip at once: the same numbers up to the order of sums, in a few large
// operations instead of many small ones.
class WanVae final : public torch::nn::Module {
 public:
  using OnChunk = std::function<void(const at::Tensor& frames)>;  // [B, 3, f, P, Q] in [-1, 1]

  // Weights are allocated, not filled.
  explicit WanVae(layout::WanVaeConfig config, const VaeOptions& options = {});
  ~WanVae() override;

  const layout::WanVaeConfig& config() const { return config_; }

  // Tiles are used where the video exceeds one tile. Default: none.
  void set_tiling(std::optional<VaeTiling> tiling);

  // latents [B, z, T, H, W], denormalised. `on_chunk` gets one frame for the first latent frame and
  // scale_factor_temporal for each later one, in order; with tiles, all frames at once. What
  // `on_chunk` throws ends the decoding.
  void decode(const at::Tensor& latents, const OnChunk& on_chunk);
  at::Tensor decode(const at::Tensor& latents);  // [B, 3, F, P, Q]: all chunks, joined

  // video [B, 3, F, P, Q] in [-1, 1]. Frames beyond the last whole chunk are left out: 7 count
  // as 5.
  LatentPosterior encode(const at::Tensor& video);

  // For training: the whole clip, no tiles, not clamped (a clamp would stop the gradient of what
  // lies outside). With gradient in grad mode, for parameters that ask for one and for the input.
  at::Tensor reconstruct(const at::Tensor& latents);   // as decode(latents)
  LatentPosterior posterior(const at::Tensor& video);  // as encode(video)

  at::Tensor normalise(const at::Tensor& latents) const;  // (latents - mean) / std
  at::Tensor denormalise(const at::Tensor& latents, LatentForm form) const;

 private:
  enum class Pass { kStreamed, kWhole };
  void stream_decode(const at::Tensor& x, const OnChunk& on_chunk) const;
  at::Tensor encode_patches(const at::Tensor& x, Pass pass) const;
  LatentPosterior posterior_of(const at::Tensor& video, Pass pass) const;
  at::Tensor finished(const at::Tensor& x) const;
  at::Tensor per_channel(const std::vector<double>& values, const at::Tensor& like) const;

  layout::WanVaeConfig config_;
  VaeOptions options_;
  std::optional<VaeTiling> tiling_;
  std::unique_ptr<wan_vae::Encoder> encoder_;
  std::unique_ptr<wan_vae::PointwiseConv> quant_conv_, post_quant_conv_;
  std::unique_ptr<wan_vae::Decoder> decoder_;
};

// A Diffusers component folder: config.json and safetensors, single or sharded.
std::shared_ptr<WanVae> load_wan_vae(const Path& folder, const VaeOptions& options = {});

}  // namespace fastwan::models
