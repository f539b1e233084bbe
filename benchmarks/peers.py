#!/usr/bin/env python3
"""The peers' side of the benchmarks: diffusers on torch, float32 but where a case names another type. The same protocol as fastwan-bench --serve."""
import argparse
import json
import pathlib
import sys
import time


def peak_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def dit_block():
    import torch
    from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed, WanTransformerBlock
    torch.manual_seed(0)
    block = WanTransformerBlock(1536, 8960, 12, "rms_norm_across_heads", True, 1e-6, None).eval()
    x = torch.randn(1, 4096, 1536)
    text = torch.randn(1, 512, 1536)
    modulation = torch.randn(1, 6, 1536)
    rope = WanRotaryPosEmbed(128, (1, 2, 2), 1024)(torch.empty(1, 16, 4, 64, 64))  # 4 x 32 x 32 tokens
    return lambda: block(x, text, modulation, rope)


def vae_decode():
    import torch
    from diffusers import AutoencoderKLWan
    torch.manual_seed(0)
    vae = AutoencoderKLWan().eval()
    vae.encoder = vae.quant_conv = None  # as ours: nothing that decoding does not use
    latents = torch.randn(1, 16, 3, 16, 28)
    return lambda: vae.decode(latents)


def dense_attention(dtype="float32"):
    """The peer of every case of video sparse attention: torch's own attention over all tokens."""
    import torch
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 8 * 28 * 52, 12, 128).to(getattr(torch, dtype)).transpose(1, 2) for _ in "qkv")
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v)


def training(name):
    import torch
    import training_peers
    torch.manual_seed(0)
    return training_peers.CASES[name]()


TRAINING_CASES = ["finetune_step", "finetune_step_recompute", "finetune_step_dense", "distill_step", "distill_step_recompute",
                  "distill_step_dense"]
CASES = {"dit_block": dit_block, "vae_decode": vae_decode, "vsa_kernel": dense_attention,
         "vsa_kernel_bf16": lambda: dense_attention("bfloat16"), "vsa_op": dense_attention,
         "vsa_op_all_tiles": dense_attention}


def serve(name):
    import torch
    with torch.inference_mode(name not in TRAINING_CASES):
        run = training(name) if name in TRAINING_CASES else CASES[name]()
        print("ready", flush=True)
        for _ in sys.stdin:
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            print(time.perf_counter() - start, time.process_time() - cpu_start, peak_bytes(), flush=True)


def pipeline(model, prompt, output):
    """The same video from the same folder as a diffusers user would write it: few-step loop over its components."""
    import torch
    from diffusers import AutoencoderKLWan, WanTransformer3DModel
    from diffusers.utils import export_to_video
    from tokenizers import Tokenizer
    from transformers import UMT5EncoderModel
    folder = pathlib.Path(model)
    preset = json.loads((folder / "fastwan.json").read_text())
    with torch.inference_mode():
        ids = torch.tensor([Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json")).encode(prompt).ids])
        encoder = UMT5EncoderModel.from_pretrained(folder / "text_encoder").eval()
        text = encoder(ids).last_hidden_state
        text = torch.nn.functional.pad(text, (0, 0, 0, 512 - text.shape[1]))
        transformer = WanTransformer3DModel.from_pretrained(folder / "transformer").eval()
        vae = AutoencoderKLWan.from_pretrained(folder / "vae").eval()
        scale = vae.config.scale_factor_spatial
        shape = (1, vae.config.z_dim, (preset["num_frames"] - 1) // 4 + 1, preset["height"] // scale, preset["width"] // scale)
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(shape, generator=generator)
        sigmas = [8 * s / (1 + 7 * s) for s in (i / 1000 for i in range(1000, 0, -1))]
        steps = preset.get("dmd_denoising_steps", [1000, 757, 522])
        for index, step in enumerate(steps):
            sigma = min(sigmas, key=lambda s: abs(1000 * s - step))
            x0 = x - sigma * transformer(x, torch.tensor([step]), text).sample
            if index + 1 < len(steps):
                sigma = min(sigmas, key=lambda s: abs(1000 * s - steps[index + 1]))
                x = (1 - sigma) * x0 + sigma * torch.randn(shape, generator=generator)
        mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1)
        std = torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1)
        frames = vae.decode(x0 * std + mean).sample
        frames = (frames[0].permute(1, 2, 3, 0) / 2 + 0.5).clamp(0, 1).numpy()
    export_to_video(list(frames), output, fps=preset["fps"])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=sorted([*CASES, *TRAINING_CASES]))
    parser.add_argument("--pipeline", nargs=3, metavar=("MODEL", "PROMPT", "OUTPUT"))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    import torch
    torch.set_num_threads(options.threads)
    if options.serve:
        serve(options.serve)
    elif options.pipeline:
        pipeline(*options.pipeline)
    else:
        parser.error("--serve CASE or --pipeline MODEL PROMPT OUTPUT")


if __name__ == "__main__":
    main()
