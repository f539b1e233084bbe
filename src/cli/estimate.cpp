#include "cli/estimate.h"

#include <algorithm>

#include "io/safetensors.h"
#include "models/layout/tensors.h"
#include "ops/topk.h"
#include "text/tokenizer_config.h"

namespace fastwan::cli {
namespace {

using config::Precision;

constexpr int64_t kTextTokens = 512;  // where the tokenizer names no limit
constexpr int64_t kTilePixels = 256;  // diffusers' VAE tiles, and how far apart they start
constexpr int64_t kTileStridePixels = 192;

int64_t bytes_of(Precision precision) {
  return precision == Precision::kBf16 ? 2 : 4;
}

// Without a word from the user: fp32 on the CPU; on a GPU bf16, and the VAE in fp32.
Precision computed_in(const config::Setting<Precision>& asked, Precision by_default) {
  return *asked == Precision::kAuto ? by_default : *asked;
}

bool is_decoder_part(const std::string& name) {
  return name.starts_with("decoder.") || name.starts_with("post_quant_conv.");
}

int64_t used_parameters(std::vector<layout::TensorSpec> specs, bool decoder_only) {
  if (decoder_only) {
    std::erase_if(specs,
                  [](const layout::TensorSpec& spec) { return !is_decoder_part(spec.name); });
  }
  return layout::num_parameters(specs);
}

HeldComponent held(const std::string& name,
                   const Path& where,
                   int64_t parameters,
                   Precision precision) {
  const io::WeightFiles weights = io::WeightFiles::open(where);
  HeldComponent out{.name = name,
                    .num_files = static_cast<int64_t>(weights.files().size()),
                    .file_bytes = weights.total_bytes(),
                    .parameters = parameters};
  if (precision == Precision::kAuto) {
    out.bytes = static_cast<double>(out.file_bytes);
    out.held_as = "as stored";
  } else {
    out.bytes = static_cast<double>(parameters * bytes_of(precision));
    out.held_as = config::name_of(precision);
  }
  return out;
}

// Decoding in tiles: each pays for its overlap, and only one is alive.
StageCost decode_cost(const layout::WanVaeConfig& vae,
                      const layout::LatentSize& latent,
                      bool is_tiled,
                      int64_t element) {
  StageCost cost{.name = "decode"};
  const int64_t side = kTilePixels / vae.scale_factor_spatial;
  const int64_t stride = kTileStridePixels / vae.scale_factor_spatial;
  if (!is_tiled || (latent.height <= side && latent.width <= side)) {
    cost.work = layout::decode_work(vae, latent);
    cost.activations = layout::decode_memory(vae, latent, element);
    return cost;
  }
  for (int64_t y = 0; y < latent.height; y += stride) {
    for (int64_t x = 0; x < latent.width; x += stride) {
      layout::LatentSize tile = latent;
      tile.height = std::min(side, latent.height - y);
      tile.width = std::min(side, latent.width - x);
      cost.work += layout::decode_work(vae, tile);
      cost.activations = std::max(cost.activations, layout::decode_memory(vae, tile, element));
    }
  }
  // Tiles are blended when all are there: every frame is kept until then.
  const auto pixels = static_cast<double>(latent.height * latent.width * vae.scale_factor_spatial *
                                          vae.scale_factor_spatial);
  const auto frames = static_cast<double>((latent.frames - 1) * vae.scale_factor_temporal + 1);
  cost.activations += 3 * pixels * frames * static_cast<double>(element);
  return cost;
}

// Weights outside the blocks stay; of the blocks two are there, one computing and one arriving.
double layerwise_weights(const layout::WanDitConfig& config, double bytes) {
  const auto all = static_cast<double>(layout::num_parameters(layout::tensors_of(config)));
  layout::WanDitConfig shorter = config;
  shorter.num_layers = std::min<int64_t>(config.num_layers, 2);
  return bytes * static_cast<double>(layout::num_parameters(layout::tensors_of(shorter))) / all;
}

// The request as numbers that several stages need.
struct Request {
  const config::Generate& settings;
  const layout::ModelFolder& model;
  bool on_gpu;
  Precision dit, vae, text;  // kAuto: text weights as stored
  bool is_guided, encodes_text, denoises, encodes_image;
};

Request read_request(const config::Generate& g, const layout::ModelFolder& model, bool on_gpu) {
  const Precision fast = on_gpu ? Precision::kBf16 : Precision::kFp32;
  const bool only_decodes = g.load_latents.is_set;
  return {
      .settings = g,
      .model = model,
      .on_gpu = on_gpu,
      .dit = computed_in(g.dit_precision, fast),
      .vae = computed_in(g.vae_precision, Precision::kFp32),
      .text = computed_in(g.text_encoder_precision, on_gpu ? Precision::kBf16 : Precision::kAuto),
      .is_guided = *g.guidance_scale > 1 || *g.guidance_scale_2 > 1,
      .encodes_text = !g.prompt_embeds.is_set && !only_decodes,
      .denoises = !only_decodes,
      .encodes_image = g.image.is_set && !only_decodes};
}

layout::AttentionMode attention_of(const config::Generate& g,
                                   const layout::WanDitConfig& config,
                                   const layout::TokenGrid& grid) {
  if (*g.attention_backend != config::AttentionBackend::kVsa) {
    return {};
  }
  const int64_t tiles = grid.num_tiles();
  const int64_t topk = *g.topk_rule == config::TopkFormula::kPadded
                           ? ops::vsa_topk(*g.vsa_sparsity, tiles)
                           : ops::vsa_topk_unpadded(*g.vsa_sparsity, grid.num_tokens(), tiles);
  return {.topk = topk, .uses_gates = config.is_gated};
}

void add_text(const Request& r, Estimate& out) {
  const layout::Umt5Config& config = r.model.text_encoder_config;
  const int64_t parameters = layout::num_parameters(layout::tensors_of(config));
  out.components.push_back(held("text_encoder", r.model.text_encoder, parameters, r.text));
  const int64_t element = r.text == Precision::kAuto ? 4 : bytes_of(r.text);
  StageCost stage{.name = "text", .weights = out.components.back().bytes};
  stage.work = (r.is_guided ? 2 : 1) * layout::encoder_work(config, out.text_tokens);
  stage.activations = layout::encoder_memory(config, out.text_tokens, element);
  if (r.text == Precision::kAuto) {
    layout::Umt5Config one = config;
    one.num_layers = 1;
    one.vocab_size = 0;  // one layer's weights are cast at a time
    stage.activations += 4.0 * static_cast<double>(layout::num_parameters(layout::tensors_of(one)));
  }
  out.stages.push_back(stage);
}

void add_denoising(const Request& r, Estimate& out) {
  const layout::WanDitConfig& config = r.model.transformer_config;
  const layout::AttentionMode mode = attention_of(r.settings, config, out.grid);
  out.topk = mode.topk;
  out.num_forwards = *r.settings.steps * (r.is_guided ? 2 : 1);
  StageCost stage{.name = "denoise"};
  stage.work = static_cast<double>(out.num_forwards) *
               layout::forward_work(config, out.grid, mode, out.text_tokens).total();
  stage.activations = layout::forward_memory(config, out.grid, mode, bytes_of(r.dit));
  const auto add = [&](const char* name, const Path& where, const layout::WanDitConfig& of) {
    const int64_t parameters = layout::num_parameters(layout::tensors_of(of));
    out.components.push_back(held(name, where, parameters, r.dit));
    stage.weights = std::max(stage.weights, out.components.back().bytes);  // one works at a time
  };
  add("transformer", r.model.transformer, config);
  if (r.model.transformer_2) {
    add("transformer_2", *r.model.transformer_2, *r.model.transformer_2_config);
  }
  out.stages.push_back(stage);
}

void add_vae(const Request& r, Estimate& out) {
  const layout::WanVaeConfig& config = r.model.vae_config;
  const int64_t parameters =
      used_parameters(layout::tensors_of(config), /*decoder_only=*/!r.encodes_image);
  out.components.push_back(held("vae", r.model.vae, parameters, r.vae));
  const double bytes = out.components.back().bytes;
  const int64_t element = bytes_of(r.vae);
  if (r.encodes_image) {
    layout::LatentSize image = out.latent;
    image.frames = 1;
    out.stages.insert(out.stages.begin(),
                      {.name = "image",
                       .work = layout::encode_work(config, image),
                       .weights = bytes,
                       .activations = layout::decode_memory(config, image, element)});
  }
  StageCost decode = decode_cost(config, out.latent, *r.settings.vae_tiling, element);
  decode.weights = bytes;
  out.stages.push_back(decode);
}

void add_residencies(const Request& r, Estimate& out) {
  double all_weights = 0;
  for (const HeldComponent& component : out.components) {
    all_weights += component.bytes;
  }
  double widest = 0;
  double by_stage = 0;
  double by_layer = 0;
  for (const StageCost& stage : out.stages) {
    widest = std::max(widest, stage.activations);
    by_stage = std::max(by_stage, stage.weights + stage.activations);
    const double weights = stage.name == "denoise"
                               ? layerwise_weights(r.model.transformer_config, stage.weights)
                               : stage.weights;
    by_layer = std::max(by_layer, weights + stage.activations);
  }
  const double waiting = r.on_gpu ? all_weights : 0;
  out.residencies.push_back({config::Offload::kNone, all_weights + widest, 0});
  out.residencies.push_back({config::Offload::kStage, by_stage, waiting});
  if (r.on_gpu) {
    out.residencies.push_back({config::Offload::kLayer, by_layer, waiting});
  }
}

}  // namespace

double Estimate::total_work() const {
  double sum = 0;
  for (const StageCost& stage : stages) {
    sum += stage.work;
  }
  return sum;
}

Estimate estimate(const config::Generate& settings, const layout::ModelFolder& model, bool on_gpu) {
  const Request request = read_request(settings, model, on_gpu);
  Estimate out;
  out.latent = layout::latent_size(model, *settings.num_frames, *settings.height, *settings.width);
  out.grid = layout::token_grid(model.transformer_config, out.latent);
  out.text_tokens = text::model_max_length(model.tokenizer, kTextTokens);
  if (request.encodes_text) {
    add_text(request, out);
  }
  if (request.denoises) {
    add_denoising(request, out);
  }
  add_vae(request, out);
  add_residencies(request, out);
  return out;
}

}  // namespace fastwan::cli
