#include "data/latents.h"

#include <ATen/ops/tensor.h>

#include "base/check.h"
#include "base/text.h"

namespace fastwan::data {
namespace {

at::Tensor per_channel(const std::vector<double>& values, const at::Tensor& latents) {
  const auto channels = static_cast<int64_t>(values.size());
  if (latents.dim() < 4 || latents.size(-4) != channels) {
    throw InvalidInput(
        Code::kBadDataset,
        str("latents have ", latents.dim() < 4 ? 0 : latents.size(-4), " channels, the VAE has ",
            channels, ". Were these rows made with another model?"));
  }
  return at::tensor(values, at::kDouble).view({channels, 1, 1, 1}).to(latents.device());
}

}  // namespace

at::Tensor normalise(const at::Tensor& latents, const layout::WanVaeConfig& vae) {
  const at::Tensor mean = per_channel(vae.latents_mean, latents);
  const at::Tensor std = per_channel(vae.latents_std, latents);
  return ((latents.to(at::kDouble) - mean) / std).to(at::kFloat);
}

at::Tensor denormalise(const at::Tensor& latents, const layout::WanVaeConfig& vae) {
  const at::Tensor mean = per_channel(vae.latents_mean, latents);
  const at::Tensor std = per_channel(vae.latents_std, latents);
  return (latents.to(at::kDouble) * std + mean).to(at::kFloat);
}

}  // namespace fastwan::data
