#include "data/rows.h"

#include <cmath>
#include <memory>
#include <utility>

#include <ATen/ops/aminmax.h>
#include <ATen/ops/from_blob.h>

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

// One pass: isfinite() writes four tensors of this size, a fifth of a row's time. NaN is the least
// and the greatest of what it is among.
bool is_finite(const at::Tensor& floats) {
  if (floats.numel() == 0) {
    return true;
  }
  const auto [least, greatest] = at::aminmax(floats);
  return std::isfinite(least.item<float>()) && std::isfinite(greatest.item<float>());
}

// Undefined where the row has none.
at::Tensor floats_of(io::Row& row, const char* column, int64_t dims, const std::string& place) {
  const auto found = row.find(column);
  auto* cell = found == row.end() ? nullptr : std::get_if<io::TensorCell>(&found->second);
  if (cell == nullptr) {
    return {};
  }
  const io::Dtype dtype = cell->dtype;
  const at::Tensor stored = to_tensor(std::move(*cell));
  if (stored.dim() != dims) {
    throw_bad(place, str("column ", column, " must have ", dims, " dimensions, its shape is ",
                         format_shape({stored.sizes().data(), stored.sizes().size()})));
  }
  if (!stored.is_floating_point()) {
    throw_bad(place, str("column ", column, " holds ", io::word_of(dtype),
                         ", wanted float32, float16 or bfloat16"));
  }
  at::Tensor floats = stored.to(at::kFloat);
  if (!is_finite(floats)) {
    throw_bad(place, str("column ", column, " holds NaN or infinity"));
  }
  return floats;
}

void check_trajectory(const Example& example, const std::string& place) {
  const at::Tensor& latents = example.trajectory;
  const at::Tensor& timesteps = example.trajectory_timesteps;
  if (latents.defined() != timesteps.defined()) {
    throw_bad(place, str("has trajectory_", latents.defined() ? "latents" : "timesteps",
                         " without trajectory_", latents.defined() ? "timesteps" : "latents"));
  }
  if (!latents.defined()) {
    return;
  }
  const int64_t states = latents.size(0);
  if (states < 2 || timesteps.size(0) != states) {
    throw_bad(place, str("a trajectory has at least one state and its end, each with a timestep; "
                         "got ",
                         states, " latents and ", timesteps.size(0), " timesteps"));
  }
  const auto timestep = [&timesteps](int64_t k) { return timesteps[k].item<double>(); };
  bool falls = timestep(0) <= 1000 && timestep(states - 1) == 0;
  for (int64_t k = 1; k < states; ++k) {
    falls = falls && timestep(k) < timestep(k - 1);
  }
  if (!falls) {
    throw_bad(place, str("trajectory_timesteps must fall from at most 1000 to 0, got ", timestep(0),
                         " to ", timestep(states - 1)));
  }
}

}  // namespace

const std::vector<io::Column>& training_columns() {
  static const std::vector<io::Column> columns = {
      {"id", io::ColumnKind::kText, false},
      {"vae_latent", io::ColumnKind::kTensor, false},
      {"trajectory_latents", io::ColumnKind::kTensor, false},
      {"trajectory_timesteps", io::ColumnKind::kTensor, false},
      {"text_embedding", io::ColumnKind::kTensor},
      {"caption", io::ColumnKind::kText, false}};
  return columns;
}

at::Tensor to_tensor(io::TensorCell cell) {
  const auto bytes = std::make_shared<std::string>(std::move(cell.bytes));
  at::Tensor tensor = at::from_blob(
      bytes->data(), cell.shape, [bytes](void*) {}, models::scalar_type_of(cell.dtype));
  invariant(tensor.nbytes() == bytes->size(), "a cell has the bytes of its shape and type");
  return tensor;
}

io::TensorCell to_cell(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.cpu().contiguous();
  return {models::dtype_of(dense.scalar_type()), dense.sizes().vec(),
          std::string(static_cast<const char*>(dense.const_data_ptr()), dense.nbytes())};
}

Example example_of(io::Row row, const std::string& place) {
  Example example{.id = text_of(row, "id"),
                  .caption = text_of(row, "caption"),
                  .latents = floats_of(row, "vae_latent", 4, place),
                  .trajectory = floats_of(row, "trajectory_latents", 5, place),
                  .trajectory_timesteps = floats_of(row, "trajectory_timesteps", 1, place),
                  .text = floats_of(row, "text_embedding", 2, place)};
  if (!example.text.defined()) {
    throw_bad(place, "has no text embedding");
  }
  check_trajectory(example, place);
  return example;
}

}  // namespace fastwan::data
