// The feature net of procedural clips: a small 3-D CNN whose pooled state serves as features for
// Frechet distance and its like, trained to name the clip's six attributes.
//
//   video [B, 3, F, P, Q] in [-1, 1]
//     -> four convolutions 3x3x3, padding 1, each followed by SiLU:
//        3-16 stride (1, 2, 2), 16-32, 32-64, 64-64 stride (2, 2, 2)
//     -> mean over time and space: features [B, 64]
//     -> six linear heads of 8, 4, 8, 2, 2, 4 classes (colour, shape, direction, size, speed,
//        background)
//
// 183,004 parameters. Frames and sizes are free.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "base/files.h"
#include "models/parameters.h"

namespace fastwan::models {

class ShapeFeatures final : public torch::nn::Module {
 public:
  static constexpr int64_t kWidth = 64;
  static constexpr std::array<int64_t, 6> kClasses = {8, 4, 8, 2, 2, 4};
  static constexpr std::array<const char*, 6> kHeads = {"colour", "shape", "direction",
                                                        "size",   "speed", "background"};

  // Parameters conv.<i>.{weight,bias} and heads.<name>.{weight,bias} are allocated, not filled, and
  // ask for no gradient; a trainer turns that on.
  explicit ShapeFeatures(const at::TensorOptions& options = {});

  // Fan-in scaled Gaussian weights (variance 2 / fan-in before SiLU, 1 / fan-in of heads), zero
  // biases: Philox stream `init`, slot = the parameter's place. The same numbers everywhere.
  void initialise(uint64_t seed);

  at::Tensor features(const at::Tensor& video) const;                // [B, 64]
  std::vector<at::Tensor> logits(const at::Tensor& features) const;  // six of [B, classes]

 private:
  struct Conv {
    at::Tensor weight, bias;
  };
  std::array<Conv, 4> convs_;
  std::vector<Linear> heads_;
};

// A safetensors file with the parameters under their names.
std::shared_ptr<ShapeFeatures> load_shape_features(const Path& file,
                                                   const at::TensorOptions& options = {});
void save_shape_features(const Path& file, const ShapeFeatures& net);

}  // namespace fastwan::models
