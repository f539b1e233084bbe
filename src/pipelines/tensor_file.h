// Tensors that a user hands over in safetensors files: noise, embeddings, latents.
#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include "io/safetensors.h"

namespace fastwan::pipelines {

// The tensor `name` as fp32 on the CPU. `pattern` is a Shapes pattern ("1 4 T H W"). InvalidInput
// bad_tensor (missing, not floating, another shape), non_finite, naming the file.
at::Tensor read_named(const io::SafetensorsFile& file,
                      const std::string& name,
                      const std::string& pattern);

}  // namespace fastwan::pipelines
