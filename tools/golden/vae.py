#!/usr/bin/env python3
"""Goldens of the Wan VAE from diffusers' AutoencoderKLWan: tests/golden/vae/.

  vae21, vae22              encode and decode by chunk, fp32 and bf16, decoded frames before and after the clamp
  vae21_tiled, vae22_tiled  spatial tiles, the last row and column ragged
  vae_layers                layers alone
Inputs are generated from (case, name), as the weights are; they are not stored.
"""
import numpy
import torch

import common

PRODUCER = "tools/golden/vae.py"
VAE21 = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
         "latents_mean": [0.1, -0.2, 0.3, -0.4], "latents_std": [1.5, 0.7, 2.0, 1.2]}
VAE22 = {"base_dim": 8, "decoder_base_dim": 16, "z_dim": 6, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1,
         "temperal_downsample": [False, True, True], "is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2,
         "scale_factor_spatial": 16, "latents_mean": [0.1, -0.2, 0.3, -0.4, 0.5, -0.6],
         "latents_std": [1.5, 0.7, 2.0, 1.2, 0.9, 1.1]}
FP32 = {"of_range": 2e-5, "relative_l2": 5e-6}
FP32_REASON = "fp32 model; another order of sums was measured at 3.4e-6 of the range and 5e-7"


def model(config, case):
    from diffusers import AutoencoderKLWan
    vae = AutoencoderKLWan(**config).eval()
    return vae, common.fill(vae, case)


def generated(case, name, shape, std=1.0):
    return torch.from_numpy(common.tensor(case, name, shape, 0.0, std))


def numpy32(x):
    return x.float().numpy()


def unclamped(vae, latents):
    """Decoded frames before the clamp, and still in patches: what the decoder itself returns."""
    vae.clear_cache()
    x = vae.post_quant_conv(latents)
    chunks = []
    for i in range(x.shape[2]):
        vae._conv_idx = [0]
        chunks.append(vae.decoder(x[:, :, i:i + 1], feat_cache=vae._feat_map, feat_idx=vae._conv_idx, first_chunk=i == 0))
    vae.clear_cache()
    return torch.cat(chunks, 2)


def outputs(vae, case, pixels, latent_size, dtype):
    """name -> array for all lengths."""
    out = {}
    for frames in (1, 5, 7, 9):
        video = generated(case, f"video{frames}", (1, 3, frames, *pixels), 0.5).to(dtype)
        posterior = vae.encode(video).latent_dist
        out[f"encode{frames}.mean"] = numpy32(posterior.mean)
        out[f"encode{frames}.logvar"] = numpy32(posterior.logvar)
    for frames in (1, 2, 3, 4):
        latents = generated(case, f"latents{frames}", (1, vae.config.z_dim, frames, *latent_size), 0.3).to(dtype)
        out[f"decode{frames}.unclamped"] = numpy32(unclamped(vae, latents))
    out["decode4.frames"] = numpy32(vae.decode(latents).sample)
    return out


def relative_l2(got, want):
    return float(numpy.linalg.norm(got.astype(numpy.float64) - want) / numpy.linalg.norm(want.astype(numpy.float64)))


def whole_model(case, config, pixels, latent_size):
    vae, digest = model(config, case)
    exact = outputs(vae, case, pixels, latent_size, torch.float32)
    rounded = outputs(vae.to(torch.bfloat16), case, pixels, latent_size, torch.bfloat16)
    errors = {name: relative_l2(rounded[name], exact[name]) for name in exact}
    sampled = exact | {f"bf16.{name}": array for name, array in rounded.items() if name != "decode4.frames"}
    common.write("vae", case, {}, what="AutoencoderKLWan by chunk: posterior of videos of 1, 5, 7, 9 frames; frames of 1 to 4 latents",
                 producer=PRODUCER, packages=("torch", "diffusers"), tolerance=FP32, tolerance_reason=FP32_REASON, config=config,
                 weights=digest, sampled=sampled, extra={"bf16_error": errors, "pixels": pixels, "latent_size": latent_size})


def tiled(case, config, tile, stride, latent_shape, video_shape):
    vae, digest = model(config, case)
    vae.enable_tiling(tile, tile, stride, stride)
    latents = generated(case, "latents", latent_shape, 0.3)
    video = generated(case, "video", video_shape, 0.5)
    posterior = vae.encode(video).latent_dist
    common.write("vae", case, {}, what="AutoencoderKLWan with spatial tiles that overlap; the last row and column are ragged",
                 producer=PRODUCER, packages=("torch", "diffusers"), tolerance=FP32, tolerance_reason=FP32_REASON, config=config,
                 weights=digest, sampled={"frames": numpy32(vae.decode(latents).sample), "mean": numpy32(posterior.mean),
                                          "logvar": numpy32(posterior.logvar)},
                 extra={"tile": tile, "stride": stride, "latent_shape": latent_shape, "video_shape": video_shape})


def by_chunk(module, chunks):
    cache, out = [None], []
    for chunk in chunks:
        out.append(module(chunk, feat_cache=cache, feat_idx=[0]))
    return torch.cat(out, 2).numpy()


def layers(case):
    from diffusers.models.autoencoders import autoencoder_kl_wan as wan
    arrays, out = {}, {}

    def filled(module, name):
        for key, parameter in module.named_parameters():
            full = f"decoder.{name}.{key}"
            arrays[full] = common.weight(case, full, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(arrays[full]))
        return module

    x = generated(case, "norm.x", (1, 6, 2, 3, 4))
    x[:, :, 0, 0, 0] = 0
    out["norm"] = filled(wan.WanRMS_norm(6, images=False), "norm")(x).numpy()
    for frames in (1, 4):
        x = generated(case, f"avg_down{frames}.x", (1, 4, frames, 4, 6))
        out[f"avg_down{frames}.both"] = wan.AvgDown3D(4, 8, 2, 2)(x).numpy()
        out[f"avg_down{frames}.space"] = wan.AvgDown3D(4, 4, 1, 2)(x).numpy()
        out[f"avg_down{frames}.none"] = wan.AvgDown3D(4, 4, 1, 1)(x).numpy()
    x = generated(case, "dup_up.x", (1, 8, 2, 2, 3))
    out["dup_up.both"] = wan.DupUp3D(8, 8, 2, 2)(x).numpy()
    out["dup_up.space"] = wan.DupUp3D(8, 4, 1, 2)(x).numpy()
    x = generated(case, "patch.x", (1, 3, 2, 4, 6))
    out["patch"] = wan.patchify(x, 2).numpy()
    up = filled(wan.WanResample(4, "upsample3d"), "up")
    for size in (1, 2):
        out[f"up.{size}"] = by_chunk(up, [generated(case, f"up.{size}.{i}", (1, 4, 1 if i == 0 else size, 2, 3)) for i in range(4)])
    down = filled(wan.WanResample(4, "downsample3d"), "down")
    out["down"] = by_chunk(down, [generated(case, f"down.{i}", (1, 4, 1 if i == 0 else 4, 4, 6)) for i in range(3)])
    common.write("vae", case, out, what="layers of AutoencoderKLWan alone; up and down by chunks, the first of one frame",
                 producer=PRODUCER, packages=("torch", "diffusers"), tolerance={"absolute": 1e-6},
                 tolerance_reason="few fp32 operations on values of about 1", weights=common.weights_digest(arrays))


def main():
    torch.set_num_threads(1)
    with torch.no_grad():
        whole_model("vae21", VAE21, (32, 24), (4, 3))
        whole_model("vae22", VAE22, (64, 96), (4, 6))
        tiled("vae21_tiled", VAE21, 32, 24, (1, 4, 3, 7, 9), (1, 3, 5, 56, 72))
        tiled("vae22_tiled", VAE22, 64, 48, (1, 6, 2, 7, 9), (1, 3, 5, 112, 144))
        layers("vae_layers")


if __name__ == "__main__":
    main()
