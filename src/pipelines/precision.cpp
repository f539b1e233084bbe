#include "pipelines/precision.h"

namespace fastwan::pipelines {
namespace {

at::ScalarType type_of(const config::Setting<config::Precision>& setting,
                       at::ScalarType otherwise) {
  switch (*setting) {
    case config::Precision::kFp32:
      return at::kFloat;
    case config::Precision::kBf16:
      return at::kBFloat16;
    case config::Precision::kAuto:
      break;
  }
  return otherwise;
}

}  // namespace

Precisions choose_precisions(const config::Generate& settings, at::Device device) {
  const bool is_fastvideo = *settings.compat == config::Compat::kFastvideo;
  const at::ScalarType usual = device.is_cpu() ? at::kFloat : at::kBFloat16;
  Precisions out;
  if (type_of(settings.dit_precision, usual) == at::kBFloat16) {
    out.transformer = is_fastvideo ? models::RoundingProfile::fastvideo_bf16()
                                   : models::RoundingProfile::diffusers_bf16();
    out.state = is_fastvideo ? at::kBFloat16 : at::kFloat;
  } else {
    out.transformer = models::RoundingProfile::fp32();
  }
  out.vae = type_of(settings.vae_precision, is_fastvideo ? usual : at::kFloat);
  out.text_encoder = type_of(settings.text_encoder_precision, usual);
  if (!device.is_cpu()) {
    out.text_encoder_held = out.text_encoder;
  }
  out.latent_form = is_fastvideo ? models::LatentForm::kFastVideo : models::LatentForm::kDiffusers;
  return out;
}

}  // namespace fastwan::pipelines
