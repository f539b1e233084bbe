#include "models/layout/configs.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/text.h"
#include "models/layout/published.h"

namespace fastwan::layout {
namespace {

// A config of hostile sizes must not reach an allocation.
constexpr int64_t kMaxSize = 1 << 20;
constexpr int64_t kMaxLayers = 1024;

int64_t size_of(const Json& json,
                const char* key,
                const std::string& origin,
                int64_t largest = kMaxSize) {
  const auto value = json_get<int64_t>(json, key, origin);
  if (value < 1 || value > largest) {
    throw InvalidInput(Code::kBadModel,
                       str(origin, ": ", key, " must be from 1 to ", largest, ", got ", value));
  }
  return value;
}

int64_t size_or(const Json& json, const char* key, int64_t fallback, const std::string& origin) {
  return json.contains(key) && !json.at(key).is_null() ? size_of(json, key, origin) : fallback;
}

void refuse_if_set(const Json& json, const char* key, const std::string& origin) {
  if (json.contains(key) && !json.at(key).is_null()) {
    throw InvalidInput(Code::kUnsupportedModel,
                       str(origin, ": ", key, " is set: ", kNoImageBranch));
  }
}

void expect_class(const Json& json, const std::string& origin, const char* wanted) {
  const auto name = json_get_or<std::string>(json, "_class_name", wanted, origin);
  if (name != wanted) {
    throw InvalidInput(Code::kUnsupportedModel,
                       str(origin, ": must describe a ", wanted, ", got ", escape_control(name)));
  }
}

// The original Wan transformer's config: other names, fixed head size.
WanDitConfig read_original_wan(const Json& json, const std::string& origin) {
  const auto type = json_get_or<std::string>(json, "model_type", "t2v", origin);
  if (type == "i2v" || type == "flf2v") {
    throw InvalidInput(Code::kUnsupportedModel,
                       str(origin, ": model_type is ", type, ": ", kNoImageBranch));
  }
  WanDitConfig config;
  config.num_heads = size_of(json, "num_heads", origin);
  const int64_t dim = size_of(json, "dim", origin);
  if (dim % config.num_heads != 0) {
    throw InvalidInput(Code::kBadModel, str(origin, ": dim ", dim, " is no multiple of num_heads ",
                                            config.num_heads));
  }
  config.head_dim = dim / config.num_heads;
  config.num_layers = size_of(json, "num_layers", origin, kMaxLayers);
  config.ffn_dim = size_of(json, "ffn_dim", origin);
  config.in_channels = size_of(json, "in_dim", origin);
  config.out_channels = size_of(json, "out_dim", origin);
  config.text_dim = size_or(json, "text_dim", 4096, origin);
  config.freq_dim = size_of(json, "freq_dim", origin);
  config.eps = json_get_or<double>(json, "eps", 1e-6, origin);
  return config;
}

void check_dit(const WanDitConfig& config, const std::string& origin) {
  if (config.head_dim % 2 != 0 || config.freq_dim % 2 != 0) {
    throw InvalidInput(Code::kBadModel,
                       str(origin, ": attention_head_dim and freq_dim must be even, got ",
                           config.head_dim, " and ", config.freq_dim));
  }
  if (config.head_dim / 6 < 1) {
    throw InvalidInput(Code::kBadModel, str(origin, ": attention_head_dim ", config.head_dim,
                                            " is too small for three rotary axes"));
  }
}

}  // namespace

WanDitConfig read_wan_dit(const Json& json, const std::string& origin) {
  const bool is_original = json.is_object() && json.contains("dim") && json.contains("ffn_dim") &&
                           !json.contains("attention_head_dim");
  WanDitConfig config;
  if (is_original) {
    config = read_original_wan(json, origin);
  } else {
    expect_class(json, origin, "WanTransformer3DModel");
    refuse_if_set(json, "image_dim", origin);
    refuse_if_set(json, "added_kv_proj_dim", origin);
    config.num_heads = size_of(json, "num_attention_heads", origin);
    config.head_dim = size_of(json, "attention_head_dim", origin);
    config.num_layers = size_of(json, "num_layers", origin, kMaxLayers);
    config.ffn_dim = size_of(json, "ffn_dim", origin);
    config.in_channels = size_of(json, "in_channels", origin);
    config.out_channels = size_or(json, "out_channels", config.in_channels, origin);
    config.text_dim = size_of(json, "text_dim", origin);
    config.freq_dim = size_of(json, "freq_dim", origin);
    config.eps = json_get_or<double>(json, "eps", 1e-6, origin);
    config.cross_attn_norm = json_get_or<bool>(json, "cross_attn_norm", true, origin);
    const auto norm = json_get_or<std::string>(json, "qk_norm", "rms_norm_across_heads", origin);
    if (norm != "rms_norm_across_heads" || !config.cross_attn_norm) {
      throw InvalidInput(Code::kUnsupportedModel,
                         str(origin,
                             ": qk_norm must be rms_norm_across_heads and cross_attn_norm true, as "
                             "in every Wan model"));
    }
    const auto patch = json_get_or<std::vector<int64_t>>(json, "patch_size", {1, 2, 2}, origin);
    if (patch.size() != 3 || patch[0] != 1 || patch[1] < 1 || patch[2] < 1 || patch[1] > 16 ||
        patch[2] > 16) {
      throw InvalidInput(Code::kUnsupportedModel, str(origin, ": patch_size must be [1, h, w]"));
    }
    config.patch_h = patch[1];
    config.patch_w = patch[2];
  }
  check_dit(config, origin);
  return config;
}

WanVaeConfig read_wan_vae(const Json& json, const std::string& origin) {
  expect_class(json, origin, "AutoencoderKLWan");
  WanVaeConfig config;
  config.base_dim = size_or(json, "base_dim", 96, origin);
  config.decoder_base_dim = size_or(json, "decoder_base_dim", config.base_dim, origin);
  config.z_dim = size_or(json, "z_dim", 16, origin);
  config.dim_mult = json_get_or<std::vector<int64_t>>(json, "dim_mult", config.dim_mult, origin);
  config.num_res_blocks = size_or(json, "num_res_blocks", 2, origin);
  config.temporal_downsample = json_get_or<std::vector<bool>>(
      json, "temperal_downsample", config.temporal_downsample, origin);  // spelled so upstream
  config.is_residual = json_get_or<bool>(json, "is_residual", false, origin);
  config.in_channels = size_or(json, "in_channels", 3, origin);
  config.out_channels = size_or(json, "out_channels", 3, origin);
  config.patch_size = size_or(json, "patch_size", 1, origin);
  config.scale_factor_temporal = size_or(json, "scale_factor_temporal", 4, origin);
  config.scale_factor_spatial = size_or(json, "scale_factor_spatial", 8, origin);
  config.latents_mean = json_get<std::vector<double>>(json, "latents_mean", origin);
  config.latents_std = json_get<std::vector<double>>(json, "latents_std", origin);
  const auto z = static_cast<std::size_t>(config.z_dim);
  if (config.latents_mean.size() != z || config.latents_std.size() != z) {
    throw InvalidInput(
        Code::kBadModel,
        str(origin, ": latents_mean and latents_std must have z_dim = ", z, " values, got ",
            config.latents_mean.size(), " and ", config.latents_std.size()));
  }
  const bool sizes_fit = config.dim_mult.size() >= 2 &&
                         config.temporal_downsample.size() + 1 == config.dim_mult.size() &&
                         std::all_of(config.dim_mult.begin(), config.dim_mult.end(),
                                     [](int64_t m) { return m >= 1 && m <= 1024; });
  if (!sizes_fit) {
    throw InvalidInput(
        Code::kBadModel,
        str(origin, ": dim_mult needs one entry more than temperal_downsample, each at least 1"));
  }
  const auto attention = json_get_or<std::vector<double>>(json, "attn_scales", {}, origin);
  if (!attention.empty()) {
    throw InvalidInput(Code::kUnsupportedModel,
                       str(origin, ": attn_scales must be empty, as in every Wan VAE"));
  }
  return config;
}

Umt5Config read_umt5(const Json& json, const std::string& origin) {
  Umt5Config config;
  config.d_model = size_of(json, "d_model", origin);
  config.d_kv = size_of(json, "d_kv", origin);
  config.num_heads = size_of(json, "num_heads", origin);
  config.d_ff = size_of(json, "d_ff", origin);
  config.num_layers = size_of(json, "num_layers", origin, kMaxLayers);
  config.vocab_size = size_of(json, "vocab_size", origin);
  config.num_buckets = size_or(json, "relative_attention_num_buckets", 32, origin);
  config.max_distance = size_or(json, "relative_attention_max_distance", 128, origin);
  if (config.num_buckets % 4 != 0 || config.max_distance <= config.num_buckets / 4) {
    throw InvalidInput(Code::kBadModel,
                       str(origin, ": relative_attention_num_buckets must be a multiple of 4 and ",
                           "relative_attention_max_distance above a quarter of it, got ",
                           config.num_buckets, " and ", config.max_distance));
  }
  config.eps = json_get_or<double>(json, "layer_norm_epsilon", 1e-6, origin);
  const auto activation = json_get_or<std::string>(json, "feed_forward_proj", "gated-gelu", origin);
  if (activation != "gated-gelu") {
    throw InvalidInput(
        Code::kUnsupportedModel,
        str(origin, ": feed_forward_proj must be gated-gelu, got ", escape_control(activation)));
  }
  return config;
}

SchedulerConfig read_scheduler(const Json& json, const std::string& origin) {
  SchedulerConfig config;
  config.class_name = json_get_or<std::string>(json, "_class_name", "", origin);
  for (const char* key : {"flow_shift", "shift"}) {
    if (json.is_object() && json.contains(key) && json.at(key).is_number()) {
      config.flow_shift = json.at(key).get<double>();
      break;
    }
  }
  return config;
}

}  // namespace fastwan::layout
