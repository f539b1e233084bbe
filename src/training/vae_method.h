// Training a Wan VAE on clips.
//
//   loss = mean |decode(z) - video| + mse_weight * mean (decode(z) - video)^2
//          + kl_weight * mean KL(q(z | video) || N(0, 1))
//   z = mean + exp(logvar / 2) eps
//
// Both means are over elements, of the video and of the latent. A divergence summed over the latent
// beside a mean over pixels would outweigh them by its thousands of elements: at 1e-6 the posterior
// of procedural clips collapsed to the prior, and the frames lost their small objects.
//
// Source  Rombach et al., "High-resolution image synthesis with latent diffusion models", 2022
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ATen/core/Tensor.h>

#include "models/wan_vae.h"
#include "training/method.h"

namespace fastwan::training {

// Of each clip, in nats an element: 1/2 mean (mean^2 + exp(logvar) - 1 - logvar): [B] fp32 (fp64).
at::Tensor kl_divergence(const models::LatentPosterior& posterior);

struct VaeMethodOptions {
  uint64_t seed = 1000;
  double kl_weight = 1e-6;
  // L1 alone is slow to draw what is small and moves: the median of such a pixel is its background.
  double mse_weight = 0;
  // False: the decoder alone learns, from latents that stay as they are.
  bool trains_encoder = true;
};

class TrainVae final : public Method {
 public:
  // `units` hold the parameters of `vae` and outlive the method.
  TrainVae(std::shared_ptr<models::WanVae> vae, Units& units, const VaeMethodOptions& options);

  std::vector<std::string> updates(int64_t step) const override;
  // Reads pixels, of 4 k + 1 frames. Metrics  train_loss, vae_l1, vae_kl, vae_psnr (dB, of values
  // in
  // [-1, 1])
  Metrics accumulate(const std::string& network,
                     int64_t step,
                     const MicroBatch& batch,
                     double share) override;
  std::map<std::string, Trained> networks() override;

 private:
  models::LatentPosterior posterior_of(const at::Tensor& video) const;

  std::shared_ptr<models::WanVae> vae_;
  Units& units_;
  VaeMethodOptions options_;
};

// latents_mean and latents_std of a VAE's config: moments of a channel over clips, frames, pixels
// and the posterior, E[mean] and sqrt(Var[mean] + E[variance]), summed in fp64. With the variance a
// channel that says little has small latents once they are normalised; by its means alone it would
// weigh as much in a transformer's loss as one that says much.
class LatentMoments {
 public:
  void add(const models::LatentPosterior& posterior);
  std::vector<double> mean() const;  // [z]
  std::vector<double> std() const;   // [z], of the population

 private:
  at::Tensor sum_, sum_of_squares_;  // [z], of means, of squares of samples
  int64_t count_ = 0;
};

}  // namespace fastwan::training
