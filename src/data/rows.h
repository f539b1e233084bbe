// Columns of a stored row to an example and back.
#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "data/source.h"
#include "io/parquet.h"

namespace fastwan::data {

// What training reads of the t2v, i2v and text_only schemas.
const std::vector<io::Column>& training_columns();

// A copy, in the stored type.
at::Tensor to_tensor(const io::TensorCell& cell);
io::TensorCell to_cell(const at::Tensor& tensor);

// `place` names the row in messages. InvalidInput bad_dataset: latents that are not [C, T, H, W],
// text that is missing or not [L, D], a type that is not floating, NaN or infinity.
Example example_of(const io::Row& row, const std::string& place);

}  // namespace fastwan::data
