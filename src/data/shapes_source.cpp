#include "data/shapes_source.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"

namespace fastwan::data {

at::Tensor pixels_of(const shapes::Clip& clip) {
  const at::Tensor bytes =
      at::from_blob(const_cast<uint8_t*>(clip.rgb.data()),  // only read
                    {clip.format.frames, clip.format.height, clip.format.width, 3}, at::kByte);
  return bytes.permute({3, 0, 1, 2}).to(at::kFloat).div_(127.5).sub_(1).contiguous();  // [3, F, P,
                                                                                       // Q]
}

ShapesSource::ShapesSource(const shapes::Format& format,
                           uint64_t seed,
                           const shapes::IndexRange& range)
    : format_(format), seed_(seed), range_(range) {
  shapes::check_format(format);
  if (range.count < 1 || range.first < 0 || range.first > shapes::kNumIndices - range.count) {
    throw InvalidInput(Code::kBadValue, str("procedural clips lie in [0, ", shapes::kNumIndices,
                                            "), asked for ", range.count, " from ", range.first));
  }
}

shapes::Clip ShapesSource::clip(int64_t index) const {
  invariant(index >= 0 && index < size(), "an example's index is inside its source");
  return shapes::render(format_, seed_, range_.first + index);
}

Example ShapesSource::get(int64_t index) const {
  const shapes::Clip drawn = clip(index);
  return {.id = str("shapes-", seed_, "-", range_.first + index),
          .caption = drawn.scene.caption,
          .latents = pixels_of(drawn),
          .text = at::empty({0, 1})};
}

std::string ShapesSource::digest() const {
  const shapes::Clip first = clip(0);
  Sha256 digest;
  digest.update(str("shapes ", format_.frames, " ", format_.height, " ", format_.width, " ", seed_,
                    " ", range_.first, " ", range_.count, " ", first.scene.caption, "\n"));
  digest.update(std::as_bytes(std::span(first.rgb)));
  return digest.hex();
}

}  // namespace fastwan::data
