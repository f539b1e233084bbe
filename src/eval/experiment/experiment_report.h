// What an experiment's numbers come to: figures by name, verdicts, the page.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "config/evaluation.h"
#include "config/thresholds.h"

namespace fastwan::eval {

// Figures as gates name them: <row>.seen.all_right, <row>.seen.<attribute>, <row>.held_out. the
// same, <row>.flicker, .saturation, .fragment_share, .first_frame_hue_error, .frechet, .kid,
// .precision, .recall, .coverage, .latents_wasserstein, .position_spread;
// detector.rendered.worst_attribute, vae.worst_attribute, vae.psnr, text.worst_attribute,
// features.worst_attribute; and those measured elsewhere.
std::map<std::string, double> figures_of(const Json& document, const Json& elsewhere);

// Clips, or captions, behind the figures; those measured elsewhere are not there.
std::map<std::string, int64_t> samples_of(const Json& document);

// Figures against gates. A gate with fewer samples behind one of its figures than it was registered
// with reads "too few" in place of pass or fail, and what is read after it "not read".
Json verdicts_of(const std::vector<config::Gate>& gates,
                 const std::map<std::string, double>& figures,
                 const std::map<std::string, int64_t>& samples);

// report.html and report.json in the output folder; sheets/<row>.png are shown where they are.
void write_experiment_report(const config::Evaluation& evaluation, const Json& document);

}  // namespace fastwan::eval
