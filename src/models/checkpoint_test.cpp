#include "models/checkpoint.h"

#include <fstream>
#include <limits>
#include <map>

#include <ATen/ops/empty.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include "base/check.h"
#include "base/text.h"
#include "models/layout/model_folder.h"
#include "models/umt5.h"
#include "models/wan_dit.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::models {
namespace {

using testing::golden_tensor;
using testing::is_equal;

layout::WanDitConfig small_config(bool is_gated = false) {
  return {.num_heads = 2,
          .head_dim = 24,
          .num_layers = 2,
          .ffn_dim = 64,
          .in_channels = 4,
          .out_channels = 4,
          .text_dim = 32,
          .freq_dim = 32,
          .is_gated = is_gated};
}

std::shared_ptr<const ops::Attention> attention_of(bool is_gated) {
  if (is_gated) {
    return std::make_shared<ops::VsaAttention>(ops::Sparsity{.value = 0.5}, true);
  }
  return std::make_shared<ops::FullAttention>();
}

std::shared_ptr<WanDit> reference(bool is_gated = false, const std::string& seed = "f1") {
  auto model = std::make_shared<WanDit>(small_config(is_gated), attention_of(is_gated),
                                        RoundingProfile::fp32(), at::kCPU);
  testing::fill_golden_weights(*model, seed);
  return model;
}

std::vector<NamedTensor> tensors_of(const torch::nn::Module& model) {
  std::vector<NamedTensor> out;
  for (const auto& parameter : model.named_parameters()) {
    out.push_back({parameter.key(), parameter.value().clone()});
  }
  return out;
}

void expect_same_weights(const torch::nn::Module& got, const torch::nn::Module& want) {
  const auto wanted = want.named_parameters();
  ASSERT_EQ(got.named_parameters().size(), wanted.size());
  for (const auto& parameter : got.named_parameters()) {
    EXPECT_TRUE(is_equal(parameter.value(), wanted[parameter.key()])) << parameter.key();
  }
}

class Checkpoint : public ::testing::Test {
 protected:
  Path where() const { return folder_.where(); }

  // Two shards and their index, tensors taken in turns.
  void store_sharded(const std::vector<NamedTensor>& tensors) const {
    std::vector<NamedTensor> shards[2];
    Json map = Json::object();
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      shards[i % 2].push_back(tensors[i]);
      map[tensors[i].name] = shard_name(i % 2);
    }
    for (std::size_t i : {0U, 1U}) {
      save_tensors(where() / shard_name(i), shards[i]);
    }
    write_durably(where() / "diffusion_pytorch_model.safetensors.index.json",
                  dump_json({{"metadata", Json::object()}, {"weight_map", map}}));
  }
  void store(const std::vector<NamedTensor>& tensors) const {
    save_tensors(where() / "diffusion_pytorch_model.safetensors", tensors);
  }
  std::shared_ptr<WanDit> load(bool is_gated = false,
                               const RoundingProfile& profile = RoundingProfile::fp32()) {
    return load_wan_dit(small_config(), io::WeightFiles::open(where()), attention_of(is_gated),
                        {.profile = profile,
                         .on_note = [this](const std::string& text) { notes_.push_back(text); }});
  }
  std::string refusal(Code code) {
    try {
      load();
    } catch (const InvalidInput& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      return error.what();
    }
    return "nothing was thrown";
  }

  std::vector<std::string> notes_;

 private:
  static std::string shard_name(std::size_t i) {
    return str("diffusion_pytorch_model-0000", i + 1, "-of-00002.safetensors");
  }
  TempFolder folder_;
};

void expect_part(const std::string& message, std::string_view part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

// --- what fits

TEST(Tensors, ModelsHoldExactlyWhatTheirConfigImplies) {
  const auto specs_of = [](const torch::nn::Module& model) {
    std::map<std::string, std::vector<int64_t>> out;
    for (const auto& parameter : model.named_parameters()) {
      out.emplace(parameter.key(), parameter.value().sizes().vec());
    }
    return out;
  };
  const auto as_map = [](const std::vector<layout::TensorSpec>& specs) {
    std::map<std::string, std::vector<int64_t>> out;
    for (const layout::TensorSpec& spec : specs) {
      out.emplace(spec.name, spec.shape);
    }
    return out;
  };
  for (const bool is_gated : {false, true}) {
    EXPECT_EQ(specs_of(*reference(is_gated)), as_map(layout::tensors_of(small_config(is_gated))));
  }
  const layout::Umt5Config umt5{
      .d_model = 32, .d_kv = 8, .num_heads = 4, .d_ff = 64, .num_layers = 2, .vocab_size = 300};
  EXPECT_EQ(specs_of(Umt5(umt5, at::kFloat, {})), as_map(layout::tensors_of(umt5)));
}

TEST_F(Checkpoint, ShardsOfSeveralTypesAreReadIntoPlace) {
  const auto want = reference();
  std::vector<NamedTensor> stored = tensors_of(*want);
  const at::ScalarType types[] = {at::kFloat, at::kHalf, at::kBFloat16};
  for (std::size_t i = 0; i < stored.size(); ++i) {
    stored[i].tensor = stored[i].tensor.to(types[i % 3]);
    want->named_parameters()[stored[i].name].copy_(stored[i].tensor);
  }
  store_sharded(stored);
  expect_same_weights(*load(), *want);
}

TEST_F(Checkpoint, KeptModulesStayFp32WhenTheModelIsBf16) {
  const auto want = reference();
  store(tensors_of(*want));
  const auto got = load(false, RoundingProfile::diffusers_bf16());
  for (const auto& parameter : got->named_parameters()) {
    const std::string& name = parameter.key();
    const bool is_kept = name.find("time_embedder") != std::string::npos ||
                         name.find("scale_shift_table") != std::string::npos ||
                         name.find("norm2") != std::string::npos;
    const at::ScalarType type = is_kept ? at::kFloat : at::kBFloat16;
    EXPECT_TRUE(is_equal(parameter.value(), want->named_parameters()[name].to(type))) << name;
  }
}

// Names of the original Wan files, written down here once more and the other way round.
std::string original_name(std::string name) {
  const std::pair<const char*, const char*> table[] = {
      {"condition_embedder.text_embedder.linear_1", "text_embedding.0"},
      {"condition_embedder.text_embedder.linear_2", "text_embedding.2"},
      {"condition_embedder.time_embedder.linear_1", "time_embedding.0"},
      {"condition_embedder.time_embedder.linear_2", "time_embedding.2"},
      {"condition_embedder.time_proj", "time_projection.1"},
      {"proj_out", "head.head"},
      {"attn1.to_out.0", "self_attn.o"},
      {"attn2.to_out.0", "cross_attn.o"},
      {"attn1.to_", "self_attn."},
      {"attn2.to_", "cross_attn."},
      {"attn1.", "self_attn."},
      {"attn2.", "cross_attn."},
      {"norm2", "norm3"},
      {"ffn.net.0.proj", "ffn.0"},
      {"ffn.net.2", "ffn.2"}};
  if (name == "scale_shift_table") {
    return "head.modulation";
  }
  name = replace_all(name, "scale_shift_table", "modulation");
  for (const auto& [theirs, own] : table) {
    name = replace_all(name, theirs, own);
  }
  return name;
}

std::string fastvideo_name(std::string name) {
  const std::pair<const char*, const char*> table[] = {
      {"patch_embedding.", "patch_embedding.proj."},
      {"text_embedder.linear_1", "text_embedder.fc_in"},
      {"text_embedder.linear_2", "text_embedder.fc_out"},
      {"time_embedder.linear_1", "time_embedder.mlp.fc_in"},
      {"time_embedder.linear_2", "time_embedder.mlp.fc_out"},
      {"time_proj", "time_modulation.linear"},
      {"to_out.0", "to_out"},
      {"attn1.", ""},
      {"ffn.net.0.proj", "ffn.fc_in"},
      {"ffn.net.2", "ffn.fc_out"},
      {".norm2.", ".self_attn_residual_norm.norm."}};
  for (const auto& [theirs, own] : table) {
    name = replace_all(name, theirs, own);
  }
  return name;
}

TEST_F(Checkpoint, NamesMayBeDiffusersOriginalOrFastVideos) {
  const auto want = reference();
  const std::function<std::string(std::string)> spellings[] = {
      original_name,
      [](const std::string& name) { return "model.diffusion_model." + original_name(name); },
      [](const std::string& name) { return "model.diffusion_model." + name; }, fastvideo_name};
  for (const auto& spelling : spellings) {
    std::vector<NamedTensor> stored = tensors_of(*want);
    for (NamedTensor& t : stored) {
      t.name = spelling(t.name);
    }
    store(stored);
    expect_same_weights(*load(), *want);
  }
}

TEST_F(Checkpoint, AnOriginalFileIsOpenedThroughItsOwnConfig) {
  const auto want = reference();
  std::vector<NamedTensor> stored = tensors_of(*want);
  for (NamedTensor& t : stored) {
    t.name = original_name(t.name);
  }
  const Path file = where() / "wan" / "original.safetensors";
  const layout::Overrides overrides{.vae = where() / "vae",
                                    .text_encoder = where() / "text_encoder",
                                    .tokenizer = where() / "tokenizer"};
  for (const Path& folder :
       {file.parent_path(), overrides.vae, overrides.text_encoder, overrides.tokenizer}) {
    std::filesystem::create_directory(folder);
  }
  save_tensors(file, stored);
  write_durably(file.parent_path() / "config.json", dump_json({{"model_type", "t2v"},
                                                               {"dim", 48},
                                                               {"ffn_dim", 64},
                                                               {"num_heads", 2},
                                                               {"num_layers", 2},
                                                               {"in_dim", 4},
                                                               {"out_dim", 4},
                                                               {"freq_dim", 32},
                                                               {"text_dim", 32},
                                                               {"eps", 1e-6}}));
  write_durably(
      overrides.vae / "config.json",
      dump_json({{"z_dim", 4}, {"latents_mean", {0, 0, 0, 0}}, {"latents_std", {1, 1, 1, 1}}}));
  write_durably(overrides.text_encoder / "config.json", dump_json({{"d_model", 32},
                                                                   {"d_kv", 8},
                                                                   {"num_heads", 4},
                                                                   {"d_ff", 64},
                                                                   {"num_layers", 1},
                                                                   {"vocab_size", 300}}));
  const layout::ModelFolder folder = layout::open_model_folder(file, overrides);
  const auto got = load_wan_dit(folder.transformer_config,
                                io::WeightFiles::open(folder.transformer), attention_of(false), {});
  expect_same_weights(*got, *want);
}

// --- gates

TEST_F(Checkpoint, GatesAreLeftOutForFullAttentionAndItIsSaid) {
  const auto gated = reference(/*is_gated=*/true);
  store(tensors_of(*gated));
  EXPECT_TRUE(has_gates(io::WeightFiles::open(where())));
  expect_same_weights(*load(/*is_gated=*/true), *gated);
  EXPECT_TRUE(notes_.empty());
  expect_same_weights(*load(), *reference());
  ASSERT_EQ(notes_.size(), 1U);
  expect_part(notes_[0], "gate weights are left out");
}

TEST_F(Checkpoint, GatesThatAreNotStoredAreZero) {
  const auto want = reference(/*is_gated=*/true);
  std::vector<NamedTensor> stored = tensors_of(*want);
  std::erase_if(
      stored, [](const NamedTensor& t) { return t.name.starts_with("blocks.1.to_gate_compress"); });
  store(stored);
  for (const char* name : {"blocks.1.to_gate_compress.weight", "blocks.1.to_gate_compress.bias"}) {
    want->named_parameters()[name].zero_();
  }
  expect_same_weights(*load(/*is_gated=*/true), *want);
  ASSERT_EQ(notes_.size(), 1U);
  expect_part(notes_[0], "2 gate weights are not in the files");
}

// --- what does not fit

TEST_F(Checkpoint, MissingUnexpectedAndMisshapenNamesAreListedTenAndTheCount) {
  std::vector<NamedTensor> stored = tensors_of(*reference());
  std::erase_if(stored, [](const NamedTensor& t) { return t.name.starts_with("blocks.1."); });
  for (NamedTensor& t : stored) {
    if (t.name == "proj_out.weight") {
      t.tensor = at::empty({48, 16}).zero_();
    }
    if (t.name == "proj_out.bias") {
      t.tensor = t.tensor.to(at::kLong);
    }
  }
  stored.push_back({"blocks.0.attn1.to_q.lora", at::empty({2}).zero_()});
  store(stored);
  const std::string message = refusal(Code::kMissingWeights);
  expect_part(message, "27 missing: blocks.1.");
  expect_part(message, "(27 in all)");
  expect_part(message, "1 unexpected: blocks.0.attn1.to_q.lora");
  expect_part(message, "2 of another shape or type: ");
  expect_part(message, "proj_out.weight [48, 16], wanted [16, 48]");
  expect_part(message, "proj_out.bias is I64, wanted a floating type");
  const std::size_t list = message.find("27 missing");
  const std::string missing = message.substr(list, message.find("unexpected") - list);
  std::size_t num_listed = 0;
  for (std::size_t at = missing.find("blocks.1."); at != std::string::npos;
       at = missing.find("blocks.1.", at + 1)) {
    ++num_listed;
  }
  EXPECT_EQ(num_listed, 10U) << missing;
}

TEST_F(Checkpoint, AConfigOfHostileSizesEndsBeforeAnyAllocation) {
  store(tensors_of(*reference()));
  layout::WanDitConfig config = small_config();
  config.num_heads = config.head_dim = config.ffn_dim = 1 << 20;
  try {
    load_wan_dit(config, io::WeightFiles::open(where()), attention_of(false), {});
    FAIL() << "no such weights exist";
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kMissingWeights) << error.what();
  }
}

TEST_F(Checkpoint, OneWeightUnderTwoNamesIsRefused) {
  std::vector<NamedTensor> stored = tensors_of(*reference());
  stored.push_back({"head.head.bias", at::empty({16}).zero_()});
  store(stored);
  expect_part(refusal(Code::kMissingWeights), "proj_out.bias (the same as head.head.bias)");
}

TEST_F(Checkpoint, NotANumberIsNamedInEveryStoredType) {
  for (const at::ScalarType type : {at::kFloat, at::kHalf, at::kBFloat16, at::kDouble}) {
    for (const double bad :
         {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
      std::vector<NamedTensor> stored = tensors_of(*reference());
      for (NamedTensor& t : stored) {
        t.tensor = t.tensor.to(type);
      }
      store(stored);
      EXPECT_NO_THROW(load());
      at::Tensor& last = stored.back().tensor;
      last.view({-1})[last.numel() - 1].fill_(bad);
      store(stored);
      const std::string message = refusal(Code::kNonFiniteWeights);
      expect_part(message, "diffusion_pytorch_model.safetensors");
      expect_part(message, str('"', stored.back().name, '"'));
    }
  }
}

// --- properties

TEST_F(Checkpoint, OneModelGivesTheSameResultHoweverItIsStored) {
  for (const char* seed : {"a", "b", "c"}) {
    const auto want = reference(/*is_gated=*/true, seed);
    for (const auto& parameter : want->named_parameters()) {
      parameter.value().copy_(parameter.value().to(at::kBFloat16));  // numbers that bf16 can hold
    }
    const at::Tensor latents = golden_tensor(seed, "latents", {1, 4, 3, 6, 10});
    const at::Tensor text = golden_tensor(seed, "text", {1, 5, 32});
    const auto velocity = [&](const WanDit& model) {
      return model.forward(latents, golden_tensor(seed, "t", {1}, 500.0, 100.0),
                           model.embed_text(text), model.plan_for(latents.sizes(), at::kCPU));
    };
    const at::Tensor once = velocity(*want);
    for (const bool is_sharded : {false, true}) {
      for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
        std::vector<NamedTensor> stored = tensors_of(*want);
        for (NamedTensor& t : stored) {
          t.tensor = t.tensor.to(type);
        }
        for (const auto& entry : std::filesystem::directory_iterator(where())) {
          std::filesystem::remove(entry.path());
        }
        is_sharded ? store_sharded(stored) : store(stored);
        EXPECT_TRUE(is_equal(velocity(*load(/*is_gated=*/true)), once))
            << seed << " sharded " << is_sharded << " " << type;
      }
    }
  }
}

// A number of /proc/self/`file` by its key; bytes of "VmHWM" are given in kB there.
int64_t proc_number(const char* file, const std::string& key) {
  std::ifstream in(str("/proc/self/", file));
  for (std::string word; in >> word;) {
    if (word == key + ":") {
      int64_t value = 0;
      in >> value;
      return value;
    }
  }
  ADD_FAILURE() << "/proc/self/" << file << " has no " << key;
  return 0;
}

// 105 million weights in one file of 420 MB (210 MB), with the widths of a real block.
class CheckpointMemory
    : public Checkpoint,
      public ::testing::WithParamInterface<std::pair<at::ScalarType, RoundingProfile>> {};

TEST_P(CheckpointMemory, PeaksBelow115PercentOfTheWeightsAndReadsEachByteOnce) {
  const auto& [stored_type, profile] = GetParam();
  layout::WanDitConfig config = small_config();
  config.num_heads = 12;
  config.head_dim = 128;
  config.ffn_dim = 8960;
  config.text_dim = 4096;
  int64_t stored_bytes = 0;
  {
    const WanDit model(config, attention_of(false), RoundingProfile::fp32(), at::kCPU);
    std::vector<NamedTensor> stored;
    for (const auto& parameter : model.named_parameters()) {
      stored.push_back({parameter.key(), parameter.value().fill_(0.5).to(stored_type)});
      stored_bytes += static_cast<int64_t>(stored.back().tensor.nbytes());
    }
    store(stored);
  }
  malloc_trim(0);  // what earlier tests freed would be used again unseen
  std::ofstream("/proc/self/clear_refs") << "5";  // the high-water mark starts anew
  const int64_t bytes_before = proc_number("status", "VmRSS") * 1024;
  const int64_t read_before = proc_number("io", "rchar");
  const auto model = load_wan_dit(config, io::WeightFiles::open(where()), attention_of(false),
                                  {.profile = profile});
  const int64_t read = proc_number("io", "rchar") - read_before;
  const int64_t peak_bytes = proc_number("status", "VmHWM") * 1024 - bytes_before;
  int64_t held_bytes = 0;
  for (const auto& parameter : model->named_parameters()) {
    held_bytes += static_cast<int64_t>(parameter.value().nbytes());
  }
  RecordProperty("held_bytes", std::to_string(held_bytes));
  RecordProperty("peak_bytes", std::to_string(peak_bytes));
  EXPECT_LE(static_cast<double>(peak_bytes), 1.15 * static_cast<double>(held_bytes));
  EXPECT_GE(peak_bytes, held_bytes * 9 / 10) << "the measure does not see the weights";
  EXPECT_GE(read, stored_bytes);
  EXPECT_LE(read, stored_bytes + (1 << 20));  // headers and these very readings
}

INSTANTIATE_TEST_SUITE_P(InPlaceAndCast,
                         CheckpointMemory,
                         ::testing::Values(std::pair{at::kFloat, RoundingProfile::fp32()},
                                           std::pair{at::kBFloat16, RoundingProfile::fp32()},
                                           std::pair{at::kFloat,
                                                     RoundingProfile::fastvideo_bf16()}));

}  // namespace
}  // namespace fastwan::models
