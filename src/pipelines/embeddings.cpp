#include "pipelines/embeddings.h"

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "base/text.h"
#include "models/checkpoint.h"
#include "pipelines/tensor_file.h"
#include "text/prompt_clean.h"
#include "text/tokenizer.h"

namespace fastwan::pipelines {
namespace {

constexpr int64_t kUsualLength = 512;  // where tokenizer_config.json names none

at::Tensor padded(const at::Tensor& text, int64_t length) {  // [1, l, D] -> [1, length, D]
  return text.size(1) < length ? at::constant_pad_nd(text, {0, 0, 0, length - text.size(1)}) : text;
}

}  // namespace

int64_t text_length(const layout::ModelFolder& model) {
  return text::model_max_length(model.tokenizer, kUsualLength);
}

void encode_texts(const std::vector<std::string>& texts,
                  Components& components,
                  const config::Generate& settings,
                  EncodedTexts& into,
                  const Watch& watch) {
  const int64_t length = text_length(components.model());
  const auto tokenizer = text::open_tokenizer(components.model().tokenizer);
  const models::Umt5& encoder = components.text_encoder(watch);
  const auto total = static_cast<int64_t>(texts.size());
  watch.report("text", 0, total);
  for (int64_t i = 0; i < total; ++i) {
    watch.throw_if_stopped();
    const std::string& text = texts[static_cast<std::size_t>(i)];
    const std::string clean = *settings.compat == config::Compat::kFastvideo
                                  ? text::prompt_strip(text)
                                  : text::prompt_clean(text);
    text::TokenIds tokens = text::encode_padded(*tokenizer, clean, length);
    if (tokens.was_truncated) {
      components.options().on_note(str("a prompt is longer than the ", length,
                                       " tokens that the model reads; its end is left out"));
    }
    tokens.ids.resize(static_cast<std::size_t>(tokens.length));
    const at::Tensor ids =
        at::tensor(tokens.ids, at::kLong).unsqueeze(0).to(components.options().device);  // [1, l]
    into[text] = padded(encoder.forward(ids), length);  // [1, L, D]
    watch.report("text", i + 1, total);
  }
}

TextEmbeddings read_embeddings(const Path& file,
                               int64_t length,
                               int64_t width,
                               bool needs_negative) {
  const auto stored = io::SafetensorsFile::open(file);
  const auto read = [&](const char* name) {
    const at::Tensor text = read_named(stored, name, str("1 L ", width));
    return padded(text, length);
  };
  TextEmbeddings out{.prompt = read("prompt_embeds"), .negative = {}};
  if (needs_negative) {
    out.negative = read("negative_prompt_embeds");
  }
  return out;
}

void save_embeddings(const Path& file, const TextEmbeddings& text) {
  std::vector<models::NamedTensor> tensors = {{"prompt_embeds", text.prompt}};
  if (text.negative.defined()) {
    tensors.push_back({"negative_prompt_embeds", text.negative});
  }
  models::save_tensors(file, tensors);
}

}  // namespace fastwan::pipelines
