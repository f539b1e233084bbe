// Whole requests against diffusers, on folders of tiny random models written here.
#include <gtest/gtest.h>

#include "base/files.h"
#include "base/json.h"
#include "io/image.h"
#include "models/checkpoint.h"
#include "models/layout/tensors.h"
#include "pipelines/text_to_video.h"
#include "support/compare.h"
#include "support/golden.h"

namespace fastwan::pipelines {
namespace {

using testing::Golden;
using testing::golden_tensor;
using testing::golden_weight;

constexpr int64_t kTextLength = 12;
constexpr int64_t kTextDim = 32;
const std::vector<Path> kVenvs = {Path(FASTWAN_SOURCE_DIR) / ".deps/venv"};

void write_config(const Path& folder, const Json& config) {
  std::filesystem::create_directories(folder);
  write_durably(folder / "config.json", dump_json(config));
}

void write_weights(const Path& folder,
                   const std::string& golden_case,
                   const std::vector<layout::TensorSpec>& specs) {
  std::vector<models::NamedTensor> tensors;
  for (const layout::TensorSpec& spec : specs) {
    tensors.push_back({spec.name, golden_weight(golden_case, spec.name, spec.shape)});
  }
  models::save_tensors(folder / "diffusion_pytorch_model.safetensors", tensors);
}

// A golden's models as a folder, and its request as settings.
class Case {
 public:
  explicit Case(const std::string& name) : name_(name), golden_("pipelines", name) {
    const Json& manifest = golden_.manifest();
    request_ = manifest.at("request");
    Json transformer = manifest.at("config").at("transformer");
    transformer["_class_name"] = "WanTransformer3DModel";
    Json vae = manifest.at("config").at("vae");
    vae["_class_name"] = "AutoencoderKLWan";
    write_folder(transformer, vae);
    write_inputs();
    fill_settings();
  }

  const Golden& golden() const { return golden_; }
  config::Generate& settings() { return settings_; }
  const Path& folder() const { return folder_.where(); }
  const Json& request() const { return request_; }

  void run() {
    const layout::ModelFolder model = layout::open_model_folder(folder(), {});
    TextToVideo pipeline(settings_, model, kVenvs, {}, [](const std::string&) {});
    make(pipeline);
  }

  void make(TextToVideo& pipeline) const {
    pipeline.make({.prompt = {},
                   .seed = 0,
                   .video = {},
                   .contact_sheet = {},
                   .latents = folder() / "latents.safetensors",
                   .embeds = {},
                   .frames = folder() / "frames.safetensors",
                   .metadata = {}},
                  Watch{});
  }

  at::Tensor result(const std::string& name) const {
    const auto file = io::SafetensorsFile::open(folder() / (name + ".safetensors"));
    return models::read_tensor(file, *file.find(name));
  }

 private:
  void write_folder(const Json& transformer, const Json& vae) {
    const bool is_gated = request_.contains("sparsity");
    layout::WanDitConfig dit = layout::read_wan_dit(transformer, "transformer");
    dit.is_gated = is_gated;
    const std::vector<std::string> parts =
        request_.contains("boundary_ratio")
            ? std::vector<std::string>{"transformer", "transformer_2"}
            : std::vector<std::string>{"transformer"};
    Json index = {{"_class_name", is_gated ? "WanDMDPipeline" : "WanPipeline"},
                  {"expand_timesteps", request_.value("expand_timesteps", false)}};
    for (const std::string& part : parts) {
      write_config(folder() / part, transformer);
      write_weights(folder() / part, name_ + "/" + part, layout::tensors_of(dit));
      index[part] = {"diffusers", "WanTransformer3DModel"};
    }
    write_config(folder() / "vae", vae);
    write_weights(folder() / "vae", name_ + "/vae",
                  layout::tensors_of(layout::read_wan_vae(vae, "vae")));
    write_config(folder() / "text_encoder", {{"d_model", kTextDim},
                                             {"d_kv", 8},
                                             {"num_heads", 4},
                                             {"d_ff", 64},
                                             {"num_layers", 1},
                                             {"vocab_size", 8}});
    std::filesystem::create_directories(folder() / "tokenizer");
    write_durably(folder() / "tokenizer" / "tokenizer_config.json",
                  dump_json({{"model_max_length", kTextLength}}));
    write_durably(folder() / "model_index.json", dump_json(index));
  }

  void write_inputs() {
    const auto given = [this](const std::string& name, at::IntArrayRef shape) {
      return golden_tensor(name_, name, shape);
    };
    const at::Tensor latents = golden_.tensor("out.latents");
    std::vector<models::NamedTensor> noise = {{"latents", given("noise", latents.sizes())}};
    if (request_.contains("timesteps")) {
      for (std::size_t i = 1; i < request_.at("timesteps").size(); ++i) {
        const std::string name = "renoise_" + std::to_string(i);
        noise.push_back({name, given(name, latents.sizes())});
      }
    }
    models::save_tensors(folder() / "noise.safetensors", noise);
    models::save_tensors(
        folder() / "text.safetensors",
        {{"prompt_embeds", given("prompt", {1, kTextLength, kTextDim})},
         {"negative_prompt_embeds", given("negative", {1, kTextLength, kTextDim})}});
  }

  void fill_settings() {
    const auto set = [](auto& setting, auto value) { setting.set(value, config::Origin::kFlag); };
    set(settings_.width, request_.at("width").get<int64_t>());
    set(settings_.height, request_.at("height").get<int64_t>());
    set(settings_.num_frames, request_.at("frames").get<int64_t>());
    set(settings_.fps, int64_t{8});
    set(settings_.flow_shift, request_.at("shift").get<double>());
    set(settings_.noise, (folder() / "noise.safetensors").string());
    set(settings_.prompt_embeds, (folder() / "text.safetensors").string());
    set(settings_.device, std::string("cpu"));
    set(settings_.threads, int64_t{2});
    set(settings_.offload, config::Offload::kNone);
    set(settings_.sigma_schedule, config::SigmaSchedule::kDiffusers);
    if (request_.contains("timesteps")) {
      set(settings_.compat, config::Compat::kFastvideo);
      set(settings_.sampler, config::Sampler::kDmd);
      set(settings_.dmd_denoising_steps, request_.at("timesteps").get<std::vector<int64_t>>());
      set(settings_.attention_backend, config::AttentionBackend::kVsa);
      set(settings_.vsa_sparsity, request_.at("sparsity").get<double>());
      return;
    }
    set(settings_.compat, config::Compat::kDiffusers);
    set(settings_.sampler, config::Sampler::kUnipc);
    set(settings_.steps, request_.at("steps").get<int64_t>());
    set(settings_.guidance_scale, request_.at("guidance").get<double>());
    set(settings_.attention_backend, config::AttentionBackend::kDense);
    if (request_.contains("boundary_ratio")) {
      set(settings_.boundary_ratio, request_.at("boundary_ratio").get<double>());
      set(settings_.guidance_scale_2, request_.at("guidance_2").get<double>());
    }
  }

  std::string name_;
  Golden golden_;
  Json request_;
  TempFolder folder_;
  config::Generate settings_;
};

// decisions on tolerances: latents 1e-4 of the range, frames 1e-3.
constexpr testing::Tolerance kLatents{.of_range = 1e-4, .relative_l2 = 1e-4};
constexpr testing::Tolerance kFrames{.of_range = 1e-3, .relative_l2 = 1e-3};

void expect_golden_files(const Case& request) {
  const Golden& golden = request.golden();
  EXPECT_TRUE(testing::is_close(request.result("latents"), golden.tensor("out.latents"), kLatents));
  EXPECT_TRUE(testing::is_close(golden.sample_of("out.frames", request.result("frames")),
                                golden.tensor("out.frames"), kFrames));
}

void expect_golden(Case& request) {
  request.run();
  expect_golden_files(request);
}

TEST(Pipeline, Wan21WithUniPcAndGuidanceIsDiffusers) {
  Case request("p1");
  expect_golden(request);
}

TEST(Pipeline, FewStepsWithGatesAndSparseAttentionAreTheLoopInFp64) {
  Case request("m2");
  EXPECT_GT(request.golden().manifest().at("smallest_gap").get<double>(), 1e-5);
  expect_golden(request);
}

TEST(Pipeline, Wan22FiveBillionFromTextIsDiffusers) {
  Case request("t5b");
  expect_golden(request);
}

TEST(Pipeline, Wan22FiveBillionFromAnImageIsDiffusers) {
  Case request("i5b");
  const int64_t width = request.request().at("width"), height = request.request().at("height");
  io::Image image{.width = width, .height = height, .rgb = {}};
  for (int64_t y = 0; y < height; ++y) {
    for (int64_t x = 0; x < width; ++x) {
      for (const int64_t value : {x * 2, y * 3, x + y}) {
        image.rgb.push_back(static_cast<uint8_t>(value % 256));
      }
    }
  }
  const Path file = request.folder() / "first.png";
  io::write_png(file, image);
  request.settings().image.set(file.string(), config::Origin::kFlag);
  expect_golden(request);
}

TEST(Pipeline, TwoTransformersEachWithItsGuidanceAreDiffusers) {
  Case request("a14b");
  expect_golden(request);
}

TEST(Pipeline, OneGuidanceForBothTransformersIsNotTheSame) {
  Case request("a14b");
  request.settings().guidance_scale_2.set(4.0, config::Origin::kFlag);
  request.run();
  EXPECT_FALSE(testing::is_close(request.result("latents"), request.golden().tensor("out.latents"),
                                 kLatents));
}

TEST(Pipeline, PartsThatTakeTurnsInMemoryGiveTheSameBits) {
  Case together("a14b"), turns("a14b");
  turns.settings().offload.set(config::Offload::kStage, config::Origin::kFlag);
  together.run();
  turns.run();
  EXPECT_TRUE(testing::is_equal(together.result("latents"), turns.result("latents")));
  EXPECT_TRUE(testing::is_equal(together.result("frames"), turns.result("frames")));
}

// The folder's own weights are gone, so only the lent network can have made the golden's latents.
TEST(Pipeline, ALentTransformerIsSampledInstead) {
  for (const char* name : {"p1", "m2"}) {
    Case request(name);
    const layout::ModelFolder model = layout::open_model_folder(request.folder(), {});
    std::shared_ptr<const ops::Attention> attention = std::make_shared<ops::FullAttention>();
    if (request.request().contains("sparsity")) {
      attention = std::make_shared<ops::VsaAttention>(
          ops::Sparsity{.value = request.request().at("sparsity")}, /*gated=*/true);
    }
    const auto dit = models::load_wan_dit(
        model.transformer_config, io::WeightFiles::open(model.transformer), attention,
        {.profile = models::RoundingProfile::fp32(), .on_note = {}});
    std::filesystem::remove(model.transformer / "diffusion_pytorch_model.safetensors");
    request.settings().attention_backend.set(config::AttentionBackend::kDense,
                                             config::Origin::kFlag);
    TextToVideo pipeline(request.settings(), model, kVenvs, {}, [](const std::string&) {});
    int64_t calls = 0;
    pipeline.lend([&](const at::Tensor& x, const at::Tensor& timestep, const at::Tensor& text) {
      ++calls;
      return dit->forward(x, timestep, dit->embed_text(text), dit->plan_for(x.sizes(), x.device()));
    });
    request.make(pipeline);
    expect_golden_files(request);
    const at::Tensor first = request.result("frames");
    pipeline.release();  // the VAE comes back for the next video
    request.make(pipeline);
    EXPECT_TRUE(testing::is_equal(request.result("frames"), first)) << name;
    EXPECT_GT(calls, 0) << name;
  }
}

TEST(Pipeline, StopsBeforeTheNextStepAndLeavesNothing) {
  Case request("p1");
  const layout::ModelFolder model = layout::open_model_folder(request.folder(), {});
  TextToVideo pipeline(request.settings(), model, {}, {}, [](const std::string&) {});
  std::stop_source stop;
  int64_t steps = 0;
  const Watch watch{stop.get_token(), [&](const Progress& now) {
                      steps += now.stage == "denoise" ? 1 : 0;
                      if (now.stage == "denoise" && now.step == 1) {
                        stop.request_stop();
                      }
                    }};
  const Path file = request.folder() / "latents.safetensors";
  EXPECT_THROW(pipeline.make({.prompt = {},
                              .seed = 0,
                              .video = {},
                              .contact_sheet = {},
                              .latents = file,
                              .embeds = {},
                              .frames = {},
                              .metadata = {}},
                             watch),
               Stopped);
  EXPECT_EQ(steps, 1);
  EXPECT_FALSE(std::filesystem::exists(file));
}

}  // namespace
}  // namespace fastwan::pipelines
