#include "models/wan_vae.h"

#include <algorithm>
#include <utility>
#include <vector>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "base/json.h"
#include "base/shape.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "models/checkpoint.h"
#include "models/layout/tensors.h"
#include "models/wan_vae/decoder.h"
#include "models/wan_vae/encoder.h"
#include "models/wan_vae/tiling.h"

namespace fastwan::models {
namespace {

constexpr double kLogvarMin = -30.0, kLogvarMax = 20.0;

// [B, c, T, H, W] to channels innermost.
at::Tensor channels_innermost(const at::Tensor& x) {
  return x.movedim(1, -1).contiguous();  // [B, T, H, W, c]
}
at::Tensor channels_second(const at::Tensor& x) {
  return x.movedim(-1, 1).contiguous();  // [B, c, T, H, W]
}

wan_vae::TileGrid grid_of(const wan_vae::Side& whole,
                          const wan_vae::Side& tile,
                          const wan_vae::Side& stride,
                          const std::function<int64_t(int64_t)>& scaled) {
  const auto both = [&scaled](const wan_vae::Side& side) {
    return wan_vae::Side{.height = scaled(side.height), .width = scaled(side.width)};
  };
  return {.in = whole,
          .tile = tile,
          .stride = stride,
          .out_tile = both(tile),
          .out_stride = both(stride),
          .out = both(whole)};
}

void check_tiling(const VaeTiling& tiling, int64_t scale) {
  const auto fits = [scale](int64_t size, int64_t stride) {
    return stride > 0 && stride <= size && size % scale == 0 && stride % scale == 0;
  };
  if (!fits(tiling.height, tiling.stride_height) || !fits(tiling.width, tiling.stride_width)) {
    throw InvalidInput(Code::kBadValue, str("WanVae: tiles must be multiples of ", scale,
                                            " pixels with a stride of at most their size, got ",
                                            tiling.height, "x", tiling.width, " with stride ",
                                            tiling.stride_height, "x", tiling.stride_width));
  }
}

}  // namespace

WanVae::WanVae(layout::WanVaeConfig config, const VaeOptions& options)
    : config_(std::move(config)), options_(options) {
  const wan_vae::Scope root{.root = *this,
                            .name = "",
                            .options = at::TensorOptions(options.dtype).device(options.device)};
  const int64_t z = config_.z_dim;
  if (options.parts != VaeParts::kDecoder) {
    encoder_ = std::make_unique<wan_vae::Encoder>(config_, root.in("encoder"));
    quant_conv_ = std::make_unique<wan_vae::PointwiseConv>(
        wan_vae::PointwiseConv::make(root.in("quant_conv"), 2 * z, 2 * z, 5));
  }
  if (options.parts != VaeParts::kEncoder) {
    post_quant_conv_ = std::make_unique<wan_vae::PointwiseConv>(
        wan_vae::PointwiseConv::make(root.in("post_quant_conv"), z, z, 5));
    decoder_ = std::make_unique<wan_vae::Decoder>(config_, root.in("decoder"));
  }
}

WanVae::~WanVae() = default;

void WanVae::set_tiling(std::optional<VaeTiling> tiling) {
  if (tiling) {
    check_tiling(*tiling, config_.scale_factor_spatial);
  }
  tiling_ = tiling;
}

// x [B, T, H, W, z]; chunks [B, f, h, w, C], patched and not clamped.
void WanVae::stream_decode(const at::Tensor& x, const OnChunk& on_chunk) const {
  wan_vae::FeatureCache cache;
  for (int64_t t = 0; t < x.size(1); ++t) {
    cache.next_chunk();
    const at::Tensor latent_frame = (*post_quant_conv_)(x.narrow(1, t, 1).contiguous());
    on_chunk(decoder_->forward(latent_frame, cache));
  }
}

at::Tensor WanVae::reconstruct(const at::Tensor& latents) {
  invariant(decoder_ != nullptr, "the decoder was asked for");
  Shapes("WanVae").expect("latents", latents.sizes(), str("B ", config_.z_dim, " T H W"));
  const at::Tensor x =
      channels_innermost(latents.to(options_.device, options_.dtype));  // [B, T, H, W, z]
  wan_vae::FeatureCache cache;
  cache.next_chunk();
  return wan_vae::unpatchify(decoder_->forward((*post_quant_conv_)(x), cache),
                             config_.patch_size);  // [B, 3, F, P, Q]
}

at::Tensor WanVae::finished(const at::Tensor& x) const {
  return wan_vae::unpatchify(x, config_.patch_size).clamp_(-1, 1);  // [B, 3, f, P, Q]
}

void WanVae::decode(const at::Tensor& latents, const OnChunk& on_chunk) {
  invariant(decoder_ != nullptr, "the decoder was asked for");
  const at::NoGradGuard no_grad;
  Shapes("WanVae").expect("latents", latents.sizes(), str("B ", config_.z_dim, " T H W"));
  const at::Tensor x =
      channels_innermost(latents.to(options_.device, options_.dtype));  // [B, T, H, W, z]
  const int64_t scale = config_.scale_factor_spatial;
  const wan_vae::Side whole{.height = x.size(2), .width = x.size(3)};
  const bool tiled =
      tiling_ && (whole.height > tiling_->height / scale || whole.width > tiling_->width / scale);
  if (!tiled) {
    stream_decode(x, [&](const at::Tensor& chunk) { on_chunk(finished(chunk)); });
    return;
  }
  const int64_t up = scale / config_.patch_size;
  const wan_vae::TileGrid grid =
      grid_of(whole, {.height = tiling_->height / scale, .width = tiling_->width / scale},
              {.height = tiling_->stride_height / scale, .width = tiling_->stride_width / scale},
              [up](int64_t size) { return size * up; });
  on_chunk(finished(wan_vae::run_tiled(x, grid, [this](const at::Tensor& tile) {
    std::vector<at::Tensor> chunks;
    stream_decode(tile, [&chunks](const at::Tensor& chunk) { chunks.push_back(chunk); });
    return at::cat(chunks, 1);  // [B, F, h, w, C]
  })));
}

at::Tensor WanVae::decode(const at::Tensor& latents) {
  std::vector<at::Tensor> chunks;
  decode(latents, [&chunks](const at::Tensor& frames) { chunks.push_back(frames); });
  return at::cat(chunks, 2);
}

// x [B, T, H, W, C] patches of all frames -> moments [B, T', h, w, 2 z].
at::Tensor WanVae::encode_patches(const at::Tensor& x, Pass pass) const {
  wan_vae::FeatureCache cache;
  const int64_t scale = config_.scale_factor_temporal, later = (x.size(1) - 1) / scale;
  std::vector<at::Tensor> moments;
  int64_t begin = 0, count = pass == Pass::kWhole ? 1 + later * scale : 1;
  while (begin + count <= x.size(1)) {
    cache.next_chunk();
    moments.push_back(encoder_->forward(x.narrow(1, begin, count), cache));
    begin += count;
    count = scale;
  }
  return (*quant_conv_)(at::cat(moments, 1));
}

LatentPosterior WanVae::encode(const at::Tensor& video) {
  const at::NoGradGuard no_grad;
  return posterior_of(video, Pass::kStreamed);
}

LatentPosterior WanVae::posterior(const at::Tensor& video) {
  return posterior_of(video, Pass::kWhole);
}

LatentPosterior WanVae::posterior_of(const at::Tensor& video, Pass pass) const {
  invariant(encoder_ != nullptr, "the encoder was asked for");
  const int64_t scale = config_.scale_factor_spatial, patch = config_.patch_size;
  Shapes("WanVae").expect("video", video.sizes(), "B 3 F P Q");
  if (video.size(3) % scale != 0 || video.size(4) % scale != 0 || video.size(2) == 0) {
    throw InvalidInput(Code::kBadTensor,
                       str("WanVae: video must have a frame and sides that are multiples of ",
                           scale, ", got ", format_shape(video.sizes())));
  }
  const at::Tensor x = wan_vae::patchify(video.to(options_.device, options_.dtype), patch);
  const wan_vae::Side whole{.height = x.size(2), .width = x.size(3)};
  // As diffusers: where the video is patched, the tile's pixels count as patches.
  const bool tiled = pass == Pass::kStreamed && tiling_ &&
                     (whole.height > tiling_->height || whole.width > tiling_->width);
  at::Tensor moments;  // [B, T, H, W, 2 z]
  if (!tiled) {
    moments = encode_patches(x, pass);
  } else {
    const int64_t down = scale / patch;
    const wan_vae::TileGrid grid =
        grid_of(whole, {.height = tiling_->height, .width = tiling_->width},
                {.height = tiling_->stride_height, .width = tiling_->stride_width},
                [down](int64_t size) { return size / down; });
    moments = wan_vae::run_tiled(
        x, grid, [&](const at::Tensor& tile) { return encode_patches(tile, pass); });
  }
  const auto parts = channels_second(moments).chunk(2, 1);
  return {.mean = parts[0], .logvar = parts[1].clamp(kLogvarMin, kLogvarMax)};
}

at::Tensor WanVae::per_channel(const std::vector<double>& values, const at::Tensor& like) const {
  return at::tensor(values, at::kFloat).to(like.options()).view({1, config_.z_dim, 1, 1, 1});
}

at::Tensor WanVae::normalise(const at::Tensor& latents) const {
  return (latents - per_channel(config_.latents_mean, latents)) /
         per_channel(config_.latents_std, latents);
}

at::Tensor WanVae::denormalise(const at::Tensor& latents, LatentForm form) const {
  const at::Tensor mean = per_channel(config_.latents_mean, latents);
  const at::Tensor std = per_channel(config_.latents_std, latents);
  return form == LatentForm::kDiffusers ? latents / std.reciprocal() + mean : latents * std + mean;
}

std::shared_ptr<WanVae> load_wan_vae(const Path& folder, const VaeOptions& options) {
  const Path path = folder / "config.json";
  layout::WanVaeConfig config = layout::read_wan_vae(read_json_file(path), path.string());
  const auto is_left_out = [parts = options.parts](const std::string& name) {
    const bool of_encoder = starts_with_any(name, {"encoder.", "quant_conv."});
    return (parts == VaeParts::kDecoder && of_encoder) ||
           (parts == VaeParts::kEncoder && !of_encoder);
  };
  const LoadOptions load{.is_ignored = is_left_out};
  const io::WeightFiles files = io::WeightFiles::open(folder);
  std::vector<layout::TensorSpec> wanted = layout::tensors_of(config);
  std::erase_if(wanted, [&](const layout::TensorSpec& tensor) { return is_left_out(tensor.name); });
  check_weights(wanted, files, load);
  auto vae = std::make_shared<WanVae>(std::move(config), options);
  load_weights(*vae, files, load);
  return vae;
}

}  // namespace fastwan::models
