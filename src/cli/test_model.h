// A model folder of the real layout and very small sizes, for the tests of this room. Weights are
// zeros: nothing here computes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "io/safetensors.h"
#include "models/layout/configs.h"
#include "models/layout/tensors.h"

namespace fastwan::cli {

class TestModel {
 public:
  explicit TestModel(bool is_gated = true, const std::string& class_name = "WanDMDPipeline") {
    const Json dit = {{"_class_name", "WanTransformer3DModel"},
                      {"num_attention_heads", 2},
                      {"attention_head_dim", 12},
                      {"num_layers", 2},
                      {"ffn_dim", 32},
                      {"in_channels", 4},
                      {"out_channels", 4},
                      {"text_dim", 16},
                      {"freq_dim", 8}};
    const Json vae = {{"_class_name", "AutoencoderKLWan"},
                      {"base_dim", 4},
                      {"z_dim", 4},
                      {"latents_mean", {0, 0, 0, 0}},
                      {"latents_std", {1, 1, 1, 1}}};
    const Json text = {{"model_type", "umt5"}, {"d_model", 16}, {"d_kv", 8},
                       {"num_heads", 2},       {"d_ff", 32},    {"num_layers", 1},
                       {"vocab_size", 64}};
    write("model_index.json", {{"_class_name", class_name}});
    write("transformer/config.json", dit);
    write("vae/config.json", vae);
    write("text_encoder/config.json", text);
    write("tokenizer/tokenizer_config.json", {{"model_max_length", 32}});
    write("fastwan.json",
          {{"width", 64},
           {"height", 32},
           {"num_frames", 9},
           {"fps", 8},
           {"legal", {{"width", {16, 128}}, {"height", {16, 128}}, {"num_frames", {1, 17}}}}});
    layout::WanDitConfig config = layout::read_wan_dit(dit, "dit");
    config.is_gated = is_gated;
    write_weights("transformer", layout::tensors_of(config));
    write_weights("vae", layout::tensors_of(layout::read_wan_vae(vae, "vae")));
    write_weights("text_encoder", layout::tensors_of(layout::read_umt5(text, "text")));
  }

  Path where() const { return folder_.where(); }

  void write(const std::string& file, const Json& json) {
    std::filesystem::create_directories((where() / file).parent_path());
    write_durably(where() / file, dump_json(json));
  }

  void write_weights(const std::string& component, const std::vector<layout::TensorSpec>& specs) {
    std::filesystem::create_directories(where() / component);
    std::vector<io::TensorInfo> tensors;
    for (const layout::TensorSpec& spec : specs) {
      tensors.push_back({.name = spec.name, .dtype = io::Dtype::kBf16, .shape = spec.shape});
    }
    io::SafetensorsWriter::write(
        where() / component / "model.safetensors", tensors, {},
        [](const io::TensorInfo& tensor, FileSink& sink) {
          sink.write(std::vector<std::byte>(static_cast<std::size_t>(tensor.num_bytes())));
        });
  }

 private:
  TempFolder folder_;
};

}  // namespace fastwan::cli
