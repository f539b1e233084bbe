// One row of an evaluation: its clips, made once and measured in every way.
#pragma once

#include <memory>

#include "base/json.h"
#include "eval/experiment/clip_maker.h"
#include "io/image.h"
#include "models/shape_features.h"

namespace fastwan::eval {

struct PromptSets {
  PromptSet seen, held_out;
  PromptSet repeated;  // prompts.samples_per_prompt clips of each prompt, one after the other
};

// What rows are measured against: real clips of other indices, one for each prompt.
struct Reference {
  std::shared_ptr<const models::ShapeFeatures> net;
  at::Tensor features;  // [n, 64] on the CPU, seen and held-out clips
  at::Tensor latents;   // [m, C * T * H * W] on the CPU, normalised, of seen clips
};

PromptSets draw_prompt_sets(const config::Evaluation& evaluation);
Reference make_reference(const config::Evaluation& evaluation,
                         const SharedParts& parts,
                         const Watch& watch);

struct JudgedRow {
  // {"evaluations", "clips", "seconds_making", "seconds",
  //  "seen": ClipSet, "held_out": ClipSet, "either": {attribute: share},
  //  "distances": {"frechet", "kid", "precision", "recall", "coverage", "latents_wasserstein"},
  //  "repeated": {"prompts", "position_spread", "starts", "rotations", "angles"},
  //  "psnr": of reconstructions, "detected": codes of seen clips, -1 where nothing was found}
  Json numbers;
  io::Image sheet;  // of the first clips, one a line
};
// Stages of `watch`: the row's name. Stopped.
JudgedRow judge_row(const config::Evaluation& evaluation,
                    const std::string& name,
                    ClipMaker& maker,
                    const PromptSets& prompts,
                    const Reference& reference,
                    const Watch& watch);

// Share of right answers of each attribute: the feature net's on rendered clips, the text heads' on
// captions. {attribute: {"value", "low", "high"}}
Json judge_feature_net(const config::Evaluation& evaluation,
                       const models::ShapeFeatures& net,
                       const SharedParts& parts,
                       const PromptSet& prompts,
                       const Watch& watch);
Json judge_text_heads(const config::Evaluation& evaluation, const SharedParts& parts);
int64_t captions_judged(const config::Evaluation& evaluation);  // by the text heads

}  // namespace fastwan::eval
