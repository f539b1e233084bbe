// A transformer whose blocks wait in pinned host memory: each is copied to the device on a side
// stream while the one before it computes. Two blocks are on the device at a time.
#pragma once

#include <memory>

#include "models/wan_dit.h"

namespace fastwan::pipelines {

class LayerStream {
 public:
  // `model` lies on the CPU; everything but its blocks moves to `device`.
  LayerStream(std::shared_ptr<models::WanDit> model, at::Device device);
  ~LayerStream();
  LayerStream(const LayerStream&) = delete;
  LayerStream& operator=(const LayerStream&) = delete;

  // WanDit::forward, bit for bit: only where the weights lie differs.
  at::Tensor forward(const at::Tensor& latents,
                     const at::Tensor& timestep,
                     const at::Tensor& text,
                     const ops::AttentionPlan& plan);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastwan::pipelines
