// Runs of flow networks on latents: finetune, distill and ode.
#include <algorithm>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/shape.h"
#include "base/text.h"
#include "cli/tensor_entry/train_parts.h"
#include "cli/tensor_entry/train_validation.h"
#include "cli/tensor_entry/train_work.h"
#include "models/checkpoint.h"
#include "models/layout/cost.h"
#include "models/layout/lora_keys.h"
#include "training/dmd/distill.h"

namespace fastwan::cli {
namespace {

using config::Recipe;

constexpr const char* kStudent = "student";

// (latents - mean) / std in fp32, as the VAE's config has them; on the networks' device.
std::function<training::MicroBatch(const data::Batch&)> preparation(const TrainContext& context,
                                                                    const TrainData& data) {
  const auto per_channel = [&context](const std::vector<double>& values) {
    return at::tensor(values, at::kDouble)
        .to(at::kFloat)
        .view({1, static_cast<int64_t>(values.size()), 1, 1, 1})
        .to(context.device);
  };
  const at::Tensor mean = per_channel(data.folder.vae_config.latents_mean);
  const at::Tensor deviation = per_channel(data.folder.vae_config.latents_std);
  return [mean, deviation, data, device = context.device](const data::Batch& batch) {
    const int64_t channels = batch.trajectory.defined() ? batch.trajectory.size(2)
                             : batch.latents.defined()  ? batch.latents.size(1)
                                                        : 0;
    check_row(data, batch.rows.at(0), channels, batch.text.size(2));
    training::MicroBatch out{.latents = {},
                             .text = batch.text.to(device, at::kFloat),
                             .slots = batch.slots,
                             .captions = batch.captions};
    if (batch.trajectory.defined()) {
      out.trajectory = batch.trajectory.to(device, at::kFloat);  // normalised as it is
      out.trajectory_timesteps = batch.trajectory_timesteps;
    }
    if (batch.latents.defined()) {
      out.latents = (batch.latents.to(device, at::kFloat) - mean) / deviation;
    }
    return out;
  };
}

// Of rows that training does not show; null where there are none.
std::unique_ptr<training::ValidationLoss> held_out_loss(const TrainContext& context,
                                                        const TrainData& data) {
  if (!data.held_out) {
    return nullptr;
  }
  // What a row is checked against, and where it lies.
  const TrainData held_out{
      .folder = data.folder, .latent_shape = data.latent_shape, .rows = data.held_out_rows};
  const config::Data& wanted = context.recipe.training.data;
  return std::make_unique<training::ValidationLoss>(
      data.held_out,
      training::ValidationLossOptions{.rows = context.recipe.callbacks.validation.loss_rows,
                                      .batch = wanted.train_batch_size,
                                      .text_rows = wanted.text_len,
                                      .latent_frames = wanted.num_latent_t,
                                      .state = state_type(context.recipe)},
      [prepare = preparation(context, held_out), held_out](const data::Batch& batch) {
        training::MicroBatch out = prepare(batch);
        if (out.latents.defined() && out.latents.sizes().slice(1) != held_out.latent_shape) {
          throw InvalidInput(Code::kBadDataset,
                             str(held_out.rows ? held_out.rows->place(batch.rows.at(0)) : "a clip",
                                 ": latents are ", format_shape(out.latents.sizes().slice(1)),
                                 ", those of training ", format_shape(held_out.latent_shape)));
        }
        return out;
      });
}

int64_t tokens_of_step(const Recipe& recipe, const RoleNetworks& networks, const TrainData& data) {
  const layout::LatentSize size{.channels = data.latent_shape[0],
                                .frames = data.latent_shape[1],
                                .height = data.latent_shape[2],
                                .width = data.latent_shape[3]};
  return config::global_batch(recipe) *
         layout::token_grid(networks.at(kStudent).folder.transformer_config, size).num_tokens();
}

// The student's weights as a model folder, or its adapters as one file.
void write_student(const Recipe& recipe, const RoleNetwork& student, const Path& to) {
  if (student.lora) {
    training::LoraExport lora = training::export_lora(*student.network, *student.lora);
    lora.metadata.merge(lora_metadata(sampling_of(recipe, kStudent)));
    training::save_lora(to, lora);
    return;
  }
  training::ExportOptions options = export_options(recipe, kStudent, student.folder.folder);
  options.to = to;
  options.replaces = true;
  training::export_folder(training::weights_of(student.network->units()), options);
}

// What a distillation's networks made of its last student update, where the recipe wants it shown.
Previews previews_of(const Recipe& recipe, const training::Method& method) {
  const auto* const distill = dynamic_cast<const training::dmd::Distill*>(&method);
  if (!recipe.training.tracker.log_visualization || distill == nullptr) {
    return {};
  }
  return [distill]() -> std::map<std::string, at::Tensor> {
    const auto& [sample, noisy, x_fake, x_real] = distill->preview();
    if (!sample.defined()) {
      return {};
    }
    return {{"generator_pred_video", sample},
            {"fake_score_pred_video", x_fake},
            {"real_score_pred_video", x_real}};
  };
}

}  // namespace

namespace {

Content content_of(const config::Method& method) {
  if (config::reads_trajectories(method)) {
    return Content::kTrajectory;
  }
  return method.kind == config::MethodKind::kDistill &&
                 method.rollout_mode == config::RolloutMode::kSimulate
             ? Content::kNothing
             : Content::kLatents;
}

// Of some bytes of every tensor: tells a model that was trained on, at the cost of a short read a
// tensor.
std::string sampled_digest(const io::WeightFiles& weights) {
  constexpr int64_t kSampled = 4096;
  Sha256 sampled;
  std::vector<std::byte> bytes;
  for (const io::SafetensorsFile& file : weights.files()) {
    for (const io::TensorInfo& tensor : file.tensors()) {
      const int64_t count = std::min(kSampled, tensor.num_bytes());
      bytes.resize(static_cast<std::size_t>(count));
      file.read(tensor, (tensor.num_bytes() - count) / 2, bytes);
      sampled.update(bytes);
    }
  }
  return sampled.hex();
}

// What is known before weights are read.
struct FlowDraft {
  Content content = Content::kLatents;
  TrainData data;
  NetworkDrafts networks;
  std::shared_ptr<Validation> validation;  // null: none is wanted
  std::unique_ptr<training::ValidationLoss> loss;
};

TrainSetup load_flow(const TrainContext& context, FlowDraft& draft) {
  const Recipe& recipe = context.recipe;
  // The encoders come and go before the networks take their memory.
  encode_data(context, draft.content, draft.data);
  if (draft.validation) {
    draft.validation->encode_prompts();
  }
  const TrainData& data = draft.data;
  const auto networks =
      std::make_shared<const RoleNetworks>(load_networks(context, draft.networks));
  draft.networks.clear();  // their files need not stay open
  TrainSetup setup{.source = data.source,
                   .prepare = preparation(context, data),
                   .tokens_per_step = tokens_of_step(recipe, *networks, data),
                   .write_export = {},
                   .validation = draft.validation,
                   .method = make_method(context, *networks, data)};
  setup.operations = operations_of(recipe, networks, data, *setup.method);
  if (setup.validation) {
    setup.validation->lend(networks->at(kStudent).network,
                           {.previews = previews_of(recipe, *setup.method),
                            .loss = draft.loss ? std::move(draft.loss)  // of rows in files
                                               : held_out_loss(context, data)});
  }
  setup.write_export = [&recipe, networks](const Path& to) {
    write_student(recipe, networks->at(kStudent), to);
  };
  setup.write_beside = [negative = data.unconditional](const Path& run) {
    models::save_tensors(run / "negative.safetensors",
                         {{"negative_prompt_embeds", negative.unsqueeze(0)}});
  };
  return setup;
}

}  // namespace

TrainDraft draft_flow(const TrainContext& context) {
  const Recipe& recipe = context.recipe;
  const auto draft = std::make_shared<FlowDraft>();
  draft->content = content_of(recipe.method);
  draft->data = open_data(context, draft->content);
  draft->networks = draft_networks(context, draft->data);
  if (recipe.training.tracker.log_visualization && recipe.callbacks.validation.every_steps == 0) {
    context.on_note(
        "training.tracker.log_visualization shows nothing without callbacks.validation");
  }
  draft->loss = held_out_loss(context, draft->data);
  draft->validation = make_validation(context, draft->networks.at(kStudent).folder, draft->data);
  TrainDraft out{.data_digest = draft->data.rows ? draft->data.rows->digest() : "",
                 .num_rows = draft->data.num_rows,
                 .latent_frames = recipe.training.data.num_latent_t};
  for (const auto& [role, model] : recipe.models) {
    if (!model.trainable || model.lora.enable) {
      const auto& files = draft->networks.at(role).files;
      out.frozen[role] = files ? str(files->digest(), '+', sampled_digest(*files)) : "";
    }
  }
  out.load = [&context, draft] { return load_flow(context, *draft); };
  return out;
}

Sampling sampling_of(const Recipe& recipe, const std::string& role) {
  Sampling out;
  if (role != kStudent) {
    return out;
  }
  const config::RoleModel& model = recipe.models.at(role);
  if (model.attention_backend == config::AttentionBackend::kVsa) {
    out.preset["VSA_sparsity"] = recipe.training.vsa.sparsity;
    // Without gates nothing else tells that it is sparse.
    out.preset["attention_backend"] = recipe.training.vsa.coarse_branch ? Json() : Json("vsa");
  }
  if (config::is_few_step(recipe.method.kind)) {
    out.class_name = "WanDMDPipeline";
    out.preset["dmd_denoising_steps"] = recipe.method.dmd_denoising_steps;
    out.preset["warp_denoising_step"] = recipe.method.warp_denoising_step ? Json(true) : Json();
    out.preset["sampler"] = "dmd";
    out.preset["flow_shift"] = model.flow_shift;
    out.preset["num_inference_steps"] = nullptr;
    out.preset["guidance_scale"] = nullptr;
  }
  return out;
}

std::map<std::string, std::string> lora_metadata(const Sampling& sampling) {
  if (sampling.preset.empty()) {
    return {};
  }
  return {{layout::kLoraSampling,
           Json{{"class_name", sampling.class_name}, {"preset", sampling.preset}}.dump()}};
}

training::ExportOptions export_options(const Recipe& recipe,
                                       const std::string& role,
                                       const Path& base) {
  const Sampling sampling = sampling_of(recipe, role);
  const config::Checkpoint& saving = recipe.training.checkpoint;
  return {.base = base,
          .to = {},
          .class_name = sampling.class_name,
          .preset = sampling.preset.empty() ? "" : sampling.preset.dump(),
          .dtype = saving.export_dtype == config::ComputeDtype::kBf16 ? at::kBFloat16 : at::kFloat,
          .limit_bytes = saving.export_limit_bytes};
}

}  // namespace fastwan::cli
