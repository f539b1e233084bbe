#include "pipelines/first_frame.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>

namespace fastwan::pipelines {

at::Tensor encode_first_frame(models::WanVae& vae, const io::Image& image, at::Device device) {
  // from_blob takes what it does not change; the copy to fp32 ends the borrowing.
  auto* bytes = const_cast<uint8_t*>(image.rgb.data());
  const at::Tensor pixels =
      at::from_blob(bytes, {image.height, image.width, 3}, at::kByte).to(at::kFloat);  // [P, Q, 3]
  const at::Tensor video = (pixels / 255.0 - 0.5)
                               .div(0.5)
                               .permute({2, 0, 1})
                               .unsqueeze(0)
                               .unsqueeze(2)
                               .contiguous()
                               .to(device);  // [1, 3, 1, P, Q] in [-1, 1]
  return vae.normalise(vae.encode(video).mean.to(at::kFloat));
}

at::Tensor impose_first_frame(const at::Tensor& x, const at::Tensor& frame) {
  const at::Tensor known = frame.to(x.device(), x.scalar_type());
  return at::cat({known, x.narrow(2, 1, x.size(2) - 1)}, 2);
}

at::Tensor first_frame_timesteps(double timestep,
                                 const ops::AttentionPlan& plan,
                                 at::Device device) {
  at::Tensor out = at::full({1, plan.T * plan.H * plan.W}, timestep,
                            at::TensorOptions(at::kFloat).device(device));  // [1, S]
  out.narrow(1, 0, plan.H * plan.W).zero_();
  return out;
}

}  // namespace fastwan::pipelines
