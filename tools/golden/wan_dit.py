#!/usr/bin/env python3
"""Goldens of WanDit: diffusers' WanTransformer3DModel, with gates and sparse attention added where it has none.

    .deps/venv/bin/python tools/golden/wan_dit.py

d1 d2 d3   head sizes 24, 128, 64; velocity in fp32, in bf16 as diffusers rounds, d1 and d2 as FastVideo rounds
d4         a timestep for each token, weights of d1
d6         tables of rotary positions and of the timestep embedding
g1_d2 ...  gates (to_gate_compress) and Video Sparse Attention in fp64 inside the blocks of d2 and d3
Inputs and weights are generated: common.tensor(case, "latents" | "text"), common.weight(case, name).
"""

import tempfile

import numpy
import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel
from diffusers.models.embeddings import get_1d_rotary_pos_embed, get_timestep_embedding

import common
import vsa_reference

PRODUCER = "tools/golden/wan_dit.py"
COMMON_CONFIG = {"patch_size": [1, 2, 2], "in_channels": 4, "out_channels": 4, "text_dim": 32, "cross_attn_norm": True,
                 "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 32}
CONFIGS = {
    "d1": {"num_attention_heads": 2, "attention_head_dim": 24, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2},
    "d2": {"num_attention_heads": 2, "attention_head_dim": 128, "freq_dim": 256, "ffn_dim": 256, "num_layers": 1},
    "d3": {"num_attention_heads": 3, "attention_head_dim": 64, "freq_dim": 64, "ffn_dim": 128, "num_layers": 1},
}
LATENTS = {"d1": (2, 4, 3, 6, 10), "d2": (1, 4, 5, 12, 14), "d3": (1, 4, 5, 12, 14)}
TEXT = {"d1": (2, 12, 32), "d2": (1, 512, 32), "d3": (1, 512, 32)}
TIMESTEP = {"d1": [757.0, 13.0], "d2": [522.0], "d3": [1000.0]}
TOLERANCE = {"of_range": 2e-5, "relative_l2": 5e-6, "bf16": "1.5 E to fp32, 2 E to bf16"}
REASON = "reordering alone was measured at 3.4e-6 and 5e-7; E is the oracle's own bf16 error"


def config_of(case):
    return {**COMMON_CONFIG, **CONFIGS[case]}


def inputs(case):
    latents = torch.from_numpy(common.tensor(case, "latents", LATENTS[case]))
    text = torch.from_numpy(common.tensor(case, "text", TEXT[case]))
    text[:, TEXT[case][1] // 2:] = 0  # rows after the prompt are zero and take part
    return latents, torch.tensor(TIMESTEP[case]), text


def grid_of(case):
    _, _, frames, height, width = LATENTS[case]
    return frames, height // 2, width // 2


def make(case):
    model = WanTransformer3DModel(**config_of(case)).eval()
    return model, common.fill(model, case)


def as_bf16(model):
    """Through a file, so that the modules that diffusers keeps in fp32 stay so."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return WanTransformer3DModel.from_pretrained(folder, torch_dtype=torch.bfloat16).eval()


def relative_l2(got, want):
    return float((got.double() - want.double()).norm() / want.double().norm())


# --- FastVideo's roundings: all parameters bf16, fp32 islands -----------------------------------

def b(x):
    return x.to(torch.bfloat16)


def layer_norm(x, eps):
    return F.layer_norm(x.float(), x.shape[-1:], eps=eps)


def rms(x, weight, eps):
    wide = x.float()
    return b(b(wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)) * weight)


def rotate(x, table):
    cos, sin = table[0][..., 0::2], table[1][..., 1::2]
    first, second = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return b(torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2))


def fastvideo_attention(attn, x, memory, table, eps):
    heads = (attn.heads, -1)
    q = rms(attn.to_q(x), attn.norm_q.weight, eps).unflatten(2, heads)
    k = rms(attn.to_k(memory), attn.norm_k.weight, eps).unflatten(2, heads)
    v = attn.to_v(memory).unflatten(2, heads)
    if table is not None:
        q, k = rotate(q, table), rotate(k, table)
    out = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v))).transpose(1, 2)
    return attn.to_out[0](out.flatten(2))


def fastvideo_block(block, x, context, tproj, table, eps):
    m = (block.scale_shift_table.float() + tproj.float()).chunk(6, 1)
    n1 = b(layer_norm(x, eps) * (1 + m[1]) + m[0])
    sum1 = x.float() + fastvideo_attention(block.attn1, n1, n1, table, eps).float() * m[2]  # kept fp32 for norm2
    n2 = b(F.layer_norm(sum1, sum1.shape[-1:], block.norm2.weight.float(), block.norm2.bias.float(), eps))
    x = b(b(sum1) + fastvideo_attention(block.attn2, n2, context, None, eps))
    n3 = b(b(layer_norm(x, eps)).float() * (1 + m[4]) + m[3])
    y = block.ffn.net[2](F.gelu(block.ffn.net[0].proj(n3), approximate="tanh"))
    return b(x.float() + y.float() * m[5])


def fastvideo_forward(model, table, latents, timestep, text):
    """`model`: every parameter bf16; `table`: the rotation in fp32, which the cast of the model would round."""
    config, embedder = model.config, model.condition_embedder
    B, _, frames, height, width = latents.shape
    x = model.patch_embedding(b(latents)).flatten(2).transpose(1, 2).contiguous()
    wave = b(get_timestep_embedding(timestep, config.freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0))
    temb = embedder.time_embedder.linear_2(F.silu(embedder.time_embedder.linear_1(wave)))
    tproj = embedder.time_proj(F.silu(temb)).unflatten(1, (6, -1))
    text_embedder = embedder.text_embedder
    context = text_embedder.linear_2(F.gelu(text_embedder.linear_1(b(text)), approximate="tanh"))
    for block in model.blocks:
        x = fastvideo_block(block, x, context, tproj, table, config.eps)
    shift, scale = b(model.scale_shift_table + temb.unsqueeze(1)).chunk(2, 1)
    y = b(b(layer_norm(x, config.eps)).float() * b(1 + scale).float() + shift.float())
    y = model.proj_out(y).reshape(B, frames, height // 2, width // 2, 1, 2, 2, -1)
    return y.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)


# --- gates and sparse attention inside diffusers' blocks ----------------------------------------

def with_gates(model, case, sparsity):
    width = model.config.num_attention_heads * model.config.attention_head_dim
    for index, block in enumerate(model.blocks):
        name = f"blocks.{index}.to_gate_compress"
        weight = torch.from_numpy(common.weight(case, f"{name}.weight", (width, width)))
        bias = torch.from_numpy(common.weight(case, f"{name}.bias", (width,)))
        block.attn1.set_processor(vsa_reference.GatedSparseAttention(weight, bias, grid_of(case), sparsity))


# --- cases --------------------------------------------------------------------------------------

def write(case, tensors, sampled=None, **rest):
    common.write("models", case, {name: value.float().numpy() for name, value in tensors.items()}, producer=PRODUCER,
                 packages=("torch", "diffusers"), tolerance=TOLERANCE, tolerance_reason=REASON, sampled=sampled, **rest)


def dense(case):
    model, digest = make(case)
    latents, timestep, text = inputs(case)
    blocks = []
    hooks = [block.register_forward_hook(lambda _, __, out: blocks.append(out)) for block in model.blocks]
    full = model(latents, timestep, text, return_dict=False)[0]
    for hook in hooks:
        hook.remove()
    half = as_bf16(model)(latents.bfloat16(), timestep, text.bfloat16(), return_dict=False)[0]
    tensors = {"out.velocity": full, "out_bf16.velocity": half}
    if case == "d1":
        tensors.update({f"out.block_{i}": out for i, out in enumerate(blocks)})
    error = {"diffusers": relative_l2(half, full)}
    if case != "d3":
        table = model.rope(latents)
        fastvideo = fastvideo_forward(model.to(torch.bfloat16), table, latents, timestep, text)
        tensors["out_fastvideo.velocity"] = fastvideo
        error["fastvideo"] = relative_l2(fastvideo, full)
        error["between"] = relative_l2(fastvideo, half)
    write(case, tensors, what="WanTransformer3DModel, dense attention", config=config_of(case), weights=digest,
          extra={"bf16_error": error, "timestep": TIMESTEP[case], "latents": LATENTS[case], "text": TEXT[case]})


def per_token():
    model, digest = make("d1")
    latents, timestep, text = inputs("d1")
    tokens = numpy.prod(grid_of("d1"))
    first = tokens // grid_of("d1")[0]  # tokens of latent frame 0
    equal = timestep[:, None].repeat(1, tokens)
    image = equal.clone()
    image[:, :first] = 0
    outputs = {name: model(latents, t, text, return_dict=False)[0] for name, t in (("equal", equal), ("image", image))}
    write("d4", {"in.equal": equal, "in.image": image, **{f"out.{name}": out for name, out in outputs.items()}},
          what="a timestep for each token: all equal, and zero in the first frame; weights and inputs of d1",
          config=config_of("d1"), weights=digest)


def tables():
    tensors, heads, freqs = {}, (24, 64, 128), (32, 256)
    timesteps = torch.tensor([0.0, 13.0, 522.0, 757.0, 1000.0])
    for head_dim in heads:
        side = 2 * (head_dim // 6)
        for axis, width in (("t", head_dim - 2 * side), ("h", side)):
            cos, sin = get_1d_rotary_pos_embed(width, 45, 10000.0, use_real=True, repeat_interleave_real=True,
                                               freqs_dtype=torch.float64)
            tensors[f"out.cos_{axis}_{head_dim}"] = cos[:, 0::2]
            tensors[f"out.sin_{axis}_{head_dim}"] = sin[:, 0::2]
    for freq_dim in freqs:
        tensors[f"out.wave_{freq_dim}"] = get_timestep_embedding(timesteps, freq_dim, flip_sin_to_cos=True,
                                                                 downscale_freq_shift=0)
    write("d6", {"in.timestep": timesteps, **tensors}, what="rotary tables of positions 0 to 44, timestep embeddings")


def gated(case, sparsity):
    model, digest = make(case)
    with_gates(model, case, sparsity)
    latents, timestep, text = inputs(case)
    velocity = model(latents, timestep, text, return_dict=False)[0]
    gap = min(block.attn1.processor.gap for block in model.blocks)
    assert gap > 1e-5, f"{case} at sparsity {sparsity}: two tiles at the border of the choice are {gap} apart"
    write(f"g1_{case}_{round(sparsity * 100):02d}", {"out.velocity": velocity},
          what=f"{case} with gates and VSA in fp64 at sparsity {sparsity}", config=config_of(case), weights=digest,
          extra={"sparsity": sparsity, "smallest_gap": gap if gap < 1e9 else None})


def main():
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for case in CONFIGS:
        dense(case)
    per_token()
    tables()
    for case in ("d2", "d3"):
        for sparsity in (0.0, 0.5, 0.75):
            gated(case, sparsity)


if __name__ == "__main__":
    main()
