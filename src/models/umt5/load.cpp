#include <ATen/ops/equal.h>

#include "base/check.h"
#include "base/json.h"
#include "base/text.h"
#include "models/checkpoint.h"
#include "models/umt5.h"

namespace fastwan::models {
namespace {

constexpr const char* kEmbedding = "shared.weight";
constexpr const char* kEmbeddingAlias = "encoder.embed_tokens.weight";

// The type that all tensors of the files have, else fp32.
at::ScalarType stored_type(const io::WeightFiles& files) {
  std::optional<at::ScalarType> common;
  for (const io::SafetensorsFile& file : files.files()) {
    for (const io::TensorInfo& tensor : file.tensors()) {
      const at::ScalarType type = scalar_type_of(tensor.dtype);
      if (common && *common != type) {
        return at::kFloat;
      }
      common = type;
    }
  }
  return common.value_or(at::kFloat);
}

// Both names are there: they must hold the same numbers.
void check_alias(const Umt5& model, const io::WeightFiles& files) {
  const at::Tensor embedding = model.named_parameters()[kEmbedding].view({-1});
  const io::WeightFiles::Entry alias = *files.find(kEmbeddingAlias);
  bool is_equal = alias.tensor->num_elements() == embedding.numel();
  if (is_equal) {
    read_in_parts(alias, [&](int64_t first, const at::Tensor& part) {
      const at::Tensor ours = embedding.narrow(0, first, part.numel());
      is_equal = is_equal && at::equal(part.to(ours.device(), ours.scalar_type()), ours);
    });
  }
  if (!is_equal) {
    throw InvalidInput(
        Code::kBadModel,
        str(files.where().string(), ": ", kEmbedding, " and ", kEmbeddingAlias,
            " are two names of one tensor, but their values differ. Which is right? Remove the "
            "other"));
  }
}

}  // namespace

std::shared_ptr<Umt5> load_umt5(const Path& folder, const Umt5Options& options) {
  const Path config_file = folder / "config.json";
  const layout::Umt5Config config =
      layout::read_umt5(read_json_file(config_file.string()), config_file.string());
  const io::WeightFiles files = io::WeightFiles::open(folder);
  const bool has_both =
      files.find(kEmbedding).has_value() && files.find(kEmbeddingAlias).has_value();
  const LoadOptions load{
      .rename =
          [](const std::string& name) {
            return name == kEmbeddingAlias ? std::string(kEmbedding) : name;
          },
      .is_ignored =
          [has_both](const std::string& name) { return has_both && name == kEmbeddingAlias; }};
  check_weights(layout::tensors_of(config), files, load);
  auto model = std::make_shared<Umt5>(config, options.held.value_or(stored_type(files)), options);
  load_weights(*model, files, load);
  if (has_both) {
    check_alias(*model, files);
  }
  return model;
}

}  // namespace fastwan::models
