// A pool of procedural clips that have been through the VAE and the text encoder, in memory: what
// latents are trained on when encoding in the loop would cost more than the step.
//
// Dims  N clips, C T H W latent, L text tokens, D text width
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "base/watch.h"
#include "data/shapes.h"
#include "data/source.h"
#include "models/umt5.h"
#include "models/wan_vae.h"
#include "text/tokenizer.h"

namespace fastwan::data {

struct PoolOptions {
  shapes::Format format;
  uint64_t seed = 1000;
  shapes::IndexRange range{0, 1024};  // which clips; not more than fit the storage
  int64_t vae_batch = 16;             // clips encoded at once
  at::Device vae_device = at::kCPU;   // where the networks lie
  at::Device storage = at::kCPU;      // where the latents lie; embeddings stay on the host
};

class LatentPool final : public Source {
 public:
  LatentPool(at::Tensor latents,
             std::vector<Example> examples,
             std::string digest,
             std::string first_digest)
      : latents_(std::move(latents)),
        examples_(std::move(examples)),
        digest_(std::move(digest)),
        first_digest_(std::move(first_digest)) {}

  int64_t size() const override { return static_cast<int64_t>(examples_.size()); }
  // Latents: views of the pool, on its storage device.
  Example get(int64_t index) const override;
  // sha256 over captions, latents and embeddings of all clips, in order.
  std::string digest() const override { return digest_; }
  // sha256 over the first 64 latents: tells whether two machines encode alike before all is done.
  const std::string& first_digest() const { return first_digest_; }
  const at::Tensor& latents() const { return latents_; }  // [N, C, T, H, W] fp32, not normalised

 private:
  at::Tensor latents_;
  std::vector<Example> examples_;
  std::string digest_, first_digest_;
};

struct PoolEncoders {
  models::WanVae& vae;
  const models::Umt5& text_encoder;
  const text::Tokenizer& tokenizer;
};

// Renders on all threads, encodes batch by batch; latents are the posterior's means. Reports stage
// "pool"; Stopped between batches. InvalidInput bad_value: as ShapesSource.
std::shared_ptr<LatentPool> encode_pool(const PoolOptions& options,
                                        const PoolEncoders& encoders,
                                        const Watch& watch);

// Captions -> embeddings [L, D] fp32 on the text encoder's device, equal captions encoded once,
// captions of one length together.
std::vector<at::Tensor> encode_captions(const std::vector<std::string>& captions,
                                        const models::Umt5& text_encoder,
                                        const text::Tokenizer& tokenizer,
                                        at::Device device);

}  // namespace fastwan::data
