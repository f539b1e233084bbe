#include "pipelines/component_options.h"

#include <algorithm>
#include <thread>

#include <ATen/Parallel.h>

#include "models/lora.h"
#include "pipelines/device.h"
#include "pipelines/memory_plan.h"

namespace fastwan::pipelines {
namespace {

void set_threads(const config::Generate& settings) {
  const int64_t wanted = *settings.threads > 0
                             ? *settings.threads
                             : static_cast<int64_t>(std::thread::hardware_concurrency());
  at::set_num_threads(static_cast<int>(std::max<int64_t>(1, wanted)));
}

}  // namespace

ComponentOptions component_options(const config::Generate& settings,
                                   const layout::ModelFolder& model,
                                   const std::function<void(const std::string&)>& on_note) {
  set_threads(settings);
  ComponentOptions out;
  out.on_note = on_note;
  out.device = resolve_device(*settings.device);
  out.types = choose_precisions(settings, out.device);
  out.is_sparse = *settings.attention_backend == config::AttentionBackend::kVsa;
  out.is_gated = out.is_sparse && (models::has_gates(io::WeightFiles::open(model.transformer)) ||
                                   models::LoraMerge::bring_gates(*settings.lora));
  out.offload = *settings.offload;
  if (out.offload == config::Offload::kAuto) {
    const layout::LatentSize latent =
        layout::latent_size(model, *settings.num_frames, *settings.height, *settings.width);
    out.offload = choose_offload(weight_bytes(model, out.is_gated, out.types),
                                 activation_bytes(model, latent, out.types),
                                 free_memory_bytes(out.device), out.device.is_cpu());
  }
  if (out.offload == config::Offload::kLayer && out.device.is_cpu()) {
    on_note(
        "--offload layer does nothing on the CPU, where the weights are in host memory already");
    out.offload = config::Offload::kNone;
  }
  return out;
}

}  // namespace fastwan::pipelines
