#include "models/layout/tensors.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::layout {
namespace {

class List {
 public:
  void add(std::string name, std::vector<int64_t> shape) {
    tensors_.push_back({std::move(name), std::move(shape)});
  }
  // weight [out, in, ...] and bias [out]
  void with_bias(const std::string& name, std::vector<int64_t> shape) {
    const int64_t out = shape[0];
    add(name + ".weight", std::move(shape));
    add(name + ".bias", {out});
  }
  std::vector<TensorSpec> take() { return std::move(tensors_); }

 private:
  std::vector<TensorSpec> tensors_;
};

void add_attention(List& list, const std::string& name, int64_t width) {
  for (const char* part : {".to_q", ".to_k", ".to_v", ".to_out.0"}) {
    list.with_bias(name + part, {width, width});
  }
  list.add(name + ".norm_q.weight", {width});
  list.add(name + ".norm_k.weight", {width});
}

// --- VAE

void add_residual_block(List& list, const std::string& name, int64_t in, int64_t out) {
  list.add(name + ".norm1.gamma", {in, 1, 1, 1});
  list.with_bias(name + ".conv1", {out, in, 3, 3, 3});
  list.add(name + ".norm2.gamma", {out, 1, 1, 1});
  list.with_bias(name + ".conv2", {out, out, 3, 3, 3});
  if (in != out) {
    list.with_bias(name + ".conv_shortcut", {out, in, 1, 1, 1});
  }
}

void add_mid_block(List& list, const std::string& name, int64_t dim) {
  add_residual_block(list, name + ".resnets.0", dim, dim);
  list.add(name + ".attentions.0.norm.gamma", {dim, 1, 1});
  list.with_bias(name + ".attentions.0.to_qkv", {3 * dim, dim, 1, 1});
  list.with_bias(name + ".attentions.0.proj", {dim, dim, 1, 1});
  add_residual_block(list, name + ".resnets.1", dim, dim);
}

void add_downsample(List& list, const std::string& name, int64_t dim, bool temporal) {
  list.with_bias(name + ".resample.1", {dim, dim, 3, 3});
  if (temporal) {
    list.with_bias(name + ".time_conv", {dim, dim, 3, 1, 1});
  }
}

void add_upsample(List& list, const std::string& name, int64_t in, int64_t out, bool temporal) {
  list.with_bias(name + ".resample.1", {out, in, 3, 3});
  if (temporal) {
    list.with_bias(name + ".time_conv", {2 * in, in, 3, 1, 1});
  }
}

void add_encoder(List& list, const WanVaeConfig& c) {
  const std::size_t levels = c.dim_mult.size();
  list.with_bias("encoder.conv_in", {c.base_dim, c.in_channels, 3, 3, 3});
  int64_t width = c.base_dim;
  int64_t flat = 0;  // VAE 2.1 numbers all layers in one list
  for (std::size_t i = 0; i < levels; ++i) {
    const int64_t out = c.base_dim * c.dim_mult[i];
    for (int64_t j = 0; j < c.num_res_blocks; ++j) {
      const std::string name = c.is_residual ? str("encoder.down_blocks.", i, ".resnets.", j)
                                             : str("encoder.down_blocks.", flat++);
      add_residual_block(list, name, width, out);
      width = out;
    }
    if (i + 1 < levels) {
      const std::string name = c.is_residual ? str("encoder.down_blocks.", i, ".downsampler")
                                             : str("encoder.down_blocks.", flat++);
      add_downsample(list, name, out, c.temporal_downsample[i]);
    }
  }
  add_mid_block(list, "encoder.mid_block", width);
  list.add("encoder.norm_out.gamma", {width, 1, 1, 1});
  list.with_bias("encoder.conv_out", {2 * c.z_dim, width, 3, 3, 3});
}

void add_decoder(List& list, const WanVaeConfig& c) {
  const std::size_t levels = c.dim_mult.size();
  int64_t width = c.decoder_base_dim * c.dim_mult.back();
  list.with_bias("decoder.conv_in", {width, c.z_dim, 3, 3, 3});
  add_mid_block(list, "decoder.mid_block", width);
  for (std::size_t i = 0; i < levels; ++i) {
    const int64_t out = c.decoder_base_dim * c.dim_mult[levels - 1 - i];
    if (!c.is_residual && i > 0) {
      width /= 2;  // the upsampler before halved it
    }
    for (int64_t j = 0; j <= c.num_res_blocks; ++j) {
      add_residual_block(list, str("decoder.up_blocks.", i, ".resnets.", j), width, out);
      width = out;
    }
    if (i + 1 < levels) {
      const bool temporal = c.temporal_downsample[levels - 2 - i];
      const std::string name =
          str("decoder.up_blocks.", i, c.is_residual ? ".upsampler" : ".upsamplers.0");
      add_upsample(list, name, out, c.is_residual ? out : out / 2, temporal);
    }
  }
  list.add("decoder.norm_out.gamma", {width, 1, 1, 1});
  list.with_bias("decoder.conv_out", {c.out_channels, width, 3, 3, 3});
}

// --- names

using Rename = std::pair<const char*, const char*>;

// The first match of each table is applied; order matters where one is part of another.
std::string rename(std::string name, std::span<const Rename> table) {
  for (const auto& [from, to] : table) {
    name = replace_all(name, from, to);
  }
  return name;
}

}  // namespace

int64_t TensorSpec::num_elements() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

std::vector<TensorSpec> tensors_of(const WanDitConfig& c) {
  List list;
  const int64_t width = c.width();
  const int64_t patch = c.patch_t * c.patch_h * c.patch_w;
  list.with_bias("patch_embedding", {width, c.in_channels, c.patch_t, c.patch_h, c.patch_w});
  list.with_bias("condition_embedder.time_embedder.linear_1", {width, c.freq_dim});
  list.with_bias("condition_embedder.time_embedder.linear_2", {width, width});
  list.with_bias("condition_embedder.time_proj", {6 * width, width});
  list.with_bias("condition_embedder.text_embedder.linear_1", {width, c.text_dim});
  list.with_bias("condition_embedder.text_embedder.linear_2", {width, width});
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string block = str("blocks.", i);
    list.add(block + ".scale_shift_table", {1, 6, width});
    add_attention(list, block + ".attn1", width);
    add_attention(list, block + ".attn2", width);
    list.with_bias(block + ".norm2", {width});
    list.with_bias(block + ".ffn.net.0.proj", {c.ffn_dim, width});
    list.with_bias(block + ".ffn.net.2", {width, c.ffn_dim});
    if (c.is_gated) {
      list.with_bias(str(block, ".", kGateName), {width, width});
    }
  }
  list.add("scale_shift_table", {1, 2, width});
  list.with_bias("proj_out", {c.out_channels * patch, width});
  return list.take();
}

std::vector<TensorSpec> tensors_of(const WanVaeConfig& c) {
  List list;
  add_encoder(list, c);
  list.with_bias("quant_conv", {2 * c.z_dim, 2 * c.z_dim, 1, 1, 1});
  list.with_bias("post_quant_conv", {c.z_dim, c.z_dim, 1, 1, 1});
  add_decoder(list, c);
  return list.take();
}

std::vector<TensorSpec> tensors_of(const Umt5Config& c) {
  List list;
  const int64_t inner = c.num_heads * c.d_kv;
  list.add("shared.weight", {c.vocab_size, c.d_model});
  for (int64_t i = 0; i < c.num_layers; ++i) {
    const std::string block = str("encoder.block.", i);
    for (const char* part : {"q", "k", "v"}) {
      list.add(str(block, ".layer.0.SelfAttention.", part, ".weight"), {inner, c.d_model});
    }
    list.add(block + ".layer.0.SelfAttention.o.weight", {c.d_model, inner});
    list.add(block + ".layer.0.SelfAttention.relative_attention_bias.weight",
             {c.num_buckets, c.num_heads});
    list.add(block + ".layer.0.layer_norm.weight", {c.d_model});
    list.add(block + ".layer.1.DenseReluDense.wi_0.weight", {c.d_ff, c.d_model});
    list.add(block + ".layer.1.DenseReluDense.wi_1.weight", {c.d_ff, c.d_model});
    list.add(block + ".layer.1.DenseReluDense.wo.weight", {c.d_model, c.d_ff});
    list.add(block + ".layer.1.layer_norm.weight", {c.d_model});
  }
  list.add("encoder.final_layer_norm.weight", {c.d_model});
  return list.take();
}

std::vector<LoraModule> lora_modules(const WanDitConfig& config,
                                     const std::vector<std::string>& words) {
  const int64_t width = config.width();
  std::vector<LoraModule> all;
  for (const char* attention : {"attn1", "attn2"}) {
    for (const char* part : {".to_q", ".to_k", ".to_v", ".to_out.0"}) {
      all.push_back({str(attention, part), width, width});
    }
  }
  if (config.is_gated) {
    all.push_back({kGateName, width, width});
  }
  if (words.empty()) {
    return all;
  }
  all.push_back({"ffn.net.0.proj", width, config.ffn_dim});
  all.push_back({"ffn.net.2", config.ffn_dim, width});
  const auto is_named = [](const LoraModule& module, const std::string& word) {
    return str('.', module.name, '.').find(str('.', word, '.')) != std::string::npos;
  };
  constexpr std::array<std::string_view, 6> kMayBeAbsent = {"q_proj", "k_proj", "v_proj",
                                                            "o_proj", "to_qkv", kGateName};
  for (const std::string& word : words) {
    const bool may_be_absent =
        std::find(kMayBeAbsent.begin(), kMayBeAbsent.end(), word) != kMayBeAbsent.end();
    if (!may_be_absent && std::none_of(all.begin(), all.end(), [&](const LoraModule& module) {
          return is_named(module, word);
        })) {
      throw InvalidInput(
          Code::kBadValue,
          str("lora.target_modules: no linear layer of a block is called ", escape_control(word),
              ". There are attn1, attn2, to_q, to_k, to_v, to_out, ffn and ", kGateName));
    }
  }
  std::erase_if(all, [&](const LoraModule& module) {
    return std::none_of(words.begin(), words.end(),
                        [&](const std::string& word) { return is_named(module, word); });
  });
  if (all.empty()) {
    throw InvalidInput(Code::kBadValue,
                       "lora.target_modules names no linear layer of this model. There are attn1, "
                       "attn2, to_q, to_k, to_v, to_out and ffn");
  }
  return all;
}

int64_t num_parameters(const std::vector<TensorSpec>& tensors) {
  return std::accumulate(tensors.begin(), tensors.end(), int64_t{0},
                         [](int64_t sum, const TensorSpec& t) { return sum + t.num_elements(); });
}

std::string diffusers_name_of_original(const std::string& original) {
  std::string name = original;
  for (const char* prefix : {"model.diffusion_model.", "diffusion_model."}) {
    if (name.starts_with(prefix)) {
      name = name.substr(std::string_view(prefix).size());
    }
  }
  if (!name.starts_with("blocks.")) {
    constexpr std::array<Rename, 7> kTop = {
        {{"text_embedding.0.", "condition_embedder.text_embedder.linear_1."},
         {"text_embedding.2.", "condition_embedder.text_embedder.linear_2."},
         {"time_embedding.0.", "condition_embedder.time_embedder.linear_1."},
         {"time_embedding.2.", "condition_embedder.time_embedder.linear_2."},
         {"time_projection.1.", "condition_embedder.time_proj."},
         {"head.modulation", "scale_shift_table"},
         {"head.head.", "proj_out."}}};
    return rename(name, kTop);
  }
  // Original norm3 (affine, before cross attention) is Diffusers' norm2; original norm2 has no
  // parameters.
  constexpr std::array<Rename, 11> kBlock = {{{".self_attn.q.", ".attn1.to_q."},
                                              {".self_attn.k.", ".attn1.to_k."},
                                              {".self_attn.v.", ".attn1.to_v."},
                                              {".self_attn.o.", ".attn1.to_out.0."},
                                              {".self_attn.norm_", ".attn1.norm_"},
                                              {".cross_attn.q.", ".attn2.to_q."},
                                              {".cross_attn.k.", ".attn2.to_k."},
                                              {".cross_attn.v.", ".attn2.to_v."},
                                              {".cross_attn.o.", ".attn2.to_out.0."},
                                              {".cross_attn.norm_", ".attn2.norm_"},
                                              {".norm3.", ".norm2."}}};
  constexpr std::array<Rename, 2> kFeedForward = {
      {{".ffn.0.", ".ffn.net.0.proj."}, {".ffn.2.", ".ffn.net.2."}}};
  name = rename(rename(name, kBlock), kFeedForward);
  const std::string suffix = ".modulation";
  return name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) + ".scale_shift_table"
                                : name;
}

std::string diffusers_name_of_fastvideo(const std::string& name) {
  constexpr std::array<Rename, 6> kTop = {{{"patch_embedding.proj.", "patch_embedding."},
                                           {"text_embedder.fc_in.", "text_embedder.linear_1."},
                                           {"text_embedder.fc_out.", "text_embedder.linear_2."},
                                           {"time_embedder.mlp.fc_in.", "time_embedder.linear_1."},
                                           {"time_embedder.mlp.fc_out.", "time_embedder.linear_2."},
                                           {"time_modulation.linear.", "time_proj."}}};
  if (!name.starts_with("blocks.")) {
    return rename(name, kTop);
  }
  const std::size_t dot = name.find('.', std::string_view("blocks.").size());
  const std::string block = name.substr(0, dot);
  std::string rest = name.substr(dot);
  if (rest.starts_with(".to_q.") || rest.starts_with(".to_k.") || rest.starts_with(".to_v.") ||
      rest.starts_with(".norm_q.") || rest.starts_with(".norm_k.")) {
    return block + ".attn1" + rest;
  }
  if (rest.starts_with(".to_out.")) {
    return block + ".attn1" + replace_all(rest, ".to_out.", ".to_out.0.");
  }
  constexpr std::array<Rename, 4> kRest = {{{".attn2.to_out.", ".attn2.to_out.0."},
                                            {".ffn.fc_in.", ".ffn.net.0.proj."},
                                            {".ffn.fc_out.", ".ffn.net.2."},
                                            {".self_attn_residual_norm.norm.", ".norm2."}}};
  return block + (rest.starts_with(".attn2.to_out.0.") ? rest : rename(rest, kRest));
}

}  // namespace fastwan::layout
