#include "pipelines/components.h"

#include "base/text.h"
#include "models/lora.h"

namespace fastwan::pipelines {
namespace {

std::shared_ptr<const ops::Attention> make_attention(const config::Generate& settings,
                                                     const ComponentOptions& options) {
  if (!options.is_sparse) {
    return std::make_shared<ops::FullAttention>();
  }
  const ops::TopkRule rule = *settings.topk_rule == config::TopkFormula::kPadded
                                 ? ops::TopkRule::kPadded
                                 : ops::TopkRule::kUnpadded;
  return std::make_shared<ops::VsaAttention>(
      ops::Sparsity{.value = *settings.vsa_sparsity, .rule = rule}, options.is_gated);
}

}  // namespace

Components::Components(const config::Generate& settings,
                       const layout::ModelFolder& model,
                       ComponentOptions options)
    : settings_(settings), model_(model), options_(std::move(options)) {}

Components::~Components() = default;

torch::nn::Module* Components::module_of(Part part) const {
  switch (part) {
    case kTextEncoder:
      return text_encoder_.get();
    case kVae:
      return vae_.get();
    default:
      return transformers_[part - kHighNoise].get();
  }
}

std::shared_ptr<models::WanDit> Components::load_transformer(Part part, at::Device device) const {
  const bool is_second = part == kLowNoise;
  const auto files = io::WeightFiles::open(is_second ? *model_.transformer_2 : model_.transformer);
  models::WanDitOptions options{.profile = options_.types.transformer, .device = device};
  if (options_.is_sparse) {  // that gates are dropped has been said
    options.on_note = options_.on_note;
  }
  auto dit =
      models::load_wan_dit(is_second ? *model_.transformer_2_config : model_.transformer_config,
                           files, make_attention(settings_, options_), options);
  models::LoraMerge merge(*dit);  // never undone here: the originals go with it
  for (const std::string& text : *settings_.lora) {
    const layout::LoraChoice lora = layout::read_lora_choice(text);
    const std::vector<std::string> unmatched = merge.merge(lora);
    if (!unmatched.empty()) {
      constexpr std::size_t kMaxListed = 10;
      options_.on_note(str(lora.file, ": ", unmatched.size(),
                           " keys fit nothing here: ", join_first(unmatched, kMaxListed)));
    }
  }
  return dit;
}

void Components::load(Part part, const Watch& watch) {
  watch.throw_if_stopped();
  watch.report("load", 0, 1);
  switch (part) {
    case kTextEncoder:
      text_encoder_ =
          models::load_umt5(model_.text_encoder, {.compute = options_.types.text_encoder,
                                                  .held = options_.types.text_encoder_held,
                                                  .device = options_.device});
      break;
    case kVae:
      vae_ = models::load_wan_vae(
          model_.vae,
          {.dtype = options_.types.vae,
           .device = options_.device,
           .parts = settings_.image.is_set ? models::VaeParts::kBoth : models::VaeParts::kDecoder});
      if (*settings_.vae_tiling) {
        vae_->set_tiling(models::VaeTiling{});
      }
      break;
    default: {
      const bool streams = options_.offload == config::Offload::kLayer;
      auto& dit = transformers_[part - kHighNoise];
      dit = load_transformer(part, streams ? at::Device(at::kCPU) : options_.device);
      if (streams) {
        streams_[part - kHighNoise] = std::make_unique<LayerStream>(dit, options_.device);
      }
      break;
    }
  }
  watch.report("load", 1, 1);
}

void Components::drop(Part part) {
  switch (part) {
    case kTextEncoder:
      text_encoder_.reset();
      break;
    case kVae:
      vae_.reset();
      break;
    default:
      transformers_[part - kHighNoise].reset();
      break;
  }
}

void Components::release() {
  for (const Part part : {kTextEncoder, kHighNoise, kLowNoise, kVae}) {
    drop(part);
  }
  for (auto& stream : streams_) {
    stream.reset();
  }
}

bool Components::streams(Part part) const {
  return (part == kHighNoise || part == kLowNoise) && streams_[part - kHighNoise] != nullptr;
}

// Under `stage` one part at a time is in place: on the CPU the others are given back and read again
// when needed, on a GPU they wait in host memory. Under `layer` the transformer's blocks wait there
// anyway.
void Components::use(Part part, const Watch& watch) {
  const bool takes_turns = options_.offload != config::Offload::kNone;
  for (const Part other : {kTextEncoder, kHighNoise, kLowNoise, kVae}) {
    if (!takes_turns || other == part || module_of(other) == nullptr || streams(other)) {
      continue;
    }
    if (options_.device.is_cpu()) {
      drop(other);
    } else {
      module_of(other)->to(at::Device(at::kCPU));
    }
  }
  if (module_of(part) == nullptr) {
    load(part, watch);
  } else if (takes_turns && !streams(part)) {
    module_of(part)->to(options_.device);
  }
}

models::Umt5& Components::text_encoder(const Watch& watch) {
  use(kTextEncoder, watch);
  return *text_encoder_;
}

models::WanDit& Components::transformer(Expert expert, const Watch& watch) {
  use(part_of(expert), watch);
  return *transformers_[part_of(expert) - kHighNoise];
}

at::Tensor Components::velocity(Expert expert,
                                const DitInputs& in,
                                const ops::AttentionPlan& plan,
                                const Watch& watch) {
  models::WanDit& dit = transformer(expert, watch);
  const Part part = part_of(expert);
  return streams(part)
             ? streams_[part - kHighNoise]->forward(in.latents, in.timestep, in.text, plan)
             : dit.forward(in.latents, in.timestep, in.text, plan);
}

models::WanVae& Components::vae(const Watch& watch) {
  use(kVae, watch);
  return *vae_;
}

}  // namespace fastwan::pipelines
