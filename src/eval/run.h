// `eval run`: one set of videos measured against another.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/files.h"
#include "base/json.h"
#include "base/watch.h"

namespace fastwan::eval {

struct RunRequest {
  Path videos, reference;            // as VideoSet takes them
  std::vector<std::string> metrics;  // names of metrics.h
  // safetensors: the weights of models::ShapeFeatures; or features made elsewhere, `videos` [n, d]
  // and `reference` [m, d]. Needed by metrics of features alone.
  Path features;
  Path output;     // folder of report.html and report.json; empty: none
  double fps = 0;  // 0: videos as they are
  at::Device device = at::kCPU;
  std::vector<Path> venvs;
};

// Returns
//   {"videos": {"path", "count"}, "reference": {...}, "features": {...} or null,
//    "metrics": {name: {...}}, "pairs": [{"name", ...}], "unpaired": [...]}
// Features' metrics also say what they give for two halves of the reference: the floor of what can
// be told at that number of videos. Stages of `watch`: videos, reference, distances. InvalidInput
// bad_value: an unknown metric, features asked for without a file; bad_media: no pair of one name.
Json run(const RunRequest& request,
         const Watch& watch,
         const std::function<void(const std::string&)>& on_note);

}  // namespace fastwan::eval
