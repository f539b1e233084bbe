// Prompts to training rows whose latents a teacher makes: how the published synthetic sets came to
// be.
#pragma once

#include <string>
#include <vector>

#include "base/watch.h"
#include "config/generate.h"
#include "data/preprocess.h"
#include "models/layout/model_folder.h"

namespace fastwan::data {

struct SynthOptions {
  Path output;        // the shard lies in combined_parquet_dataset/worker_<shard> below
  int64_t shard = 0;  // of shards: contiguous shares of the prompts
  int64_t shards = 1;
  int64_t rows_per_file = 64;
};

// Rows of the t2v schema, one a prompt, id prompt-<index>. `settings` are generate's, resolved.
// Noise is stream kSynth with slot = the prompt's index in the whole list (step 0 the start, step n
// re-noise n): a row does not depend on the number of shards. Stored latents are z std + mean of
// the sampler's z, so that normalise() gives z again. Resumes as preprocess() does.
RowsMade synthesize(const config::Generate& settings,
                    const layout::ModelFolder& model,
                    const std::vector<std::string>& prompts,
                    const SynthOptions& options,
                    const Watch& watch,
                    const Note& on_note);

}  // namespace fastwan::data
