#include "data/shapes_source.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/stack.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"

namespace fastwan::data {

at::Tensor bytes_of(const shapes::Clip& clip) {
  const at::Tensor bytes =
      at::from_blob(const_cast<uint8_t*>(clip.rgb.data()),  // only read
                    {clip.format.frames, clip.format.height, clip.format.width, 3}, at::kByte);
  return bytes.permute({3, 0, 1, 2}).clone(at::MemoryFormat::Contiguous);  // [3, F, P, Q]
}

at::Tensor as_pixels(const at::Tensor& bytes) {
  return bytes.to(at::kFloat).div_(127.5).sub_(1);
}

ShapesSource::ShapesSource(const shapes::Format& format,
                           uint64_t seed,
                           const shapes::IndexRange& range,
                           ShapesWindow window)
    : format_(format), seed_(seed), range_(range), window_(window) {
  shapes::check_format(format);
  if (range.count < 1 || range.first < 0 || range.first > shapes::kNumIndices - range.count) {
    throw InvalidInput(Code::kBadValue, str("procedural clips lie in [0, ", shapes::kNumIndices,
                                            "), asked for ", range.count, " from ", range.first));
  }
  if (window.frames > format.frames) {
    throw InvalidInput(Code::kBadValue, str("a window of ", window.frames,
                                            " frames is longer than a clip of ", format.frames));
  }
}

shapes::Scene ShapesSource::scene(int64_t index) const {
  invariant(index >= 0 && index < size(), "an example's index is inside its source");
  return shapes::draw_scene(format_, seed_, range_.first + index);
}

shapes::Clip ShapesSource::clip(int64_t index) const {
  return shapes::render(format_, scene(index));
}

Example ShapesSource::get(int64_t index) const {
  const int64_t number = range_.first + index;
  const shapes::Scene drawn = scene(index);
  Example example{.id = str("shapes-", seed_, "-", number),
                  .caption = drawn.caption,
                  .latents = {},
                  .text = at::empty({0, 1})};
  if (window_.frames == 0) {
    return example;
  }
  example.latents = bytes_of(shapes::render(format_, drawn));  // [3, F, P, Q]
  if (window_.frames > 0) {
    const auto places = static_cast<uint64_t>(format_.frames - window_.frames + 1);
    const auto first =
        static_cast<int64_t>(shapes::splitmix64(static_cast<uint64_t>(number)) % places);
    example.latents =
        example.latents.narrow(1, first, window_.frames).contiguous();  // [3, f, P, Q]
  }
  return example;
}

std::string ShapesSource::digest() const {
  const shapes::Clip first = clip(0);
  Sha256 digest;
  digest.update(str("shapes ", format_.frames, " ", format_.height, " ", format_.width, " ", seed_,
                    " ", range_.first, " ", range_.count, " ", window_.frames, " ",
                    first.scene.caption, "\n"));
  digest.update(std::as_bytes(std::span(first.rgb)));
  return digest.hex();
}

at::Tensor drawn_on_all_threads(int64_t count, const std::function<at::Tensor(int64_t)>& draw) {
  std::vector<at::Tensor> drawn(static_cast<std::size_t>(count));
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      drawn[static_cast<std::size_t>(i)] = draw(i);
    }
  });
  return at::stack(drawn);
}

at::Tensor render_batch(const ShapesSource& source,
                        int64_t first,
                        int64_t count,
                        std::vector<Example>* examples) {
  return drawn_on_all_threads(count, [&](int64_t i) {
    Example example = source.get(first + i);
    at::Tensor bytes = std::move(example.latents);
    if (examples != nullptr) {
      (*examples)[static_cast<std::size_t>(first + i)] = {.id = std::move(example.id),
                                                          .caption = std::move(example.caption)};
    }
    return bytes;
  });
}

}  // namespace fastwan::data
