// The parts of a training run, built from its recipe: networks, data, method.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/files.h"
#include "base/json.h"
#include "base/watch.h"
#include "config/recipe.h"
#include "data/loader.h"
#include "data/row_source.h"
#include "data/shapes.h"
#include "data/source.h"
#include "distributed/comm.h"
#include "io/safetensors.h"
#include "models/layout/model_folder.h"
#include "models/layout/training_fit.h"
#include "ops/attention.h"
#include "text/tokenizer.h"
#include "training/export.h"
#include "training/lora.h"
#include "training/method.h"
#include "training/network.h"
#include "training/schedule.h"

namespace fastwan::cli {

struct TrainContext {
  const config::Recipe& recipe;
  at::Device device = at::kCPU;
  distributed::Mesh mesh;
  const Watch& watch;
  const std::vector<Path>& media_roots;          // as io::open_ffmpeg takes them
  const std::map<std::string, Path>& snapshots;  // config::TrainRun
  std::function<void(const std::string&)> on_note;

  // The folder of VAE, text encoder and tokenizer, as the recipe names it.
  const std::string& data_model() const {
    const std::string& path = recipe.training.model_path;
    return path.empty() ? recipe.models.at("student").init_from : path;
  }
  // Where a model of the recipe lies.
  Path folder_of(const std::string& model) const {
    const auto found = snapshots.find(model);
    return found == snapshots.end() ? Path(model) : found->second;
  }
};

at::ScalarType compute_type(const config::Recipe& recipe);
training::LoraOptions lora_of(const config::Recipe& recipe, const config::RoleModel& model);

// Parameters of the same name get the other side's values; others stay.
void copy_values(const torch::nn::Module& from, const torch::nn::Module& to);
void copy_values(const training::Units& from, const torch::nn::Module& to);
void copy_values(const std::vector<training::ExportTensor>& from, const torch::nn::Module& to);

class Validation;  // train_validation.h

// A run as the trainer takes it, whatever its method: everything is loaded.
struct TrainSetup {
  std::shared_ptr<const data::Source> source;
  std::function<training::MicroBatch(const data::Batch&)> prepare;
  int64_t tokens_per_step = 0;                     // 0: unknown
  std::function<double(int64_t step)> operations;  // of an iteration; empty: unknown
  // The student's weights, as they are now, in a model folder.
  std::function<void(const Path& to)> write_export;
  // What lies beside the checkpoints for people and other programs.
  std::function<void(const Path& run)> write_beside = [](const Path&) {};
  std::shared_ptr<Validation> validation;  // null: none is wanted
  // Goes first: what it works on is held by the functions above.
  std::unique_ptr<training::Method> method;
};
// A run whose configs, folders, weight files' headers and first rows fit together: what a mistake
// in them costs is seconds, for no weights are read yet.
struct TrainDraft {
  std::map<std::string, std::string> frozen;  // digests of weights by role; under adapters too
  std::string data_digest;                    // empty: known when clips are encoded
  int64_t num_rows = 0;
  int64_t latent_frames = 0;  // the first so many of each row; 0: all
  std::function<TrainSetup()> load;
};
// finetune, distill, ode: flow networks on latents.
TrainDraft draft_flow(const TrainContext& context);
// vae, text, features: networks on procedural clips, their frames or their captions.
TrainDraft draft_shapes(const TrainContext& context);

// Whether a run trains a transformer, by draft_flow(); else by draft_shapes().
inline bool trains_flow(const config::Recipe& recipe) {
  return config::trains_transformer(recipe.method.kind);
}

// What a run of draft_shapes() exports of its student's weights: a model folder with this VAE or
// text encoder, or the file of a feature net. A VAE that was trained whole encodes clips of the
// recipe on `device`, for its config's statistics of latents.
struct ShapesExport {
  const config::Recipe& recipe;
  at::Device device = at::kCPU;
  const Watch& watch;
  training::ExportOptions options;  // but for component and config; of a feature net `to` alone
};
void export_shapes(const ShapesExport& to, std::vector<training::ExportTensor> weights);

data::shapes::Format shapes_format(const config::Recipe& recipe);
data::shapes::IndexRange shapes_range(const config::Recipe& recipe);

// What a method reads of a sample besides its text.
enum class Content {
  kNothing,  // it makes its latents itself
  kLatents,
  kTrajectory,  // a teacher's
};

struct TrainData {
  layout::ModelFolder folder;  // of VAE, text encoder and tokenizer
  int64_t num_rows = 0;
  std::vector<int64_t> latent_shape;         // [C, T, H, W] of a sample
  std::shared_ptr<const data::Source> rows;  // where files are read, else null
  // Until encode_data(); null where no text is encoded.
  std::shared_ptr<const text::Tokenizer> tokenizer;
  // From then on:
  std::shared_ptr<const data::Source> source;
  at::Tensor unconditional;  // [L, text_dim] fp32 on the device
  // What validation_loss is measured on, of rows that training does not show: files at once, clips
  // from encode_data() on; null: no such loss.
  std::shared_ptr<const data::Source> held_out;
  std::shared_ptr<const data::Source> held_out_rows;  // it, where it reads files
};
// Whether the recipe asks for validation_loss, if there are rows for it.
bool wants_validation_loss(const config::Recipe& recipe);
// bad_dataset, naming the row's file, where latents or text are not of the model folder's widths.
// `channels` 0: a row of text alone.
void check_row(const TrainData& data, int64_t row, int64_t channels, int64_t text_width);
layout::TrainingInputs inputs_of(const layout::ModelFolder& folder);
// Folders, sizes and the first row. bad_dataset, conflict, bad_value.
TrainData open_data(const TrainContext& context, Content content);
// Loads VAE and text encoder only where something must be encoded, and lets them go.
void encode_data(const TrainContext& context, Content content, TrainData& data);

// The networks of flow methods by role: student, teacher, critic; first what their folders tell.
struct NetworkDraft {
  layout::ModelFolder folder;
  std::shared_ptr<const ops::Attention> attention;
  layout::WanDitConfig config;                   // gated where the attention wants it
  std::shared_ptr<const io::WeightFiles> files;  // null: random start
};
using NetworkDrafts = std::map<std::string, NetworkDraft>;
// unsupported_model; conflict where a network does not take the run's latents and texts; bad_value;
// what layout::open_model_folder() and the files' headers say.
NetworkDrafts draft_networks(const TrainContext& context, const TrainData& data);

struct RoleNetwork {
  layout::ModelFolder folder;
  std::shared_ptr<training::Network> network;
  std::optional<training::LoraOptions> lora;
};
using RoleNetworks = std::map<std::string, RoleNetwork>;
RoleNetworks load_networks(const TrainContext& context, const NetworkDrafts& drafts);

// Timesteps at which the recipe's few-step student works.
std::vector<double> student_timesteps(const config::Recipe& recipe);
at::ScalarType state_type(const config::Recipe& recipe);  // of losses and samples
std::unique_ptr<training::Method> make_method(const TrainContext& context,
                                              const RoleNetworks& networks,
                                              const TrainData& data);

// How the role's network wants to be sampled: its pipeline's class, where it differs from the
// base's, and what a fastwan.json says (null: nothing, whatever the base's says).
struct Sampling {
  std::string class_name;
  Json preset = Json::object();
};
Sampling sampling_of(const config::Recipe& recipe, const std::string& role);
// The same for the metadata of a LoRA file (docs/lora.md).
std::map<std::string, std::string> lora_metadata(const Sampling& sampling);

// How a role's weights become a model folder; where to is left to the caller. A distilled student
// is a few-step model, and its folder's preset says the run's way of sampling.
// `base`: the role's model folder.
training::ExportOptions export_options(const config::Recipe& recipe,
                                       const std::string& role,
                                       const Path& base);

}  // namespace fastwan::cli
