#include "support/golden.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>

#include <ATen/ops/empty.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/safetensors.h"
#include "models/checkpoint.h"

namespace fastwan::testing {
namespace {

std::array<uint32_t, 2> key_of(std::string_view golden_case, std::string_view name) {
  const std::string hex = sha256_hex(str(golden_case, "/", name));
  std::array<uint32_t, 2> key{};
  for (std::size_t word = 0; word < 2; ++word) {
    for (std::size_t byte = 0; byte < 4; ++byte) {
      const std::string digits = hex.substr((word * 4 + byte) * 2, 2);
      key[word] |= static_cast<uint32_t>(std::stoul(digits, nullptr, 16)) << (8 * byte);
    }
  }
  return key;
}

struct Law {
  double mean, std;
};

Law weight_law(std::string_view name, at::IntArrayRef shape, int64_t d_kv) {
  if (name.ends_with(".gamma") || (name.ends_with(".weight") && shape.size() == 1)) {
    return {1.0, 0.3};
  }
  if (name.ends_with(".bias")) {
    const bool is_vae = starts_with_any(name, {"encoder.", "decoder.", "quant_conv", "post_quant"});
    return {0.0, is_vae ? 0.2 : 0.3};
  }
  if (name.ends_with("scale_shift_table")) {
    return {0.0, 0.3};
  }
  if (name == "shared.weight" || name == "encoder.embed_tokens.weight" ||
      name.ends_with("relative_attention_bias.weight")) {
    return {0.0, 1.0};
  }
  int64_t fan_in = 1;
  for (std::size_t i = 1; i < shape.size(); ++i) {
    fan_in *= shape[i];
  }
  double std = 1.0 / std::sqrt(static_cast<double>(fan_in));
  if (d_kv > 0 && name.ends_with("SelfAttention.q.weight")) {
    std *= 1.0 / std::sqrt(static_cast<double>(d_kv));
  }
  return {0.0, std};
}

}  // namespace

at::Tensor golden_tensor(std::string_view golden_case,
                         std::string_view name,
                         at::IntArrayRef shape,
                         double mean,
                         double std) {
  const double unit = std::sqrt(3.0) / 16777216.0;
  const std::array<uint32_t, 2> key = key_of(golden_case, name);
  at::Tensor out = at::empty(shape, at::kFloat);
  const std::span<float> values(out.mutable_data_ptr<float>(),
                                static_cast<std::size_t>(out.numel()));
  for (std::size_t i = 0; i < values.size(); ++i) {
    int64_t total = -(int64_t{1} << 25);
    for (const uint32_t word : philox4x32({static_cast<uint32_t>(i), 0, 0, 0}, key)) {
      total += word >> 8;
    }
    values[i] = static_cast<float>(mean + std * (static_cast<double>(total) * unit));
  }
  return out;
}

at::Tensor golden_weight(std::string_view golden_case,
                         std::string_view name,
                         at::IntArrayRef shape,
                         int64_t d_kv) {
  const Law law = weight_law(name, shape, d_kv);
  return golden_tensor(golden_case, name, shape, law.mean, law.std);
}

std::string fill_golden_weights(torch::nn::Module& model,
                                std::string_view golden_case,
                                int64_t d_kv) {
  std::map<std::string, at::Tensor> by_name;
  for (const auto& parameter : model.named_parameters()) {
    const at::Tensor value =
        golden_weight(golden_case, parameter.key(), parameter.value().sizes(), d_kv);
    parameter.value().detach().copy_(value);
    by_name.emplace(parameter.key(), value);
  }
  Sha256 digest;
  for (const auto& [name, value] : by_name) {
    digest.update(name);
    digest.update(std::span(static_cast<const std::byte*>(value.const_data_ptr()), value.nbytes()));
  }
  return digest.hex();
}

Golden::Golden(const std::string& area, const std::string& golden_case)
    : file_(str(FASTWAN_SOURCE_DIR, "/tests/golden/", area, "/", golden_case, ".safetensors")),
      manifest_(read_json_file(
          str(FASTWAN_SOURCE_DIR, "/tests/golden/", area, "/", golden_case, ".json"))) {}

at::Tensor Golden::tensor(const std::string& name) const {
  const io::SafetensorsFile file = io::SafetensorsFile::open(file_);
  const auto info = file.find(name);
  invariant(info.has_value(), name.c_str());
  return models::read_tensor(file, *info);
}

at::Tensor Golden::sample_of(const std::string& name, const at::Tensor& whole) const {
  const Json& entry = manifest_.at("sampled").at(name);
  invariant(entry.at("count").get<int64_t>() == whole.numel(), "the golden has as many elements");
  return whole.contiguous().view({-1}).slice(0, 0, whole.numel(),
                                             entry.at("stride").get<int64_t>());
}

}  // namespace fastwan::testing
