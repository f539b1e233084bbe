// `fastwan eval run` and `fastwan eval experiment` inside libfastwan.so.
#include <algorithm>

#include <ATen/Context.h>

#include "cli/tensor_library.h"
#include "eval/experiment/experiment.h"
#include "eval/run.h"
#include "pipelines/device.h"

extern "C" {

fastwan::Json fastwan_evaluate(const fastwan::cli::EvalCall& call) {
  return fastwan::eval::run({.videos = call.videos,
                             .reference = call.reference,
                             .metrics = call.metrics,
                             .features = call.features,
                             .output = call.output,
                             .fps = call.fps,
                             .device = fastwan::pipelines::resolve_device(call.device),
                             .venvs = call.media_roots},
                            call.watch, call.on_note);
}

fastwan::Json fastwan_experiment(const fastwan::cli::ExperimentCall& call) {
  const at::Device device = fastwan::pipelines::resolve_device(call.device);
  const auto index = static_cast<std::size_t>(std::max<int>(0, device.index()));
  const std::string processor = device.is_cpu()                 ? call.cpu_name
                                : index < call.gpu_names.size() ? call.gpu_names[index]
                                                                : "";
  // Clips by the thousand: TF32's error of 1e-3 is below what any metric resolves.
  at::globalContext().setAllowTF32CuDNN(true);
  at::globalContext().setBenchmarkCuDNN(true);
  return fastwan::eval::run_experiment(call.evaluation,
                                       {.rows = call.rows,
                                        .max_seconds = call.max_seconds,
                                        .device = device,
                                        .processor = processor},
                                       call.watch, call.on_note);
}
}
