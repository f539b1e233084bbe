// Every setting of `fastwan generate`, and its one description.
//
// describe() names each setting once: the YAML reader, the command line, the metadata and the
// manual visit it. Keys are FastVideo's run file (generator, request); keys that it lacks are added
// inside that schema.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "config/setting.h"

namespace fastwan::config {

enum class Sampler { kAuto, kDmd, kUnipc, kEuler };
enum class Rng { kPhilox, kTorch };
enum class Compat { kAuto, kDiffusers, kFastvideo };
enum class SigmaSchedule { kAuto, kDiffusers, kFastvideo, kWan };
enum class AttentionBackend { kAuto, kVsa, kDense };
enum class TopkFormula { kPadded, kUnpadded };
enum class Precision { kAuto, kFp32, kBf16 };
enum class Offload { kAuto, kNone, kStage, kLayer };
enum class Fit { kCrop, kPad, kStretch };
enum class Metadata { kFull, kMinimal, kNone };

// Names as flags, YAML and metadata spell them; the first spelling of a value is the canonical one.
template <class E>
struct EnumName {
  const char* name;
  E value;
};
std::span<const EnumName<Sampler>> names(Sampler);
std::span<const EnumName<Rng>> names(Rng);
std::span<const EnumName<Compat>> names(Compat);
std::span<const EnumName<SigmaSchedule>> names(SigmaSchedule);
std::span<const EnumName<AttentionBackend>> names(AttentionBackend);
std::span<const EnumName<TopkFormula>> names(TopkFormula);
std::span<const EnumName<Precision>> names(Precision);
std::span<const EnumName<Offload>> names(Offload);
std::span<const EnumName<Fit>> names(Fit);
std::span<const EnumName<Metadata>> names(Metadata);

template <class E>
std::string name_of(E value) {
  for (const auto& entry : names(E{})) {
    if (entry.value == value) {
      return entry.name;
    }
  }
  return "?";
}

struct Generate {
  // model
  Setting<std::string> model_path, revision, transformer, vae, text_encoder, tokenizer, preset;
  Setting<std::vector<std::string>> lora;
  Setting<Precision> dit_precision, vae_precision, text_encoder_precision;
  // prompt
  Setting<std::vector<std::string>> prompt;
  Setting<std::string> negative_prompt, prompt_file, prompt_embeds;
  // size
  Setting<int64_t> width, height, num_frames, fps;
  Setting<double> seconds;
  // sampling
  Setting<int64_t> steps, seed{.value = -1}, num_videos_per_prompt{.value = 1};
  Setting<std::vector<int64_t>> dmd_denoising_steps;
  Setting<bool> warp_denoising_step;
  Setting<double> guidance_scale{.value = 1.0}, guidance_scale_2, guidance_rescale, boundary_ratio,
      flow_shift;
  Setting<Compat> compat;
  Setting<SigmaSchedule> sigma_schedule;
  Setting<Sampler> sampler;
  Setting<Rng> rng;
  Setting<std::string> noise;
  // attention
  Setting<AttentionBackend> attention_backend;
  Setting<double> vsa_sparsity;
  Setting<TopkFormula> topk_rule;
  // image
  Setting<std::string> image;
  Setting<Fit> fit;
  // memory
  Setting<Offload> offload;
  Setting<bool> vae_tiling;
  // output
  Setting<std::string> output, output_path, output_video_name, contact_sheet, report;
  Setting<std::string> save_latents, save_embeds, save_frames, load_latents;
  Setting<bool> overwrite;
  Setting<int64_t> crf{.value = 18};
  Setting<Metadata> metadata;
  // run
  Setting<std::string> device{.value = "auto"};
  Setting<int64_t> threads;
};

struct Range {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

struct FieldInfo {
  const char* key;    // dotted path in a run file
  const char* flags;  // as CLI11 takes them; canonical long name last of the first word group
  const char* help;
  Range range = {};
  bool is_repeatable = false;  // a list: the flag may be given several times
};

// Calls v.group(title) and v.field(info, setting) for everything above.
template <class Visitor>
void describe(Visitor& v, Generate& g) {
  v.group("Model");
  v.field({"generator.model_path", "-m,--model-path",
           "Diffusers folder, cached hub id (org/name) or original Wan transformer"},
          g.model_path);
  v.field({"generator.revision", "--revision", "branch or commit of a cached hub id"}, g.revision);
  v.field({"generator.pipeline.components.transformer_weights", "--transformer",
           "other transformer folder or file"},
          g.transformer);
  v.field({"generator.pipeline.components.vae_weights", "--vae", "other VAE folder"}, g.vae);
  v.field({"generator.pipeline.components.text_encoder_weights", "--text-encoder",
           "other text encoder folder"},
          g.text_encoder);
  v.field({"generator.pipeline.components.tokenizer", "--tokenizer", "other tokenizer folder"},
          g.tokenizer);
  v.field({"generator.pipeline.preset", "--preset",
           "defaults to start from; `fastwan presets` lists them"},
          g.preset);
  v.field({.key = "generator.pipeline.components.lora_path",
           .flags = "--lora,--lora-path",
           .help = "LoRA file, PATH or PATH:scale; may be repeated",
           .is_repeatable = true},
          g.lora);
  v.field({"generator.engine.dit_precision", "--dit-precision", "compute type of the transformer"},
          g.dit_precision);
  v.field({"generator.engine.vae_precision", "--vae-precision", "compute type of the VAE"},
          g.vae_precision);
  v.field({"generator.engine.text_encoder_precision", "--text-encoder-precision",
           "compute type of the text encoder"},
          g.text_encoder_precision);

  v.group("Prompt");
  v.field({"request.prompt", "-p,--prompt", "what to show"}, g.prompt);
  v.field(
      {"request.negative_prompt", "-n,--negative-prompt", "what to avoid; needs guidance above 1"},
      g.negative_prompt);
  v.field({"request.inputs.prompt_path", "--prompt-file,--prompt-path,--prompt-txt",
           "text file, one prompt a line"},
          g.prompt_file);
  v.field(
      {"request.inputs.prompt_embeds", "--prompt-embeds",
       "safetensors with prompt_embeds, negative_prompt_embeds [B, L, D]; skips the text encoder"},
      g.prompt_embeds);

  v.group("Size");
  v.field({"request.sampling.width",
           "-W,--width",
           "pixels; legal sizes come from the model's configs",
           {16, 16384}},
          g.width);
  v.field({"request.sampling.height",
           "-H,--height",
           "pixels; legal sizes come from the model's configs",
           {16, 16384}},
          g.height);
  v.field({"request.sampling.num_frames", "--num-frames", "4k+1", {1, 100000}}, g.num_frames);
  v.field({"request.sampling.seconds",
           "--seconds",
           "length instead of --num-frames; rounded to 4k+1 frames",
           {0, 10000}},
          g.seconds);
  v.field({"request.sampling.fps", "--fps", "frames per second of the file", {1, 1000}}, g.fps);

  v.group("Sampling");
  v.field({"request.sampling.num_inference_steps",
           "--steps,--num-inference-steps",
           "denoising steps",
           {1, 1000}},
          g.steps);
  v.field({"generator.pipeline.experimental.dmd_denoising_steps",
           "--dmd-denoising-steps",
           "timesteps of a few-step model, as 1000,757,522",
           {1, 1000}},
          g.dmd_denoising_steps);
  v.field({"generator.pipeline.experimental.warp_denoising_step", "--warp-denoising-step",
           "that list names base timesteps, which the flow shift moves, as in training"},
          g.warp_denoising_step);
  v.field({"request.sampling.guidance_scale",
           "--guidance-scale",
           "classifier-free guidance; 1 is off",
           {0, 100}},
          g.guidance_scale);
  v.field({"request.sampling.guidance_scale_2",
           "--guidance-scale-2",
           "guidance of the low-noise transformer",
           {0, 100}},
          g.guidance_scale_2);
  v.field({"request.sampling.guidance_rescale",
           "--guidance-rescale",
           "rescales the guided velocity; 0 is off",
           {0, 1}},
          g.guidance_rescale);
  v.field({"request.sampling.boundary_ratio",
           "--boundary-ratio",
           "two transformers: share of the timesteps below which the second works",
           {0, 1}},
          g.boundary_ratio);
  v.field({"generator.pipeline.flow_shift",
           "--flow-shift",
           "shift of the noise schedule",
           {1e-3, 1000}},
          g.flow_shift);
  v.field({"generator.pipeline.compat", "--compat",
           "whose schedule, rounding and prompt cleaning to follow"},
          g.compat);
  v.field({"generator.pipeline.sigma_schedule", "--sigma-schedule", "UniPC's schedule alone"},
          g.sigma_schedule);
  v.field({"generator.pipeline.sampler", "--sampler", "auto takes the model's own"}, g.sampler);
  v.field({"request.sampling.seed", "--seed", "same seed, same noise; -1 is random", {-1, 9.2e18}},
          g.seed);
  v.field({"request.sampling.rng", "--rng",
           "philox: same on every device; torch: as diffusers and FastVideo draw"},
          g.rng);
  v.field(
      {"request.inputs.noise", "--noise", "safetensors with latents and renoise_i [B, C, T, H, W]"},
      g.noise);
  v.field({"request.sampling.num_videos_per_prompt",
           "--num-videos-per-prompt",
           "video i uses seed + i",
           {1, 10000}},
          g.num_videos_per_prompt);

  v.group("Attention");
  v.field({"generator.pipeline.attention_backend", "--attention-backend",
           "auto: sparse if the weights have gates"},
          g.attention_backend);
  v.field({"generator.pipeline.experimental.VSA_sparsity",
           "--VSA-sparsity",
           "share of key tiles left out",
           {0, 0.9999}},
          g.vsa_sparsity);
  v.field({"generator.pipeline.experimental.topk_rule", "--topk-rule",
           "padded: today's FastVideo; unpadded: when FastWan was released"},
          g.topk_rule);

  v.group("Image");
  v.field({"request.inputs.image_path", "-i,--image,--image-path", "first frame"}, g.image);
  v.field({"request.inputs.fit", "--fit", "how an image of another shape fits"}, g.fit);

  v.group("Memory");
  v.field({"generator.engine.offload.mode", "--offload",
           "where weights wait: on the device, in host memory by stage or by layer"},
          g.offload);
  v.field({"generator.pipeline.vae_tiling", "--vae-tiling",
           "decode in tiles with blended seams: less memory"},
          g.vae_tiling);

  v.group("Output");
  v.field({"request.output.output", "-o,--output",
           "file; .mp4 .webm .gif .webp .png .jpg .safetensors"},
          g.output);
  v.field({"request.output.output_path", "--output-path",
           "folder for files named after prompt and seed"},
          g.output_path);
  v.field({"request.output.output_video_name", "--output-video-name", "name inside --output-path"},
          g.output_video_name);
  v.field({"request.output.overwrite", "--overwrite", "replace existing files"}, g.overwrite);
  v.field({"request.output.crf", "--crf", "H.264 quality, lower is better", {0, 51}}, g.crf);
  v.field({"request.output.contact_sheet", "--contact-sheet",
           "also write a PNG grid of frames, as 4x4"},
          g.contact_sheet);
  v.field({"request.output.metadata", "--metadata", "what the file tells about its making"},
          g.metadata);
  v.field(
      {"request.output.save_latents", "--save-latents", "final normalised latents as safetensors"},
      g.save_latents);
  v.field({"request.output.save_embeds", "--save-embeds", "text embeddings as safetensors"},
          g.save_embeds);
  v.field({"request.output.save_frames", "--save-frames",
           "frames [F, 3, H, W] float32 in [0, 1] as safetensors"},
          g.save_frames);
  v.field({"request.inputs.load_latents", "--load-latents", "decode these latents only"},
          g.load_latents);
  v.field({"request.output.report", "--report", "JSON file with times per stage and peak memory"},
          g.report);

  v.group("Run");
  v.field({"generator.engine.device", "--device", "auto, cpu, cuda or cuda:i"}, g.device);
  v.field({"generator.engine.threads", "--threads", "CPU threads; 0 is all cores", {0, 4096}},
          g.threads);
}

}  // namespace fastwan::config
