#include "models/wan_vae.h"

#include <algorithm>
#include <fstream>
#include <map>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>
#include <gtest/gtest.h>

#include "base/check.h"
#include "base/text.h"
#include "models/checkpoint.h"
#include "models/layout/tensors.h"
#include "models/wan_vae/decoder.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::models {
namespace {

using layout::WanVaeConfig;
using testing::Golden;
using testing::golden_tensor;
using testing::is_close;
using testing::is_equal;
using testing::kModelFp32;

const WanVaeConfig kTrue21{};
const WanVaeConfig kTrue22{.base_dim = 160,
                           .decoder_base_dim = 256,
                           .z_dim = 48,
                           .is_residual = true,
                           .in_channels = 12,
                           .out_channels = 12,
                           .patch_size = 2,
                           .scale_factor_spatial = 16};

WanVaeConfig config_of(const Golden& golden) {
  return layout::read_wan_vae(golden.manifest().at("config"), "golden");
}

std::vector<int64_t> sizes_of(const Golden& golden, const char* key) {
  return golden.manifest().at(key).get<std::vector<int64_t>>();
}

// The parts of the model that have no clamp, under the model's names.
struct BareDecoder {
  explicit BareDecoder(const std::string& golden_case,
                       const WanVaeConfig& config,
                       at::ScalarType type)
      : decoder(config, {.root = root, .name = "decoder", .options = type}),
        post_quant(
            wan_vae::PointwiseConv::make({.root = root, .name = "post_quant_conv", .options = type},
                                         config.z_dim,
                                         config.z_dim,
                                         5)) {
    testing::fill_golden_weights(root, golden_case);
  }
  at::Tensor decode(const at::Tensor& latents) const {
    const at::Tensor x = post_quant(latents.movedim(1, -1).contiguous());
    wan_vae::FeatureCache cache;
    std::vector<at::Tensor> chunks;
    for (int64_t t = 0; t < x.size(1); ++t) {
      cache.next_chunk();
      chunks.push_back(decoder.forward(x.narrow(1, t, 1).contiguous(), cache));
    }
    return at::cat(chunks, 1).movedim(-1, 1);  // [B, C, F, H, W]
  }

  torch::nn::Module root;
  wan_vae::Decoder decoder;
  wan_vae::PointwiseConv post_quant;
};

// name -> output, as tools/golden/vae.py names them.
std::map<std::string, at::Tensor> outputs_of(const std::string& golden_case,
                                             const Golden& golden,
                                             at::ScalarType type) {
  const at::NoGradGuard no_grad;
  const WanVaeConfig config = config_of(golden);
  WanVae vae(config, {.dtype = type});
  EXPECT_EQ(testing::fill_golden_weights(vae, golden_case),
            golden.manifest().at("weights_sha256").get<std::string>());
  const BareDecoder bare(golden_case, config, type);
  const std::vector<int64_t> pixels = sizes_of(golden, "pixels");
  const std::vector<int64_t> latent = sizes_of(golden, "latent_size");
  std::map<std::string, at::Tensor> out;
  for (const int64_t frames : {1, 5, 7, 9}) {
    const at::Tensor video = golden_tensor(golden_case, str("video", frames),
                                           {1, 3, frames, pixels[0], pixels[1]}, 0.0, 0.5);
    const LatentPosterior posterior = vae.encode(video);
    out[str("encode", frames, ".mean")] = posterior.mean;
    out[str("encode", frames, ".logvar")] = posterior.logvar;
  }
  for (const int64_t frames : {1, 2, 3, 4}) {
    const at::Tensor latents =
        golden_tensor(golden_case, str("latents", frames),
                      {1, config.z_dim, frames, latent[0], latent[1]}, 0.0, 0.3);
    out[str("decode", frames, ".unclamped")] = bare.decode(latents.to(type));
    if (frames == 4) {
      out["decode4.frames"] = vae.decode(latents);
    }
  }
  return out;
}

class WanVaeGolden : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Versions, WanVaeGolden, ::testing::Values("vae21", "vae22"));

TEST_P(WanVaeGolden, AgreesWithDiffusersAtEveryLengthInFp32) {
  const Golden golden("vae", GetParam());
  for (const auto& [name, whole] : outputs_of(GetParam(), golden, at::kFloat)) {
    EXPECT_TRUE(is_close(golden.sample_of(name, whole), golden.tensor(name), kModelFp32)) << name;
  }
}

TEST_P(WanVaeGolden, InBf16IsAsNearToFp32AsDiffusersIs) {
  const Golden golden("vae", GetParam());
  for (const auto& [name, whole] : outputs_of(GetParam(), golden, at::kBFloat16)) {
    if (name == "decode4.frames") {
      continue;  // the clamp hides errors
    }
    const double error = golden.manifest().at("bf16_error").at(name).get<double>();
    const at::Tensor got = golden.sample_of(name, whole);
    EXPECT_LE(testing::relative_l2(got, golden.tensor(name)), 1.5 * error) << name;
    EXPECT_LE(testing::relative_l2(got, golden.tensor("bf16." + name)), 2 * error) << name;
    EXPECT_GE(testing::cosine(got, golden.tensor(name)), 0.9995) << name;
  }
}

// posterior() and reconstruct() take the whole clip at once; with gradients they take other paths
// than without. 15 frames count as 13.
TEST_P(WanVaeGolden, TheWholeClipGivesWhatItsChunksGive) {
  const Golden golden("vae", GetParam());
  const WanVaeConfig config = config_of(golden);
  WanVae vae(config);
  testing::fill_golden_weights(vae, GetParam());
  const std::vector<int64_t> pixels = sizes_of(golden, "pixels");
  const std::vector<int64_t> latent = sizes_of(golden, "latent_size");
  for (const bool wants_gradient : {false, true}) {
    const at::AutoGradMode mode(wants_gradient);
    for (const int64_t frames : {1, 5, 13, 15}) {
      const at::Tensor video = golden_tensor(GetParam(), str("whole", frames),
                                             {2, 3, frames, pixels[0], pixels[1]}, 0.0, 0.5);
      const LatentPosterior whole = vae.posterior(video), chunked = vae.encode(video);
      EXPECT_TRUE(is_close(whole.mean.detach(), chunked.mean, kModelFp32)) << frames;
      EXPECT_TRUE(is_close(whole.logvar.detach(), chunked.logvar, kModelFp32)) << frames;
    }
    for (const int64_t frames : {1, 2, 5}) {
      const at::Tensor latents =
          golden_tensor(GetParam(), str("whole-latents", frames),
                        {2, config.z_dim, frames, latent[0], latent[1]}, 0.0, 0.3);
      EXPECT_TRUE(
          is_close(vae.reconstruct(latents).detach().clamp(-1, 1), vae.decode(latents), kModelFp32))
          << frames;
    }
  }
}

// Negative control: a comparison that cannot see the order of frames would prove nothing.
TEST_P(WanVaeGolden, ADecoderFedItsFramesBackwardsIsFoundOut) {
  const Golden golden("vae", GetParam());
  const WanVaeConfig config = config_of(golden);
  const std::vector<int64_t> latent = sizes_of(golden, "latent_size");
  const at::Tensor latents =
      golden_tensor(GetParam(), "latents3", {1, config.z_dim, 3, latent[0], latent[1]}, 0.0, 0.3);
  const at::Tensor got = BareDecoder(GetParam(), config, at::kFloat).decode(latents.flip({2}));
  EXPECT_FALSE(is_close(golden.sample_of("decode3.unclamped", got),
                        golden.tensor("decode3.unclamped"), kModelFp32));
}

// Wide layers take other convolutions than the goldens' narrow ones: held to the same code in fp64.
TEST(WanVae, AWideDecoderAgreesWithItselfInFp64) {
  const WanVaeConfig config{.base_dim = 32, .decoder_base_dim = 32};
  const std::string wide = "wide";
  const BareDecoder exact(wide, config, at::kDouble), fast(wide, config, at::kFloat);
  const at::Tensor latents = golden_tensor(wide, "latents", {1, config.z_dim, 3, 8, 12}, 0.0, 0.3);
  const at::NoGradGuard no_grad;
  const at::Tensor want = exact.decode(latents.to(at::kDouble));
  EXPECT_TRUE(is_close(fast.decode(latents), want.to(at::kFloat), kModelFp32));
}

class WanVaeTiles : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Versions, WanVaeTiles, ::testing::Values("vae21_tiled", "vae22_tiled"));

TEST_P(WanVaeTiles, AgreeWithDiffusersRaggedOnesIncluded) {
  const Golden golden("vae", GetParam());
  WanVae vae(config_of(golden));
  testing::fill_golden_weights(vae, GetParam());
  const int64_t tile = golden.manifest().at("tile").get<int64_t>();
  const int64_t stride = golden.manifest().at("stride").get<int64_t>();
  const at::Tensor latents =
      golden_tensor(GetParam(), "latents", sizes_of(golden, "latent_shape"), 0.0, 0.3);
  const at::Tensor video =
      golden_tensor(GetParam(), "video", sizes_of(golden, "video_shape"), 0.0, 0.5);
  const at::Tensor whole = vae.decode(latents);
  vae.set_tiling(
      VaeTiling{.height = tile, .width = tile, .stride_height = stride, .stride_width = stride});
  const at::Tensor frames = vae.decode(latents);
  const LatentPosterior posterior = vae.encode(video);
  EXPECT_TRUE(is_close(golden.sample_of("frames", frames), golden.tensor("frames"), kModelFp32));
  EXPECT_TRUE(
      is_close(golden.sample_of("mean", posterior.mean), golden.tensor("mean"), kModelFp32));
  EXPECT_TRUE(
      is_close(golden.sample_of("logvar", posterior.logvar), golden.tensor("logvar"), kModelFp32));
  EXPECT_FALSE(is_close(whole, frames, kModelFp32)) << "the tiles were not used";
}

TEST(WanVae, TilesThatDoNotFitTheScaleAreRefused) {
  WanVae vae(kTrue21, {.device = at::kMeta, .parts = VaeParts::kDecoder});
  EXPECT_NO_THROW(vae.set_tiling(VaeTiling{}));
  EXPECT_THROW(vae.set_tiling(VaeTiling{.height = 250}), InvalidInput);
  EXPECT_THROW(vae.set_tiling(VaeTiling{.stride_width = 264}), InvalidInput);
  EXPECT_THROW(vae.set_tiling(VaeTiling{.stride_height = 0}), InvalidInput);
}

TEST(WanVae, ParametersOfTheTrueModelsAreThoseOfTheLayout) {
  for (const WanVaeConfig& config : {kTrue21, kTrue22}) {
    const WanVae vae(config, {.device = at::kMeta});
    std::map<std::string, std::vector<int64_t>> got, want;
    for (const auto& parameter : vae.named_parameters()) {
      got[parameter.key()] = parameter.value().sizes().vec();
    }
    for (const layout::TensorSpec& tensor : layout::tensors_of(config)) {
      want[tensor.name] = tensor.shape;
    }
    EXPECT_EQ(got, want);
  }
}

// --- one small model for the properties

const std::string kCase = "vae21";

WanVaeConfig small_config() {
  return config_of(Golden("vae", kCase));
}

at::Tensor small_latents(int64_t T) {
  return golden_tensor(kCase, "property.latents", {2, 4, T, 4, 3}, 0.0, 0.3);
}

TEST(WanVae, ChunksJoinedAreTheWholeAndEarlierFramesDoNotSeeLaterOnes) {
  WanVae vae(small_config());
  testing::fill_golden_weights(vae, kCase);
  const at::Tensor latents = small_latents(3);
  std::vector<at::Tensor> chunks;
  vae.decode(latents, [&chunks](const at::Tensor& frames) { chunks.push_back(frames); });
  ASSERT_EQ(chunks.size(), 3U);
  EXPECT_EQ(chunks[0].sizes(), at::IntArrayRef({2, 3, 1, 32, 24}));
  EXPECT_EQ(chunks[2].sizes(), at::IntArrayRef({2, 3, 4, 32, 24}));
  const at::Tensor whole = vae.decode(latents);
  EXPECT_TRUE(is_equal(at::cat(chunks, 2), whole));
  EXPECT_TRUE(is_equal(vae.decode(latents.narrow(2, 0, 2)), whole.narrow(2, 0, 5)));
  EXPECT_FALSE(is_equal(whole.narrow(2, 1, 4), whole.narrow(2, 5, 4)));
}

TEST(WanVae, AVideoOfABatchIsTheVideoAlone) {
  WanVae vae(small_config());
  testing::fill_golden_weights(vae, kCase);
  const at::Tensor latents = small_latents(2);
  EXPECT_TRUE(is_close(vae.decode(latents).narrow(0, 1, 1), vae.decode(latents.narrow(0, 1, 1)),
                       kModelFp32));
}

TEST(WanVae, AnErrorOfTheReceiverEndsTheDecodingAndTheNextStartsAfresh) {
  WanVae vae(small_config());
  testing::fill_golden_weights(vae, kCase);
  int calls = 0;
  EXPECT_THROW(vae.decode(small_latents(3),
                          [&calls](const at::Tensor&) {
                            if (++calls == 2) {
                              throw Stopped();
                            }
                          }),
               Stopped);
  EXPECT_EQ(calls, 2);
  WanVae fresh(small_config());
  testing::fill_golden_weights(fresh, kCase);
  EXPECT_TRUE(is_equal(vae.decode(small_latents(2)), fresh.decode(small_latents(2))));
}

TEST(WanVae, ShapesThatDoNotFitAreRefused) {
  WanVae vae(small_config());
  EXPECT_THROW(vae.decode(at::zeros({1, 5, 1, 4, 3})), InvalidInput);
  EXPECT_THROW(vae.encode(at::zeros({1, 3, 1, 33, 24})), InvalidInput);
  EXPECT_THROW(vae.encode(at::zeros({1, 3, 0, 32, 24})), InvalidInput);
}

TEST(WanVae, DenormaliseInvertsNormaliseAndItsTwoFormsDifferInBf16Alone) {
  const WanVae vae(small_config(), {.parts = VaeParts::kEncoder});
  const at::Tensor x = golden_tensor(kCase, "form", {1, 4, 2, 8, 8});
  const at::Tensor diffusers = vae.denormalise(x, LatentForm::kDiffusers);
  const at::Tensor fastvideo = vae.denormalise(x, LatentForm::kFastVideo);
  EXPECT_TRUE(is_close(diffusers, fastvideo, {.of_range = 2.4e-7, .relative_l2 = 1e-7}));
  EXPECT_TRUE(is_close(vae.normalise(fastvideo), x, {.of_range = 2.4e-7, .relative_l2 = 2e-7}));
  const at::Tensor rounded = x.to(at::kBFloat16);
  EXPECT_FALSE(is_equal(vae.denormalise(rounded, LatentForm::kDiffusers),
                        vae.denormalise(rounded, LatentForm::kFastVideo)));
}

// Counts the bytes of live tensors on this thread and remembers their highest sum.
class LiveBytes final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t size, std::size_t, std::size_t, c10::Device) override {
    live_ += size;
    peak_ = std::max(peak_, live_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak() const { return peak_; }

 private:
  int64_t live_ = 0, peak_ = 0;
};

int64_t peak_bytes_of_decoding(WanVae& vae, int64_t T) {
  const at::Tensor latents = small_latents(T);
  const auto counter = std::make_shared<LiveBytes>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
  vae.decode(latents, [](const at::Tensor&) {});
  return counter->peak() - static_cast<int64_t>(latents.nbytes());  // its copy, channels innermost
}

TEST(WanVae, MemoryOfDecodingDoesNotGrowWithTheNumberOfFrames) {
  WanVae vae(small_config());
  testing::fill_golden_weights(vae, kCase);
  const int64_t three = peak_bytes_of_decoding(vae, 3);
  EXPECT_GT(three, peak_bytes_of_decoding(vae, 1));
  EXPECT_EQ(three, peak_bytes_of_decoding(vae, 12));
}

// --- files

std::vector<NamedTensor> tensors_in(const WanVae& vae) {
  std::vector<NamedTensor> out;
  for (const auto& parameter : vae.named_parameters()) {
    out.push_back({.name = parameter.key(), .tensor = parameter.value()});
  }
  return out;
}

void write_config(const Path& folder) {
  std::filesystem::create_directories(folder);
  Json config = Golden("vae", kCase).manifest().at("config");
  config["_class_name"] = "AutoencoderKLWan";
  write_durably(folder / "config.json", dump_json(config));
}

const char* const kSingle = "diffusion_pytorch_model.safetensors";

TEST(LoadWanVae, OneFileAndShardsAndBf16OfTheSameValuesGiveTheSameFrames) {
  WanVae vae(small_config());
  testing::fill_golden_weights(vae, kCase);
  for (auto& parameter : vae.parameters()) {
    parameter.copy_(parameter.to(at::kBFloat16));  // values that bf16 can hold
  }
  const TempFolder folder;
  std::vector<NamedTensor> all = tensors_in(vae);
  for (const char* name : {"single", "sharded", "bf16"}) {
    write_config(folder.where() / name);
  }
  save_tensors(folder.where() / "single" / kSingle, all);

  const std::size_t half = all.size() / 2;
  Json map = Json::object();
  for (std::size_t i = 0; i < all.size(); ++i) {
    map[all[i].name] = i < half ? "a.safetensors" : "b.safetensors";
  }
  const auto middle = all.begin() + static_cast<std::ptrdiff_t>(half);
  save_tensors(folder.where() / "sharded" / "a.safetensors", {all.begin(), middle});
  save_tensors(folder.where() / "sharded" / "b.safetensors", {middle, all.end()});
  write_durably(folder.where() / "sharded" / "diffusion_pytorch_model.safetensors.index.json",
                dump_json(Json{{"metadata", Json::object()}, {"weight_map", map}}));

  for (NamedTensor& named : all) {
    named.tensor = named.tensor.to(at::kBFloat16);
  }
  save_tensors(folder.where() / "bf16" / kSingle, all);

  const at::Tensor want = vae.decode(small_latents(2));
  for (const char* name : {"single", "sharded", "bf16"}) {
    EXPECT_TRUE(is_equal(load_wan_vae(folder.where() / name)->decode(small_latents(2)), want))
        << name;
  }
}

TEST(LoadWanVae, APartAloneIsLoadedFromTheWholeAndAMissingWeightIsNamed) {
  WanVae vae(small_config());
  testing::fill_golden_weights(vae, kCase);
  const TempFolder folder;
  write_config(folder.where());
  std::vector<NamedTensor> all = tensors_in(vae);
  save_tensors(folder.where() / kSingle, all);
  const auto decoder = load_wan_vae(folder.where(), {.parts = VaeParts::kDecoder});
  EXPECT_TRUE(is_equal(decoder->decode(small_latents(1)), vae.decode(small_latents(1))));
  const auto encoder = load_wan_vae(folder.where(), {.parts = VaeParts::kEncoder});
  EXPECT_LT(encoder->parameters().size(), vae.parameters().size());

  std::erase_if(all, [](const NamedTensor& t) { return t.name == "decoder.conv_in.bias"; });
  save_tensors(folder.where() / kSingle, all);
  EXPECT_NO_THROW(load_wan_vae(folder.where(), {.parts = VaeParts::kEncoder}));
  try {
    load_wan_vae(folder.where());
    ADD_FAILURE() << "a model without decoder.conv_in.bias was loaded";
  } catch (const InvalidInput& error) {
    EXPECT_EQ(error.code(), Code::kMissingWeights);
    EXPECT_NE(std::string(error.what()).find("decoder.conv_in.bias"), std::string::npos);
  }
}

}  // namespace
}  // namespace fastwan::models
