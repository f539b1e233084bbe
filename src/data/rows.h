// Columns of a stored row to an example and back.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/source.h"
#include "io/parquet.h"

namespace fastwan::data {

// What training reads of the schemas t2v, i2v, text_only and ode_trajectory_text_only.
const std::vector<io::Column>& training_columns();

// In the stored type; the tensor takes the cell's bytes over.
at::Tensor to_tensor(io::TensorCell cell);
io::TensorCell to_cell(const at::Tensor& tensor);

// `place` names the row in messages. InvalidInput bad_dataset: latents that are not [C, T, H, W],
// text that is missing or not [L, D], a trajectory
// that is not [K + 1, C, T, H, W] with timesteps [K + 1] that fall from at most 1000 to 0, a type
// that is not floating, NaN or infinity.
Example example_of(io::Row row, const std::string& place);

}  // namespace fastwan::data
