// Prompts to training rows whose latents a teacher makes: how the published synthetic sets came to
// be.
#pragma once

#include <string>
#include <vector>

#include "base/watch.h"
#include "config/generate.h"
#include "data/preprocess.h"
#include "diffusion/levels.h"
#include "models/layout/model_folder.h"

namespace fastwan::data {

struct SynthOptions {
  Path output;        // the shard lies in combined_parquet_dataset/worker_<shard> below
  int64_t shard = 0;  // of shards: contiguous shares of the prompts
  int64_t shards = 1;
  int64_t rows_per_file = 64;
  // Clips sampled at once. 0: one on the CPU; on a GPU as many as fill it and fit (synth_batch).
  int64_t batch = 0;
  // Falling, in (0, 1000]: rows hold the teacher's trajectory, its states at the levels of the
  // sampler's own schedule nearest to these. Empty: rows hold the end alone.
  std::vector<int64_t> ode_timesteps;
};

// The state that a step of a sampler starts from, kept in a row.
struct KeptState {
  int64_t step = 0;     // from 0
  double timestep = 0;  // 1000 sigma
};
// Of each asked timestep the nearest state, the noisier of equals. InvalidInput bad_value: asked
// timesteps that do not fall within (0, 1000], two of them with one nearest state.
std::vector<KeptState> nearest_states(const std::vector<diffusion::NoiseLevel>& levels,
                                      const std::vector<int64_t>& asked);

// What one clip asks of a device, and what the device has.
struct SynthLoad {
  int64_t tokens = 0;       // of one clip in the transformer
  int64_t clip_bytes = 0;   // activations of one clip
  int64_t spare_bytes = 0;  // free where the weights are in place
};
// Clips for one forward on a GPU: enough to fill it, in half of the spare memory; 1 to 64.
int64_t synth_batch(const SynthLoad& load);

// Rows of the t2v schema, of ode_trajectory_text_only where timesteps are asked for; one a prompt,
// id prompt-<index>. `settings` are generate's, resolved.
// Noise is stream kSynth with slot = the prompt's index in the whole list (step 0 the start, step n
// re-noise n): at batch 1 a row is the same bits for any number of shards. Of a larger batch it
// differs by the rounding of products of another height, and so may the last batch of a shard; a
// folder may be gone on with at another batch. Stored vae_latent is z std + mean of
// the sampler's z, so that normalise() gives z again. trajectory_latents [K + 1, C, T, H, W] are
// the sampler's own z, normalised: the K kept states, then the end; trajectory_timesteps [K + 1]
// fp32 their 1000 sigma, last 0. Resumes as preprocess() does.
// InvalidInput non_finite names the first prompt whose clip is none; conflict: a trajectory of a
// sampler that adds noise on the way.
RowsMade synthesize(const config::Generate& settings,
                    const layout::ModelFolder& model,
                    const std::vector<std::string>& prompts,
                    const SynthOptions& options,
                    const Watch& watch,
                    const Note& on_note);

}  // namespace fastwan::data
