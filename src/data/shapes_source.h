// Procedural clips as examples of pixels: what the VAE, the text heads and the feature net train
// on.
//
// Dims  F frames, P height, Q width in pixels
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/shapes.h"
#include "data/source.h"

namespace fastwan::data {

// A clip's bytes, channels first: [3, F, P, Q].
at::Tensor bytes_of(const shapes::Clip& clip);
// Bytes as networks take them: fp32 in [-1, 1]. Where they are needed: bytes travel four times as
// fast.
at::Tensor as_pixels(const at::Tensor& bytes);

// Which frames of a clip an example holds.
struct ShapesWindow {
  static constexpr int64_t kAll = -1;
  // Consecutive ones, where in the clip depends on its index alone; 0: captions without pixels,
  // which are not rendered at all.
  int64_t frames = kAll;
};

class ShapesSource final : public Source {
 public:
  // Clips range.first ... of the seed, range.count in all. InvalidInput bad_value: a range outside
  // [0, shapes::kNumIndices), a format that is too small, a window longer than a clip.
  ShapesSource(const shapes::Format& format,
               uint64_t seed,
               const shapes::IndexRange& range,
               ShapesWindow window = {});

  int64_t size() const override { return range_.count; }
  // latents: the window's bytes [3, f, P, Q], undefined without; text: none, [0, 1].
  Example get(int64_t index) const override;
  // The format, the seed, the range, the window and the bytes of the first clip.
  std::string digest() const override;

  shapes::Scene scene(int64_t index) const;
  shapes::Clip clip(int64_t index) const;

 private:
  shapes::Format format_;
  uint64_t seed_;
  shapes::IndexRange range_;
  ShapesWindow window_;
};

// What `draw` makes of 0 .. count - 1, stacked; called on all threads.
at::Tensor drawn_on_all_threads(int64_t count, const std::function<at::Tensor(int64_t)>& draw);

// The bytes of whole examples [first, first + count), rendered on all threads:
// [count, 3, F, P, Q]. Ids and captions go to `examples` at their index, where it is given.
at::Tensor render_batch(const ShapesSource& source,
                        int64_t first,
                        int64_t count,
                        std::vector<Example>* examples = nullptr);

}  // namespace fastwan::data
