#!/usr/bin/env python3
"""Goldens of src/pipelines: whole requests from noise and embeddings to latents and frames.

    .deps/venv/bin/python tools/golden/pipelines.py

p1    Wan2.1's kind: diffusers' WanPipeline, UniPC, guidance
m2    FastWan's kind: gates and Video Sparse Attention in fp64 inside diffusers' block, few-step loop written out here
t5b   Wan2.2-TI2V-5B's kind: VAE 2.2, a timestep for each token, all equal
i5b   the same with a first frame
a14b  two transformers, each with its own guidance
Inputs and weights are generated: common.tensor(case, "noise" | "prompt" | "negative" | "renoise_<i>"), weights under
(case + "/transformer" | "/transformer_2" | "/vae", name).
"""

import numpy
import torch
from diffusers import (AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline,
                       WanTransformer3DModel)
from PIL import Image

import common
import vsa_reference

PRODUCER = "tools/golden/pipelines.py"
TOLERANCE = {"latents_of_range": 1e-4, "frames_of_range": 1e-3}
REASON = "the order of additions, carried through every step and the VAE"
LENGTH, TEXT_DIM = 12, 32

COMMON = {"patch_size": [1, 2, 2], "text_dim": TEXT_DIM, "cross_attn_norm": True, "qk_norm": "rms_norm_across_heads",
          "eps": 1e-6, "rope_max_seq_len": 32}
D1 = {**COMMON, "num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2,
      "in_channels": 4, "out_channels": 4}
D3 = {**D1, "num_attention_heads": 3, "attention_head_dim": 64, "freq_dim": 64, "ffn_dim": 128, "num_layers": 1}
D1_5B = {**D1, "in_channels": 6, "out_channels": 6}
A1 = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1, "temperal_downsample": [False, True, True],
      "latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.1, 0.9, 1.3, 0.8]}
A2 = {"base_dim": 8, "decoder_base_dim": 16, "z_dim": 6, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1,
      "temperal_downsample": [False, True, True], "is_residual": True, "in_channels": 12, "out_channels": 12,
      "patch_size": 2, "scale_factor_spatial": 16, "latents_mean": [0.1, -0.2, 0.3, 0.0, 0.2, -0.1],
      "latents_std": [1.1, 0.9, 1.3, 0.8, 1.0, 1.2]}


def given(case, name, shape):
    return torch.from_numpy(common.tensor(case, name, shape))


def texts(case):
    return {"prompt_embeds": given(case, "prompt", (1, LENGTH, TEXT_DIM)),
            "negative_prompt_embeds": given(case, "negative", (1, LENGTH, TEXT_DIM))}


def transformer(case, config, part="transformer"):
    model = WanTransformer3DModel(**config).eval()
    return model, common.fill(model, f"{case}/{part}")


def autoencoder(case, config):
    model = AutoencoderKLWan(**config).eval()
    return model, common.fill(model, f"{case}/vae")


def scheduler(shift):
    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


def write(case, latents, frames, digests, request, configs, **extra):
    """frames [F, 3, P, Q] in [0, 1]."""
    common.write("pipelines", case, {"out.latents": latents.float().numpy()}, sampled={"out.frames": frames.float().numpy()},
                 what="latents and frames of one request", producer=PRODUCER, packages=("torch", "diffusers", "numpy"),
                 tolerance=TOLERANCE, tolerance_reason=REASON, config=configs,
                 extra={"weights_sha256": digests, "request": request, **extra})


def decoded(vae, latents):
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
    std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
    video = vae.decode(latents * std + mean, return_dict=False)[0]
    return (video[0] / 2 + 0.5).clamp(0, 1).transpose(0, 1)


def by_diffusers(case, dit, vae, request, image=None):
    models = {"transformer": transformer(case, dit)}
    extra = {}
    if "boundary_ratio" in request:
        models["transformer_2"] = transformer(case, dit, "transformer_2")
        extra = {"transformer_2": models["transformer_2"][0], "boundary_ratio": request["boundary_ratio"]}
    models["vae"] = autoencoder(case, vae)
    of = WanPipeline if image is None else WanImageToVideoPipeline
    pipeline = of(tokenizer=None, text_encoder=None, vae=models["vae"][0], scheduler=scheduler(request["shift"]),
                  transformer=models["transformer"][0], expand_timesteps=request.get("expand_timesteps", False), **extra)
    pipeline.set_progress_bar_config(disable=True)
    scale = pipeline.vae_scale_factor_spatial
    shape = (1, vae["z_dim"], (request["frames"] - 1) // 4 + 1, request["height"] // scale, request["width"] // scale)
    call = {"num_frames": request["frames"], "height": request["height"], "width": request["width"],
            "num_inference_steps": request["steps"], "guidance_scale": request["guidance"],
            "latents": given(case, "noise", shape), "output_type": "latent", "return_dict": False, **texts(case)}
    if "guidance_2" in request:
        call["guidance_scale_2"] = request["guidance_2"]
    if image is not None:
        call["image"] = image
    latents = pipeline(**call)[0]
    write(case, latents, decoded(models["vae"][0], latents), {part: digest for part, (_, digest) in models.items()}, request,
          {"transformer": dit, "vae": vae})


# --- the few-step loop ----------------------------------------------------------------------------


class GatedSparseAttention:
    """Self-attention with a gated coarse branch; the rest of the block is diffusers'."""

    def __init__(self, case, index, width, grid, sparsity):
        name = f"blocks.{index}.to_gate_compress"
        self.weight = torch.from_numpy(common.weight(f"{case}/transformer", f"{name}.weight", (width, width)))
        self.bias = torch.from_numpy(common.weight(f"{case}/transformer", f"{name}.bias", (width,)))
        self.grid, self.sparsity, self.gap = grid, sparsity, float("inf")

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]

        def heads(y):
            return y.unflatten(2, (attn.heads, -1))

        def rotated(y):
            first, second = y.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)

        gate = heads(torch.nn.functional.linear(x, self.weight, self.bias))
        out, gap = vsa_reference.attend(rotated(heads(attn.norm_q(attn.to_q(x)))), rotated(heads(attn.norm_k(attn.to_k(x)))),
                                        heads(attn.to_v(x)), gate, self.grid, self.sparsity)
        self.gap = min(self.gap, gap)
        return attn.to_out[0](out.float().flatten(2))


def sigma_of(timestep, shift):
    """The entry of FlowMatchEuler's shifted table whose timestep is nearest."""
    share = torch.arange(1000, 0, -1, dtype=torch.float32) / 1000
    table = shift * share / (1 + (shift - 1) * share)
    return table[(table * 1000 - timestep).abs().argmin()]


def few_step(case, dit, vae, request):
    model, digest = transformer(case, dit)
    decoder, vae_digest = autoencoder(case, vae)
    shape = (1, vae["z_dim"], (request["frames"] - 1) // 4 + 1, request["height"] // 8, request["width"] // 8)
    width = dit["num_attention_heads"] * dit["attention_head_dim"]
    attention = [GatedSparseAttention(case, i, width, (shape[2], shape[3] // 2, shape[4] // 2), request["sparsity"])
                 for i in range(dit["num_layers"])]
    for block, processor in zip(model.blocks, attention):
        block.attn1.set_processor(processor)
    text = texts(case)["prompt_embeds"]
    x = given(case, "noise", shape)
    for i, timestep in enumerate(request["timesteps"]):
        sigma = sigma_of(timestep, request["shift"])
        if i > 0:
            x = (1 - sigma) * x0 + sigma * given(case, f"renoise_{i}", shape)
        velocity = model(x, torch.tensor([float(timestep)]), text, return_dict=False)[0]
        x0 = (x.double() - sigma.double() * velocity.double()).float()
    gap = min(processor.gap for processor in attention)
    assert gap > 1e-5, f"{case}: the last chosen tile wins by {gap} only; take another case name"
    write(case, x0, decoded(decoder, x0), {"transformer": digest, "vae": vae_digest}, request,
          {"transformer": dit, "vae": vae}, smallest_gap=gap)


def first_frame(width, height):
    y, x = numpy.mgrid[0:height, 0:width]
    return Image.fromarray(numpy.stack([x * 2 % 256, y * 3 % 256, (x + y) % 256], -1).astype(numpy.uint8))


@torch.no_grad()
def main():
    torch.set_num_threads(1)
    many = {"frames": 9, "height": 32, "width": 48, "steps": 3, "shift": 5.0, "guidance": 5.0}
    by_diffusers("p1", D1, A1, many)
    few_step("m2", D3, A1, {"frames": 17, "height": 96, "width": 112, "timesteps": [1000, 757, 522], "shift": 8.0,
                            "sparsity": 0.5})
    big = {**many, "height": 64, "width": 96, "expand_timesteps": True}
    by_diffusers("t5b", D1_5B, A2, big)
    by_diffusers("i5b", D1_5B, A2, big, first_frame(96, 64))
    by_diffusers("a14b", D1, A1, {**many, "steps": 4, "shift": 12.0, "guidance": 4.0, "guidance_2": 3.0,
                                  "boundary_ratio": 0.875})


if __name__ == "__main__":
    main()
