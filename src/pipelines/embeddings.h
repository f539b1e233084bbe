// Prompts to what the transformer hears.
#pragma once

#include <functional>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

#include "base/files.h"
#include "base/watch.h"
#include "pipelines/components.h"

namespace fastwan::pipelines {

// Encoder output at the prompt's true length, zero rows up to the model's maximum.
struct TextEmbeddings {
  at::Tensor prompt;    // [1, L, D]
  at::Tensor negative;  // [1, L, D], undefined without guidance
};

// Texts already encoded, so that videos of one prompt share the work.
using EncodedTexts = std::map<std::string, at::Tensor>;

// Cleaned as --compat says, cut to the tokenizer's maximum (said once), encoded.
void encode_texts(const std::vector<std::string>& texts,
                  Components& components,
                  const config::Generate& settings,
                  EncodedTexts& into,
                  const Watch& watch);

// prompt_embeds and, where guidance needs it, negative_prompt_embeds [1, l, D] of a file; rows up
// to `length` are zero. InvalidInput bad_shape, bad_tensor.
TextEmbeddings read_embeddings(const Path& file,
                               int64_t length,
                               int64_t width,
                               bool needs_negative);
void save_embeddings(const Path& file, const TextEmbeddings& text);

int64_t text_length(const layout::ModelFolder& model);

}  // namespace fastwan::pipelines
