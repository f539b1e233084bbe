// Weights from files into a model's parameters: a join on names with two lists of complaints.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "io/safetensors.h"
#include "models/layout/tensors.h"

namespace fastwan::models {

struct LoadOptions {
  // A name in the file to a parameter's name; files in Diffusers layout need none.
  std::function<std::string(const std::string&)> rename;
  // Parameters that may be missing are left as they are (the caller has filled them).
  std::function<bool(const std::string&)> may_be_missing;
  // Names in the file that are known and not wanted.
  std::function<bool(const std::string&)> is_ignored;
};

// Names and shapes alone, before any memory for weights exists: a config of hostile sizes ends
// here. Errors: missing_weights, listing missing, unexpected and mis-shaped names (ten of each and
// the counts).
void check_weights(const std::vector<layout::TensorSpec>& wanted,
                   const io::WeightFiles& files,
                   const LoadOptions& options = {});

// Fills the parameters of `model`, which are allocated in their final dtype and device, not
// initialised. Bytes go straight into place where the dtype fits and the parameter lies in host
// memory, otherwise through a staging buffer of 16 MiB; each byte is read once, and checked to be
// finite. Errors: those of check_weights; non_finite_weights; file_changed.
void load_weights(torch::nn::Module& model,
                  const io::WeightFiles& files,
                  const LoadOptions& options = {});

at::ScalarType scalar_type_of(io::Dtype dtype);
io::Dtype dtype_of(at::ScalarType type);

// A stored tensor piece by piece in order, at most 16 MiB each, flat and in its stored type; a part
// is overwritten by the next. Each is checked to be finite: non_finite_weights.
void read_in_parts(const io::WeightFiles::Entry& entry,
                   const std::function<void(int64_t first, const at::Tensor& part)>& take);

// One tensor of a file as it is stored.
at::Tensor read_tensor(const io::SafetensorsFile& file, const io::TensorInfo& tensor);

struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};
// Durable; tensors are made contiguous on the host.
void save_tensors(const Path& to,
                  const std::vector<NamedTensor>& tensors,
                  const std::map<std::string, std::string>& metadata = {});

}  // namespace fastwan::models
