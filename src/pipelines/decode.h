// From latents to frames, and from frames to the files that want them.
//
// Dims    C latent channels, T H W latent frames, height and width; F P Q pixel frames, height and
//         width
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/files.h"
#include "base/watch.h"
#include "io/contact_sheet.h"
#include "io/video.h"
#include "pipelines/components.h"

namespace fastwan::pipelines {

// Decoder output [1, 3, f, P, Q] in [-1, 1] -> [f, 3, P, Q] in [0, 1], in the same type.
at::Tensor to_unit_range(const at::Tensor& frames);
// [f, 3, P, Q] in [0, 1] -> [f, P, Q, 3] bytes, truncated as the references do.
at::Tensor to_rgb(const at::Tensor& frames);

// Where one video's frames go.
struct FrameTargets {
  std::unique_ptr<io::VideoSink> video;
  std::optional<io::ContactSheet> sheet;
  bool keep = false;             // keep the frames for a safetensors file
  std::vector<at::Tensor> kept;  // [f, 3, P, Q] fp32, in order
  std::function<void(const at::Tensor& frames)> on_frames;  // [f, 3, P, Q]; may be empty
};

// `frames` [F, 3, P, Q] fp32 in [0, 1] as safetensors; chunks of frames in order.
void save_frames(const Path& to, const std::vector<at::Tensor>& chunks);

// Decodes normalised latents [1, C, T, H, W] chunk by chunk into the targets. InvalidInput
// non_finite; Stopped between chunks.
void decode(const at::Tensor& latents,
            Components& components,
            FrameTargets& targets,
            const Watch& watch);

}  // namespace fastwan::pipelines
