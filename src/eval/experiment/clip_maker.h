// Where the clips of an evaluation's row come from.
//
// Dims    n clips, C T H W latent, F P Q frames, height and width in pixels, L text tokens,
//         D text width
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/watch.h"
#include "config/evaluation.h"
#include "data/shapes.h"
#include "models/umt5.h"
#include "models/wan_vae.h"
#include "text/tokenizer.h"

namespace fastwan::eval {

// What a set of clips was asked for. `first_slot` numbers its clips among all sets: the noise of a
// clip depends on its slot alone, so that all rows start from the same.
struct PromptSet {
  std::vector<data::shapes::Scene> scenes;
  int64_t first_slot = 0;

  int64_t size() const { return static_cast<int64_t>(scenes.size()); }
  std::vector<data::shapes::Attributes> wanted(int64_t first, int64_t count) const;
};

// Prompts of `samples` clips of an index range, from its place `first` on.
PromptSet draw_prompts(const config::Evaluation& evaluation,
                       const data::shapes::IndexRange& range,
                       int64_t first,
                       int64_t samples,
                       int64_t first_slot);
// Each of `prompts` prompts `per_prompt` times, in a row: one caption, other nuisance.
PromptSet draw_repeated(const config::Evaluation& evaluation,
                        int64_t first,
                        int64_t prompts,
                        int64_t per_prompt,
                        int64_t first_slot);

data::shapes::Format format_of(const config::Evaluation& evaluation);

// Networks that all rows share.
struct SharedParts {
  std::shared_ptr<models::WanVae> vae;
  std::shared_ptr<const models::Umt5> text_encoder;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  int64_t text_length = 0;
  at::Device device = at::kCPU;
};
SharedParts load_shared_parts(const config::Evaluation& evaluation, at::Device device);

struct MadeClips {
  at::Tensor frames;    // [n, 3, F, P, Q] in [-1, 1], on the device
  at::Tensor latents;   // [n, C, T, H, W] normalised; undefined: none
  at::Tensor original;  // what was reconstructed, as `frames`; undefined: nothing was
};

class ClipMaker {
 public:
  ClipMaker() = default;
  ClipMaker(const ClipMaker&) = delete;
  ClipMaker& operator=(const ClipMaker&) = delete;
  virtual ~ClipMaker() = default;

  virtual MadeClips make(const PromptSet& prompts,
                         int64_t first,
                         int64_t count,
                         const Watch& watch) = 0;
  // Forwards of the transformer for one clip.
  virtual int64_t evaluations() const { return 0; }
};

// `row` and `parts` outlive the maker. IoError, InvalidInput as models::load_wan_dit.
std::unique_ptr<ClipMaker> make_clip_maker(const config::Evaluation& evaluation,
                                           const config::EvaluationRow& row,
                                           const SharedParts& parts);

}  // namespace fastwan::eval
