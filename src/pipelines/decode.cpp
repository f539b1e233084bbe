#include "pipelines/decode.h"

#include <ATen/ops/clamp.h>
#include <ATen/ops/isfinite.h>

#include "base/check.h"
#include "io/safetensors.h"

namespace fastwan::pipelines {
namespace {

std::span<const uint8_t> bytes_of(const at::Tensor& frame) {
  return {frame.const_data_ptr<uint8_t>(), static_cast<std::size_t>(frame.numel())};
}

void hand_over(const at::Tensor& chunk, FrameTargets& targets) {
  const at::Tensor frames = to_unit_range(chunk);  // [f, 3, P, Q]
  if (targets.on_frames) {
    targets.on_frames(frames);
  }
  if (targets.keep) {
    targets.kept.push_back(frames.cpu().to(at::kFloat).contiguous());
  }
  // Bytes are made where the frames are: a GPU does it at once, and a quarter of the floats
  // travels.
  const at::Tensor rgb = to_rgb(frames).cpu();  // [f, P, Q, 3]
  for (int64_t i = 0; i < rgb.size(0); ++i) {
    if (targets.video) {
      targets.video->write_frame(bytes_of(rgb[i]));
    }
    if (targets.sheet) {
      targets.sheet->add(bytes_of(rgb[i]));
    }
  }
}

}  // namespace

at::Tensor to_unit_range(const at::Tensor& frames) {
  return at::clamp(frames * 0.5 + 0.5, 0.0, 1.0).squeeze(0).transpose(0, 1);
}

at::Tensor to_rgb(const at::Tensor& frames) {
  return (frames.to(at::kFloat) * 255.0).to(at::kByte).permute({0, 2, 3, 1}).contiguous();
}

void save_frames(const Path& to, const std::vector<at::Tensor>& chunks) {
  invariant(!chunks.empty(), "a video has a frame");
  std::vector<int64_t> shape = chunks.front().sizes().vec();
  shape[0] = 0;
  for (const at::Tensor& chunk : chunks) {
    shape[0] += chunk.size(0);
  }
  io::SafetensorsWriter::write(
      to, {{.name = "frames", .dtype = io::Dtype::kF32, .shape = shape}}, {},
      [&chunks](const io::TensorInfo&, FileSink& sink) {
        for (const at::Tensor& chunk : chunks) {
          sink.write({static_cast<const std::byte*>(chunk.const_data_ptr()), chunk.nbytes()});
        }
      });
}

void decode(const at::Tensor& latents,
            Components& components,
            FrameTargets& targets,
            const Watch& watch) {
  models::WanVae& vae = components.vae(watch);
  const Precisions& types = components.options().types;
  const int64_t total = latents.size(2);
  // Diffusers scales in the VAE's type, FastVideo in the latents' own.
  const at::Tensor scaled = types.latent_form == models::LatentForm::kDiffusers
                                ? vae.denormalise(latents.to(types.vae), types.latent_form)
                                : vae.denormalise(latents, types.latent_form).to(types.vae);
  int64_t done = 0;
  watch.report("decode", 0, total);
  vae.decode(scaled, [&](const at::Tensor& chunk) {
    if (!at::isfinite(chunk).all().item<bool>()) {
      throw InvalidInput(
          Code::kNonFinite,
          "the VAE gave NaN or infinity. Are its weights whole? --vae-precision fp32 "
          "tells overflow from damage");
    }
    // FastVideo widens before it scales, diffusers after: seen in bf16 alone.
    hand_over(types.latent_form == models::LatentForm::kFastVideo ? chunk.to(at::kFloat) : chunk,
              targets);
    // With tiles all frames come at once.
    done = chunk.size(2) > vae.config().scale_factor_temporal ? total : done + 1;
    watch.report("decode", done, total);
    watch.throw_if_stopped();
  });
}

}  // namespace fastwan::pipelines
