// fastwan_evaluate: `fastwan eval run` inside libfastwan.so.
#include "cli/tensor_library.h"
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
}
