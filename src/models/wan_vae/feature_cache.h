// What the causal convolutions of an encoder or a decoder remember from chunk to chunk.
#pragma once

#include <cstddef>
#include <deque>

#include <ATen/core/Tensor.h>

namespace fastwan::models::wan_vae {

inline constexpr int64_t kHistory = 2;  // frames: a kernel of 3 reaches two back

// One slot for each convolution, in the order in which a chunk meets them; a video starts empty.
class FeatureCache {
 public:
  void next_chunk() {
    next_ = 0;
    ++chunks_begun_;
  }
  bool is_first_chunk() const { return chunks_begun_ == 1; }

  // For layers that take a chunk in pieces: each piece starts where the first did.
  std::size_t place() const { return next_; }
  void go_back_to(std::size_t place) { next_ = place; }

  // The slot of the convolution that asks; undefined until it has stored something. Stays valid.
  at::Tensor& slot() {
    if (next_ == slots_.size()) {
      slots_.emplace_back();
    }
    return slots_[next_++];  // [B, 1 or 2, H, W, C]
  }

 private:
  std::deque<at::Tensor> slots_;
  std::size_t next_ = 0;
  int64_t chunks_begun_ = 0;
};

}  // namespace fastwan::models::wan_vae
