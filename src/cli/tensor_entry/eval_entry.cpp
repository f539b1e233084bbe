// `fastwan eval run` and `fastwan eval experiment` inside libfastwan.so.
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
  return fastwan::eval::run_experiment(call.evaluation,
                                       {.rows = call.rows,
                                        .max_seconds = call.max_seconds,
                                        .device = fastwan::pipelines::resolve_device(call.device)},
                                       call.watch, call.on_note);
}
}
