// The evaluation of an experiment on procedural clips: rows, figures, gates, report.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <c10/core/Device.h>

#include "base/json.h"
#include "base/watch.h"
#include "config/evaluation.h"

namespace fastwan::eval {

struct ExperimentOptions {
  std::vector<std::string> rows;  // names; empty: all
  double max_seconds = 0;         // no row is begun after that; 0: no limit
  at::Device device = at::kCPU;
  std::string processor;  // its name, kept with each row that it makes; empty: not known
};

// Makes and measures the rows whose models are there, keeps each under <output_dir>/rows and
// sheets, and writes report.html and report.json over all that is kept. A row is made again only
// if its weights or settings changed; the one of before is kept aside (kept_files.h). Gates,
// figures, sizes and the feature net are looked at before any row is made. Returns the report's
// numbers:
//   {"complete": all rows that can run are kept, "rows": [{"name", "title", "status", "reason"?,
//    ...}], "figures": {name: number}, "gates": [{"id", "quantity", "kind", "verdict",
//    "samples": clips behind it or null, "wanted_samples", "conditions": [{"name", "figure",
//    "value", "comparison", "bound", "bound_of": what it is made of, "holds"}]}]}
// A row's status: done, not_run, failed; failed ones have "exit", the exit status of what they
// failed by. InvalidInput bad_value: a row that the file does not name, sizes that the models do
// not take; and as the readers of gates, figures and the feature net.
Json run_experiment(const config::Evaluation& evaluation,
                    const ExperimentOptions& options,
                    const Watch& watch,
                    const std::function<void(const std::string&)>& on_note);

}  // namespace fastwan::eval
