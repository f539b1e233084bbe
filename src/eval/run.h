// `eval run`: one set of videos, measured against another where a metric compares.
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
  Path videos;                       // as VideoSet takes it
  Path reference;                    // the same; empty: none, for metrics that need videos alone
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
//   {"videos": {"path", "count"}, "reference": {...} or null, "features": {...} or null,
//    "metrics": {name: {...}}, "pairs": [{"name", ...}], "unpaired": [...]}
// Features' metrics also say what they give for two halves of the reference: the floor of what can
// be told at that number of videos. A mean over one video has no interval. Stages of
// `watch`: videos, reference, distances. InvalidInput bad_value: an unknown metric or none,
// features asked for without a file; usage: a metric that compares, without a reference, and
// attributes without that or codes; bad_media: fewer videos than a metric needs, no pair of one
// name; all but the last before anything is decoded.
Json run(const RunRequest& request,
         const Watch& watch,
         const std::function<void(const std::string&)>& on_note);

}  // namespace fastwan::eval
