#include "data/frames.h"

#include <algorithm>
#include <cmath>

#include <ATen/ops/_upsample_bilinear2d_aa.h>
#include <ATen/ops/from_blob.h>

#include "base/check.h"
#include "base/rng.h"
#include "base/text.h"

namespace fastwan::data {
namespace {

constexpr int64_t kLatentStride = 4;  // frames of a latent frame after the first

// k * interval below num_frames, each rounded down.
std::vector<int64_t> resample(int64_t num_frames, double interval) {
  const auto count = static_cast<int64_t>(std::ceil(static_cast<double>(num_frames) / interval));
  std::vector<int64_t> frames;
  for (int64_t k = 0; k < count; ++k) {
    const auto frame = static_cast<int64_t>(static_cast<double>(k) * interval);
    frames.push_back(std::min(frame, num_frames - 1));
  }
  return frames;
}

// What is shown at k / rate, of frames that are shown from `times` on.
std::vector<int64_t> resample(std::span<const double> times, double seconds, double rate) {
  constexpr double kTick = 1e-3;  // matroska's: a frame may be written down so much too late
  std::vector<int64_t> frames;
  for (int64_t k = 0; static_cast<double>(k) / rate < seconds; ++k) {
    const auto after =
        std::upper_bound(times.begin(), times.end(), static_cast<double>(k) / rate + kTick);
    frames.push_back(after - times.begin() - 1);
  }
  return frames;
}

}  // namespace

FrameChoice choose_frames(int64_t num_frames,
                          double fps,
                          const ClipRule& rule,
                          int64_t number,
                          std::span<const double> times) {
  const ClipShape& shape = rule.shape;
  const double seconds = static_cast<double>(num_frames) / fps;
  const double clip_seconds =
      static_cast<double>(shape.num_frames) / shape.train_fps * rule.speed_factor;
  if (seconds > rule.length_tolerance * clip_seconds) {
    return {{}, "too long"};
  }
  std::vector<int64_t> frames = times.empty() ? resample(num_frames, fps / shape.train_fps)
                                              : resample(times, seconds, shape.train_fps);
  const auto total = static_cast<int64_t>(frames.size());
  const Philox random(rule.seed, Stream::kData, /*step=*/0, /*slot=*/number);
  if (total < shape.num_frames) {
    if (random.uniform(0) < rule.drop_short_ratio) {
      return {{}, "too short"};
    }
    frames.resize(static_cast<std::size_t>((total - 1) / kLatentStride * kLatentStride + 1));
    return {std::move(frames), ""};
  }
  int64_t first = 0;
  if (rule.random_window) {
    const int64_t last_start = std::max<int64_t>(0, total - shape.num_frames - 1);
    first = std::min(last_start,
                     static_cast<int64_t>(random.uniform(1) * static_cast<double>(last_start + 1)));
  }
  const auto begin = frames.begin() + static_cast<std::ptrdiff_t>(first);
  return {{begin, begin + static_cast<std::ptrdiff_t>(shape.num_frames)}, ""};
}

CropBox centre_crop(io::FrameSize from, int64_t height, int64_t width) {
  const auto h = static_cast<double>(from.height);
  const auto w = static_cast<double>(from.width);
  const double aspect = static_cast<double>(height) / static_cast<double>(width);
  CropBox box{0, 0, from.height, from.width};
  if (h / w > aspect) {
    box.height = std::max<int64_t>(1, static_cast<int64_t>(w * aspect));
  } else {
    box.width = std::max<int64_t>(1, static_cast<int64_t>(h / aspect));
  }
  // Python's round(): halves go to even.
  box.top = static_cast<int64_t>(std::nearbyint(static_cast<double>(from.height - box.height) / 2));
  box.left = static_cast<int64_t>(std::nearbyint(static_cast<double>(from.width - box.width) / 2));
  return box;
}

at::Tensor fit_frame(std::span<const uint8_t> rgb, io::FrameSize size, const ClipShape& shape) {
  invariant(static_cast<int64_t>(rgb.size()) == size.width * size.height * 3,
            "a frame has width * height * 3 bytes");
  const CropBox box = centre_crop(size, shape.height, shape.width);
  // from_blob takes what it does not change; the copy ends the borrowing.
  const at::Tensor frame =
      at::from_blob(const_cast<uint8_t*>(rgb.data()), {size.height, size.width, 3}, at::kByte)
          .narrow(0, box.top, box.height)
          .narrow(1, box.left, box.width)
          .permute({2, 0, 1})
          .unsqueeze(0)
          .contiguous();  // [1, 3, h, w]
  return at::_upsample_bilinear2d_aa(frame, {shape.height, shape.width}, /*align_corners=*/true)
      .squeeze(0);  // [3, height, width]
}

at::Tensor to_video(const at::Tensor& frames) {
  const at::Tensor scaled = (frames.to(at::kFloat) / 255.0 * 2.0 - 1.0).clamp(-1.0, 1.0);
  return scaled.permute({1, 0, 2, 3}).unsqueeze(0).contiguous();  // [1, 3, F, P, Q]
}

}  // namespace fastwan::data
