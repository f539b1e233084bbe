#include "data/latent_pool.h"

#include <algorithm>
#include <map>

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "base/digest.h"
#include "base/text.h"
#include "data/shapes_source.h"

namespace fastwan::data {
namespace {

constexpr int64_t kCaptionBatch = 256;
constexpr int64_t kFirst = 64;  // latents of the quick digest

// Convolutions give the same bits every time while it lives: a run that goes on compares digests.
// The setting is the process's, not the thread's.
class RepeatableConvolutions {
 public:
  RepeatableConvolutions()
      : searches_(at::globalContext().benchmarkCuDNN()),
        is_deterministic_(at::globalContext().deterministicCuDNN()) {
    set(false, true);
  }
  ~RepeatableConvolutions() { set(searches_, is_deterministic_); }
  RepeatableConvolutions(const RepeatableConvolutions&) = delete;
  RepeatableConvolutions& operator=(const RepeatableConvolutions&) = delete;

 private:
  static void set(bool searches, bool is_deterministic) {
    at::globalContext().setBenchmarkCuDNN(searches);
    at::globalContext().setDeterministicCuDNN(is_deterministic);
  }
  bool searches_, is_deterministic_;
};

void add_bytes(Sha256& digest, const at::Tensor& tensor) {
  const at::Tensor dense = tensor.cpu().contiguous();
  digest.update({static_cast<const std::byte*>(dense.const_data_ptr()), dense.nbytes()});
}

}  // namespace

Example LatentPool::get(int64_t index) const {
  invariant(index >= 0 && index < size(), "an example's index is inside its source");
  return examples_[static_cast<std::size_t>(index)];
}

std::vector<at::Tensor> encode_captions(const std::vector<std::string>& captions,
                                        const models::Umt5& text_encoder,
                                        const text::Tokenizer& tokenizer,
                                        at::Device device) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> embeddings;
  std::map<std::size_t, std::vector<std::string>> by_length;
  std::map<std::string, std::vector<int64_t>> ids;
  for (const std::string& caption : captions) {
    if (!ids.contains(caption)) {
      const std::vector<int64_t> tokens = tokenizer.encode(caption);
      by_length[tokens.size()].push_back(caption);
      ids.emplace(caption, tokens);
    }
  }
  for (const auto& [length, texts] : by_length) {
    for (std::size_t first = 0; first < texts.size(); first += kCaptionBatch) {
      const std::size_t end = std::min(texts.size(), first + kCaptionBatch);
      std::vector<int64_t> flat;
      for (std::size_t i = first; i < end; ++i) {
        const std::vector<int64_t>& tokens = ids.at(texts[i]);
        flat.insert(flat.end(), tokens.begin(), tokens.end());
      }
      const at::Tensor batch = at::tensor(flat, at::kLong)
                                   .view({-1, static_cast<int64_t>(length)})
                                   .to(device);                               // [B, L]
      const at::Tensor encoded = text_encoder.forward(batch).to(at::kFloat);  // [B, L, D]
      for (std::size_t i = first; i < end; ++i) {
        embeddings[texts[i]] = encoded[static_cast<int64_t>(i - first)];
      }
    }
  }
  std::vector<at::Tensor> out;
  for (const std::string& caption : captions) {
    out.push_back(embeddings.at(caption));
  }
  return out;
}

std::shared_ptr<LatentPool> encode_pool(const PoolOptions& options,
                                        const PoolEncoders& encoders,
                                        const Watch& watch) {
  const at::NoGradGuard no_grad;
  const RepeatableConvolutions repeatable;
  const ShapesSource source(options.format, options.seed, options.range);
  const int64_t N = source.size();
  std::vector<Example> examples(static_cast<std::size_t>(N));
  at::Tensor latents;  // [N, C, T, H, W]
  for (int64_t first = 0; first < N; first += options.vae_batch) {
    watch.throw_if_stopped();
    const int64_t count = std::min(options.vae_batch, N - first);
    const at::Tensor pixels =
        as_pixels(render_batch(source, first, count, &examples).to(options.vae_device));
    const at::Tensor mean = encoders.vae.posterior(pixels).mean;  // [count, C, T, H, W]
    if (!latents.defined()) {
      std::vector<int64_t> shape = mean.sizes().vec();
      shape[0] = N;
      latents = at::empty(shape, at::TensorOptions(at::kFloat).device(options.storage));
    }
    latents.slice(0, first, first + count).copy_(mean);
    watch.report("pool", first + count, N);
  }

  std::vector<std::string> captions;
  for (const Example& example : examples) {
    captions.push_back(example.caption);
  }
  const std::vector<at::Tensor> text =
      encode_captions(captions, encoders.text_encoder, encoders.tokenizer, options.vae_device);
  Sha256 all, beginning;
  for (int64_t i = 0; i < N; ++i) {
    Example& example = examples[static_cast<std::size_t>(i)];
    example.latents = latents[i];                            // [C, T, H, W]
    example.text = text[static_cast<std::size_t>(i)].cpu();  // [L, D]
    all.update(str(example.id, '\0', example.caption, '\n'));
    add_bytes(all, example.latents);
    add_bytes(all, example.text);
    if (i < kFirst) {
      add_bytes(beginning, example.latents);
    }
  }
  return std::make_shared<LatentPool>(latents, std::move(examples), all.hex(), beginning.hex());
}

}  // namespace fastwan::data
