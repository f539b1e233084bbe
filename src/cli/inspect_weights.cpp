// Model folders and safetensors files as JSON documents.
#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <set>

#include "base/shape.h"
#include "base/text.h"
#include "cli/inspect.h"
#include "cli/metadata.h"
#include "cli/request.h"
#include "io/safetensors.h"
#include "models/layout/lora_keys.h"
#include "models/layout/model_folder.h"
#include "models/layout/tensors.h"

namespace fastwan::cli {
namespace {

constexpr std::size_t kNamesListed = 10;

Json first_names(const std::vector<std::string>& names) {
  const std::vector<std::string> first(
      names.begin(),
      names.begin() + static_cast<std::ptrdiff_t>(std::min(names.size(), kNamesListed)));
  return {{"count", names.size()}, {"first", first}};
}

// Files, bytes, tensors, parameters and types of some weights.
Json totals_of(const io::WeightFiles& weights) {
  std::map<std::string, int64_t> dtypes;
  int64_t parameters = 0;
  int64_t tensors = 0;
  for (const io::SafetensorsFile& file : weights.files()) {
    for (const io::TensorInfo& tensor : file.tensors()) {
      ++dtypes[io::name_of(tensor.dtype)];
      parameters += tensor.num_elements();
      ++tensors;
    }
  }
  return {{"files", weights.files().size()},
          {"bytes", weights.total_bytes()},
          {"tensors", tensors},
          {"parameters", parameters},
          {"dtypes", dtypes}};
}

// Other spellings of the same tensor: original Wan, FastVideo, the tied embedding of UMT5.
std::string known_name(const std::string& name, const std::set<std::string>& wanted) {
  for (const std::string& spelled :
       {name, layout::diffusers_name_of_original(name), layout::diffusers_name_of_fastvideo(name),
        replace_all(name, "encoder.embed_tokens.", "shared.")}) {
    if (wanted.contains(spelled)) {
      return spelled;
    }
  }
  return name;
}

// Weights joined with what the config implies.
Json compare(const io::WeightFiles& weights, const std::vector<layout::TensorSpec>& specs) {
  std::set<std::string> wanted;
  for (const layout::TensorSpec& spec : specs) {
    wanted.insert(spec.name);
  }
  std::map<std::string, std::vector<int64_t>> found;
  std::vector<std::string> unexpected;
  for (const std::string& name : weights.names()) {
    const std::string known = known_name(name, wanted);
    if (wanted.contains(known)) {
      found[known] = weights.find(name)->tensor->shape;
    } else {
      unexpected.push_back(name);
    }
  }
  std::vector<std::string> missing;
  std::vector<std::string> misshapen;
  for (const layout::TensorSpec& spec : specs) {
    const auto it = found.find(spec.name);
    if (it == found.end()) {
      missing.push_back(str(spec.name, " ", format_shape(spec.shape)));
    } else if (it->second != spec.shape) {
      misshapen.push_back(
          str(spec.name, " ", format_shape(it->second), ", wanted ", format_shape(spec.shape)));
    }
  }
  return {{"missing", first_names(missing)},
          {"unexpected", first_names(unexpected)},
          {"misshapen", first_names(misshapen)}};
}

Json component(const char* name,
               const char* class_name,
               const Path& where,
               const std::vector<layout::TensorSpec>& specs) {
  const io::WeightFiles weights = io::WeightFiles::open(where);
  Json document = {{"name", name}, {"class", class_name}, {"path", where.string()}};
  document.update(totals_of(weights));
  document.update(compare(weights, specs));
  return document;
}

Json geometry(const layout::WanDitConfig& config) {
  return {{"layers", config.num_layers},
          {"width", config.width()},
          {"heads", config.num_heads},
          {"head_dim", config.head_dim},
          {"ffn_dim", config.ffn_dim},
          {"in_channels", config.in_channels},
          {"text_dim", config.text_dim},
          {"is_gated", config.is_gated},
          {"patch", {config.patch_t, config.patch_h, config.patch_w}}};
}

// What the tensors of one file tell of a Wan transformer.
Json geometry_from_tensors(const io::WeightFiles& weights) {
  std::map<std::string, std::vector<int64_t>> shapes;
  int64_t layers = 0;
  bool is_gated = false;
  for (const std::string& name : weights.names()) {
    const std::string known = layout::diffusers_name_of_original(name);
    shapes[known] = weights.find(name)->tensor->shape;
    is_gated = is_gated || name.find(layout::kGateName) != std::string::npos;
    if (known.starts_with("blocks.")) {
      layers = std::max(layers, parse_int(split(known, '.')[1]).value_or(0) + 1);
    }
  }
  const auto embedding = shapes.find("patch_embedding.weight");
  const auto ffn = shapes.find("blocks.0.ffn.net.0.proj.weight");
  if (embedding == shapes.end() || embedding->second.size() != 5 || ffn == shapes.end() ||
      ffn->second.size() != 2) {
    return nullptr;
  }
  return {{"layers", layers},
          {"width", embedding->second[0]},
          {"ffn_dim", ffn->second[0]},
          {"in_channels", embedding->second[1]},
          {"is_gated", is_gated},
          {"names", weights.find(ffn->first) ? "Diffusers" : "original Wan"}};
}

// Null when no key looks like a LoRA's.
Json lora_of(const io::WeightFiles& weights) {
  std::set<std::string> styles;
  std::set<std::string> modules;
  std::set<int64_t> ranks;
  std::vector<std::string> unknown;
  int64_t differences = 0;
  int64_t gates = 0;
  for (const std::string& name : weights.names()) {
    const std::optional<layout::LoraKey> key = layout::read_lora_key(name);
    if (layout::is_whole_gate(name)) {
      ++gates;
      continue;
    }
    if (!key) {
      unknown.push_back(name);
      continue;
    }
    styles.insert(layout::name_of(key->style));
    modules.insert(key->module);
    const std::vector<int64_t>& shape = weights.find(name)->tensor->shape;
    if (key->part == layout::LoraPart::kDown && !shape.empty()) {
      ranks.insert(shape[0]);
    }
    differences +=
        key->part == layout::LoraPart::kDiff || key->part == layout::LoraPart::kDiffBias ? 1 : 0;
  }
  if (modules.empty()) {
    return nullptr;
  }
  return {{"styles", styles}, {"modules", modules.size()},
          {"ranks", ranks},   {"differences", differences},
          {"gates", gates},   {"unknown_keys", first_names(unknown)}};
}

Json tensor_list(const io::WeightFiles& weights) {
  Json list = Json::array();
  for (const std::string& name : weights.names()) {
    const io::TensorInfo& tensor = *weights.find(name)->tensor;
    list.push_back({{"name", name}, {"dtype", io::name_of(tensor.dtype)}, {"shape", tensor.shape}});
  }
  return list;
}

// A component folder says in its config.json what it should hold.
Json known_component(const Path& folder) {
  const Path file = folder / "config.json";
  if (!std::filesystem::exists(file)) {
    return nullptr;
  }
  const Json config = read_json_file(file.string());
  const auto class_name = json_get_or<std::string>(config, "_class_name", "", file.string());
  const std::string name = folder.filename().string();
  if (class_name == "WanTransformer3DModel") {
    layout::WanDitConfig dit = layout::read_wan_dit(config, file.string());
    dit.is_gated = has_gates(folder);
    Json document =
        component(name.c_str(), "WanTransformer3DModel", folder, layout::tensors_of(dit));
    document["geometry"] = geometry(dit);
    return document;
  }
  if (class_name == "AutoencoderKLWan") {
    return component(name.c_str(), "AutoencoderKLWan", folder,
                     layout::tensors_of(layout::read_wan_vae(config, file.string())));
  }
  if (json_get_or<std::string>(config, "model_type", "", file.string()) == "umt5") {
    return component(name.c_str(), "UMT5EncoderModel", folder,
                     layout::tensors_of(layout::read_umt5(config, file.string())));
  }
  return nullptr;
}

}  // namespace

Json describe_weights(const Path& path) {
  Json known = std::filesystem::is_directory(path) ? known_component(path) : Json(nullptr);
  if (!known.is_null()) {
    return {{"kind", "component"}, {"path", path.string()}, {"components", {known}}};
  }
  const io::WeightFiles weights = io::WeightFiles::open(path);
  Json document = {{"kind", "weights"}, {"path", path.string()}};
  document.update(totals_of(weights));
  Json metadata = Json::object();
  for (const io::SafetensorsFile& file : weights.files()) {
    metadata.update(Json(file.metadata()));
  }
  document["metadata"] = metadata;
  Json lora = lora_of(weights);
  if (!lora.is_null()) {
    document["kind"] = "lora";
    document.update(lora);
  } else if (Json transformer = geometry_from_tensors(weights); !transformer.is_null()) {
    document["class"] = "WanTransformer3DModel";
    document["geometry"] = transformer;
  }
  document["tensor_list"] = tensor_list(weights);
  return document;
}

Json describe_model(const Path& folder) {
  layout::ModelFolder model = layout::open_model_folder(folder, {});
  find_gates(model);
  const config::ModelFacts facts = facts_of(model);
  const std::optional<config::Preset> own = folder_preset(model);
  const config::Preset* row = config::preset_for(facts);
  Json preset = nullptr;
  if (own) {
    preset = "fastwan.json";
  } else if (row != nullptr) {
    preset = row->name;
  }
  const layout::WanVaeConfig& vae = model.vae_config;
  Json document = {{"kind", "model"},
                   {"path", folder.string()},
                   {"class", model.class_name},
                   {"preset", preset},
                   {"is_gated", facts.is_gated},
                   {"takes_image", facts.takes_image},
                   {"digest", model_digest(model)},
                   {"latents",
                    {{"channels", vae.z_dim},
                     {"pixels_per_latent", vae.scale_factor_spatial},
                     {"frames_per_latent", vae.scale_factor_temporal},
                     {"size_multiple", facts.size_multiple}}},
                   {"components", Json::array()}};
  if (facts.boundary_ratio) {
    document["boundary_ratio"] = *facts.boundary_ratio;
  }
  Json& components = document["components"];
  components.push_back(component("transformer", "WanTransformer3DModel", model.transformer,
                                 layout::tensors_of(model.transformer_config)));
  components.back()["geometry"] = geometry(model.transformer_config);
  if (model.transformer_2) {
    components.push_back(component("transformer_2", "WanTransformer3DModel", *model.transformer_2,
                                   layout::tensors_of(*model.transformer_2_config)));
    components.back()["geometry"] = geometry(*model.transformer_2_config);
  }
  components.push_back(
      component("vae", "AutoencoderKLWan", model.vae, layout::tensors_of(model.vae_config)));
  components.push_back(component("text_encoder", "UMT5EncoderModel", model.text_encoder,
                                 layout::tensors_of(model.text_encoder_config)));
  return document;
}

}  // namespace fastwan::cli
