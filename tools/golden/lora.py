#!/usr/bin/env python3
"""Goldens of LoRA merging: keys as diffusers' own conversion functions read them, weights merged in fp64.

    .deps/venv/bin/python tools/golden/lora.py

The model is that of d1 (tools/golden/wan_dit.py). Matrices are generated: common.tensor("l1", "<diffusers module>.<part>").
"""

import numpy
import torch
from diffusers.loaders.lora_conversion_utils import (_convert_musubi_wan_lora_to_diffusers,
                                                     _convert_non_diffusers_wan_lora_to_diffusers)

import common
import wan_dit

PRODUCER = "tools/golden/lora.py"
CASE = "l1"
RANK, ALPHA, STRENGTH = 4, 2.0, 0.5
# Layers outside the blocks have no alpha and no musubi form in diffusers' functions.
TOP = {"time_projection.1": "condition_embedder.time_proj", "head.head": "proj_out",
       "text_embedding.0": "condition_embedder.text_embedder.linear_1",
       "text_embedding.2": "condition_embedder.text_embedder.linear_2"}
IN_BLOCK = {f"{own}.{letter}": f"{theirs}.{layer}" for own, theirs in (("self_attn", "attn1"), ("cross_attn", "attn2"))
            for letter, layer in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0"))}
IN_BLOCK |= {"ffn.0": "ffn.net.0.proj", "ffn.2": "ffn.net.2"}
KEPT = ("blocks.0.", "proj_out.")  # merged tensors that the golden stores


def modules(num_layers):
    """original name -> diffusers name"""
    blocks = {f"blocks.{i}.{original}": f"blocks.{i}.{theirs}" for i in range(num_layers)
              for original, theirs in IN_BLOCK.items()}
    return blocks | TOP


def parts(module, shape):
    part = lambda name, sizes: torch.from_numpy(common.tensor(CASE, f"{module}.{name}", sizes))
    return part("down", (RANK, shape[1])), part("up", (shape[0], RANK)), part("diff_b", (shape[0],))


def main():
    model, digest = wan_dit.make("d1")
    weights = dict(model.named_parameters())
    names = modules(len(model.blocks))
    original, musubi, listed = {}, {}, []
    for own, theirs in names.items():
        shape = tuple(weights[f"{theirs}.weight"].shape)
        down, up, diff_b = parts(theirs, shape)
        in_block = own.startswith("blocks.")
        original |= {f"diffusion_model.{own}.lora_down.weight": down, f"diffusion_model.{own}.lora_up.weight": up}
        if own not in ("text_embedding.0", "text_embedding.2"):
            original[f"diffusion_model.{own}.diff_b"] = diff_b
        if in_block:
            original[f"diffusion_model.{own}.alpha"] = torch.tensor(ALPHA)
            flat = "lora_unet_" + own.replace(".", "_")
            musubi |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": torch.tensor(ALPHA)}
        listed.append({"original": own, "diffusers": theirs, "shape": shape, "has_alpha": in_block,
                       "has_bias": f"diffusion_model.{own}.diff_b" in original})

    # The functions scale some matrices in place.
    copied = lambda tensors: {key: value.clone() for key, value in tensors.items()}
    peft = _convert_non_diffusers_wan_lora_to_diffusers(copied(original))
    from_musubi = _convert_musubi_wan_lora_to_diffusers(copied(musubi))
    for key, value in from_musubi.items():
        assert torch.equal(value, peft[key]), key

    wide = lambda tensor: tensor.detach().double().numpy()
    tensors = {}
    for theirs in names.values():
        if not theirs.startswith(KEPT) and f"{theirs}." not in KEPT:
            continue
        key = f"transformer.{theirs}.lora_"
        product = wide(peft[f"{key}B.weight"]) @ wide(peft[f"{key}A.weight"])
        merged = wide(weights[f"{theirs}.weight"]) + STRENGTH * product
        tensors[f"out.{theirs}.weight"] = merged.astype(numpy.float32)
        if f"{key}B.bias" in peft:
            merged = wide(weights[f"{theirs}.bias"]) + STRENGTH * wide(peft[f"{key}B.bias"])
            tensors[f"out.{theirs}.bias"] = merged.astype(numpy.float32)
    common.write("models", CASE, tensors, what="weights of d1 merged with a LoRA", producer=PRODUCER,
                 packages=("torch", "diffusers"), weights=digest, config=wan_dit.config_of("d1"),
                 tolerance={"of_range": 2e-7, "relative_l2": 1e-7},
                 tolerance_reason="a sum of 5 products in fp32, rounded once: 2 units in the last place of the largest value",
                 extra={"rank": RANK, "alpha": ALPHA, "strength": STRENGTH, "modules": listed,
                        "merged": [name.removeprefix("out.") for name in tensors]})


if __name__ == "__main__":
    main()
