// Procedural clips as examples of pixels: what the VAE, the text heads and the feature net train
// on.
//
// Dims  F frames, P height, Q width in pixels
#pragma once

#include <string>

#include "data/shapes.h"
#include "data/source.h"

namespace fastwan::data {

// A clip's bytes as networks take them: [3, F, P, Q] fp32 in [-1, 1].
at::Tensor pixels_of(const shapes::Clip& clip);

class ShapesSource final : public Source {
 public:
  // Clips range.first ... of the seed, range.count in all. InvalidInput bad_value: a range outside
  // [0, shapes::kNumIndices), a format that is too small.
  ShapesSource(const shapes::Format& format, uint64_t seed, const shapes::IndexRange& range);

  int64_t size() const override { return range_.count; }
  // latents: the pixels [3, F, P, Q] in [-1, 1]; text: none, [0, 1].
  Example get(int64_t index) const override;
  // The format, the seed, the range and the bytes of the first clip.
  std::string digest() const override;

  shapes::Clip clip(int64_t index) const;

 private:
  shapes::Format format_;
  uint64_t seed_;
  shapes::IndexRange range_;
};

}  // namespace fastwan::data
