#include "data/rows.h"

#include <cstring>

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include "base/check.h"
#include "base/shape.h"
#include "base/text.h"
#include "models/checkpoint.h"

namespace fastwan::data {
namespace {

[[noreturn]] void throw_bad(const std::string& place, const std::string& what) {
  throw InvalidInput(Code::kBadDataset, str(place, ": ", what));
}

std::string text_of(const io::Row& row, const char* column) {
  const auto found = row.find(column);
  const auto* text = found == row.end() ? nullptr : std::get_if<std::string>(&found->second);
  return text == nullptr ? "" : *text;
}

// Undefined where the row has none.
at::Tensor floats_of(const io::Row& row,
                     const char* column,
                     int64_t dims,
                     const std::string& place) {
  const auto found = row.find(column);
  const auto* cell = found == row.end() ? nullptr : std::get_if<io::TensorCell>(&found->second);
  if (cell == nullptr) {
    return {};
  }
  const at::Tensor stored = to_tensor(*cell);
  if (stored.dim() != dims) {
    throw_bad(place, str("column ", column, " must have ", dims, " dimensions, its shape is ",
                         format_shape(cell->shape)));
  }
  if (!stored.is_floating_point()) {
    throw_bad(place, str("column ", column, " holds ", io::word_of(cell->dtype),
                         ", wanted float32, float16 or bfloat16"));
  }
  if (!at::isfinite(stored).all().item<bool>()) {
    throw_bad(place, str("column ", column, " holds NaN or infinity"));
  }
  return stored.to(at::kFloat);
}

}  // namespace

const std::vector<io::Column>& training_columns() {
  static const std::vector<io::Column> columns = {{"id", io::ColumnKind::kText, false},
                                                  {"vae_latent", io::ColumnKind::kTensor, false},
                                                  {"text_embedding", io::ColumnKind::kTensor},
                                                  {"caption", io::ColumnKind::kText, false}};
  return columns;
}

at::Tensor to_tensor(const io::TensorCell& cell) {
  at::Tensor tensor = at::empty(cell.shape, models::scalar_type_of(cell.dtype));
  invariant(tensor.nbytes() == cell.bytes.size(), "a cell has the bytes of its shape and type");
  std::memcpy(tensor.mutable_data_ptr(), cell.bytes.data(), cell.bytes.size());
  return tensor;
}

io::TensorCell to_cell(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.cpu().contiguous();
  return {models::dtype_of(dense.scalar_type()), dense.sizes().vec(),
          std::string(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes())};
}

Example example_of(const io::Row& row, const std::string& place) {
  Example example{.id = text_of(row, "id"),
                  .caption = text_of(row, "caption"),
                  .latents = floats_of(row, "vae_latent", 4, place),
                  .text = floats_of(row, "text_embedding", 2, place)};
  if (!example.text.defined()) {
    throw_bad(place, "has no text embedding");
  }
  return example;
}

}  // namespace fastwan::data
