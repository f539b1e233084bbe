#!/usr/bin/env python3
"""Does fastwan give what diffusers and transformers give, on any checkpoint folder?

    .deps/venv/bin/python tools/parity.py --model DIR [--image FILE] [--precision bf16] [--json]

Both run on the same prompt and noise; each stage of fastwan starts from the other side's input, so
that errors do not add up; a last run goes all the way from the prompt. Components are loaded by
folder. What diffusers has no class for is done here: the few-step loop, and Video Sparse Attention,
in fp64 from its formulas, where the weights hold gates.

Exit status: 0 within the limits, 1 beyond them (in fp32; bf16 has no limits, the figures count).
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools" / "golden"))

import torch  # noqa: E402
import vsa_reference  # noqa: E402
from diffusers import (AutoencoderKLWan, FlowMatchEulerDiscreteScheduler,  # noqa: E402
                       UniPCMultistepScheduler, WanImageToVideoPipeline, WanPipeline,
                       WanTransformer3DModel)
from diffusers.pipelines.wan.pipeline_wan import prompt_clean  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors import safe_open  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402
from transformers import UMT5EncoderModel  # noqa: E402

LIMITS = {"text": 2e-5, "latents": 1e-4, "frames": 1e-3}  # of the range
FEW_STEP_SHIFT = 8.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def read_json(path):
    return json.loads(path.read_text())


class Folder:
    """What a model folder says of itself."""

    def __init__(self, path):
        self.path = path
        self.index = read_json(path / "model_index.json")
        self.scheduler = read_json(path / "scheduler" / "scheduler_config.json")
        self.vae = read_json(path / "vae" / "config.json")
        self.is_few_step = self.index["_class_name"] == "WanDMDPipeline"
        self.is_unipc = bool(self.scheduler.get("use_flow_sigmas"))
        self.has_two = self.index.get("transformer_2", [None])[0] is not None
        self.expands = bool(self.index.get("expand_timesteps"))
        self.spatial = self.vae.get("scale_factor_spatial", 8)
        self.temporal = self.vae.get("scale_factor_temporal", 4)
        self.z_dim = self.vae.get("z_dim", 16)

    def shift(self):
        if self.is_few_step:
            return FEW_STEP_SHIFT
        return float(self.scheduler.get("flow_shift" if self.is_unipc else "shift", 1.0))

    def gates(self, name):
        """Tensors of to_gate_compress by name; empty without."""
        found = {}
        for file in sorted((self.path / name).glob("*.safetensors")):
            with safe_open(file, "pt") as weights:
                found |= {key: weights.get_tensor(key) for key in weights.keys()
                          if "to_gate_compress" in key}
        return found


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--binary", type=pathlib.Path, default=ROOT / "build/release/bin/fastwan")
    parser.add_argument("--prompt", default="A small red circle moves slowly to the upper left.")
    parser.add_argument("--negative-prompt", default="static, blurred details")
    parser.add_argument("--width", type=int, help="default: ten tokens")
    parser.add_argument("--height", type=int, help="default: six tokens")
    parser.add_argument("--num-frames", type=int, default=9)
    parser.add_argument("--steps", type=int, default=4, help="not for few-step models")
    parser.add_argument("--dmd-denoising-steps", default="1000,757,522")
    parser.add_argument("--guidance-scale", type=float, default=5.0)
    parser.add_argument("--guidance-scale-2", type=float, default=3.0)
    parser.add_argument("--flow-shift", type=float, help="default: the model's")
    parser.add_argument("--VSA-sparsity", dest="sparsity", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=1024)
    parser.add_argument("--image", type=pathlib.Path, help="first frame, for TI2V models")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(argv)


# --- the other side ------------------------------------------------------------------------------

class Reference:
    def __init__(self, folder, args, scratch):
        self.folder, self.args = folder, args
        self.dtype = DTYPES[args.precision]
        self.shift = args.flow_shift or folder.shift()
        self.width = args.width or 20 * folder.spatial
        self.height = args.height or 12 * folder.spatial
        self.gap = float("inf")
        self.image = None
        if args.image:  # at its final size: how images are resized is not the question here
            self.image = scratch / "image.png"
            whole = Image.open(args.image).convert("RGB")
            whole.resize((self.width, self.height), Image.Resampling.LANCZOS).save(self.image)

    def load(self, cls, name):
        model = cls.from_pretrained(self.folder.path / name, torch_dtype=self.dtype)
        return model.eval().to(self.args.device)

    def grid(self):
        return ((self.args.num_frames - 1) // self.folder.temporal + 1,
                self.height // self.folder.spatial // 2, self.width // self.folder.spatial // 2)

    def transformer(self, name="transformer"):
        model = self.load(WanTransformer3DModel, name)
        gates = self.folder.gates(name)
        for index, block in enumerate(model.blocks):
            key = f"blocks.{index}.to_gate_compress"
            if f"{key}.weight" in gates:
                weight, bias = (gates[f"{key}.{part}"].to(self.args.device, self.dtype)
                                for part in ("weight", "bias"))
                block.attn1.set_processor(vsa_reference.GatedSparseAttention(
                    weight, bias, self.grid(), self.args.sparsity))
        return model

    def text(self):
        tokenizer = Tokenizer.from_file(str(self.folder.path / "tokenizer" / "tokenizer.json"))
        config = read_json(self.folder.path / "tokenizer" / "tokenizer_config.json")
        length = config.get("model_max_length", 512)
        length = length if 0 < length <= 1 << 16 else 512
        tokenizer.enable_truncation(length)
        tokenizer.no_padding()
        encoder = self.load(UMT5EncoderModel, "text_encoder")
        out = {}
        for name, prompt in (("prompt_embeds", self.args.prompt),
                             ("negative_prompt_embeds", self.args.negative_prompt)):
            clean = prompt.strip() if self.folder.is_few_step else prompt_clean(prompt)
            ids = tokenizer.encode(clean).ids
            padded, mask = torch.zeros(2, 1, length, dtype=torch.long, device=self.args.device)
            padded[0, :len(ids)] = torch.tensor(ids)
            mask[0, :len(ids)] = 1
            rows = encoder(input_ids=padded, attention_mask=mask).last_hidden_state
            out[name] = (rows * mask[..., None]).float().cpu()
        return out

    def noise(self):
        """As diffusers draws, or as FastVideo's few-step loop does: frame by frame."""
        frames, height, width = self.grid()
        generator = torch.Generator("cpu").manual_seed(self.args.seed)
        shape = [1, self.folder.z_dim, frames, 2 * height, 2 * width]
        if not self.folder.is_few_step:
            return {"latents": torch.randn(shape, generator=generator)}
        shape[1], shape[2] = shape[2], shape[1]
        draws = {"latents": torch.randn(shape, generator=generator)}
        for i in range(1, len(self.few_steps())):
            draws[f"renoise_{i}"] = torch.randn(shape, generator=generator,
                                                dtype=self.dtype).float()
        return {name: draw.transpose(1, 2).contiguous() for name, draw in draws.items()}

    def few_steps(self):
        return [int(t) for t in self.args.dmd_denoising_steps.split(",")]

    def latents(self, text, noise):
        if self.folder.is_few_step:
            return self.few_step(text, noise)
        scheduler = self.scheduler()
        cls = WanImageToVideoPipeline if self.image else WanPipeline
        experts = {}
        if self.folder.has_two:
            experts = {"transformer_2": self.transformer("transformer_2"),
                       "boundary_ratio": self.folder.index["boundary_ratio"]}
        pipe = cls(tokenizer=None, text_encoder=None, vae=self.load(AutoencoderKLWan, "vae"),
                   scheduler=scheduler, transformer=self.transformer(),
                   expand_timesteps=self.folder.expands, **experts)
        pipe.set_progress_bar_config(disable=True)
        more = {"image": Image.open(self.image)} if self.image else {}
        if self.folder.has_two:
            more["guidance_scale_2"] = self.args.guidance_scale_2
        out = pipe(**{name: rows.to(self.args.device) for name, rows in text.items()},
                   height=self.height, width=self.width, num_frames=self.args.num_frames,
                   num_inference_steps=self.args.steps, guidance_scale=self.args.guidance_scale,
                   latents=noise["latents"].to(self.args.device), output_type="latent", **more)
        for model in [pipe.transformer, pipe.transformer_2][:1 + self.folder.has_two]:
            self.note_gap(model)
        return out.frames.float().cpu()

    def scheduler(self):
        if self.folder.is_unipc:
            return UniPCMultistepScheduler.from_config(self.folder.scheduler, flow_shift=self.shift)
        return FlowMatchEulerDiscreteScheduler.from_config(self.folder.scheduler, shift=self.shift)

    def few_step(self, text, noise):
        """FastVideo's loop; a first frame stays and its tokens are at timestep 0."""
        model, device = self.transformer(), self.args.device
        table = FlowMatchEulerDiscreteScheduler(shift=self.shift)
        rows = text["prompt_embeds"].to(device, self.dtype)
        frame = self.first_frame() if self.image else None
        frames, height, width = self.grid()

        def imposed(x):
            return x if frame is None else torch.cat([frame.to(x.dtype), x[:, :, 1:]], 2)

        x = imposed(noise["latents"].to(device))
        for i, t in enumerate(self.few_steps()):
            sigma = table.sigmas[(table.timesteps.double() - t).abs().argmin()]
            if i > 0:
                fresh = noise[f"renoise_{i}"].to(device)
                x = imposed(((1 - sigma) * x0.float() + sigma * fresh).to(self.dtype))
            time = torch.tensor([float(t)], device=device)
            if frame is not None:
                time = time.expand(1, frames * height * width).clone()
                time[:, :height * width] = 0
            v = model(x.to(self.dtype), time, rows, return_dict=False)[0]
            x0 = imposed((x.double() - sigma.double() * v.double()).to(self.dtype))
        self.note_gap(model)
        return x0.float().cpu()

    def first_frame(self):
        vae = self.load(AutoencoderKLWan, "vae")
        pixels = torch.frombuffer(bytearray(Image.open(self.image).tobytes()), dtype=torch.uint8)
        pixels = pixels.view(1, 1, self.height, self.width, 3).permute(0, 4, 1, 2, 3)
        pixels = (pixels.float() / 127.5 - 1).to(self.args.device, self.dtype)
        mean, std = self.statistics(vae)
        return (vae.encode(pixels).latent_dist.mode().float() - mean) / std

    def statistics(self, vae):
        return [torch.tensor(values, device=self.args.device).view(1, -1, 1, 1, 1)
                for values in (vae.config.latents_mean, vae.config.latents_std)]

    def frames(self, latents):
        vae = self.load(AutoencoderKLWan, "vae")
        mean, std = self.statistics(vae)
        scaled = (latents.to(self.args.device) * std + mean).to(self.dtype)
        video = vae.decode(scaled, return_dict=False)[0]  # [1, 3, F, H, W]
        return (video.float() / 2 + 0.5).clamp(0, 1)[0].transpose(0, 1).cpu().contiguous()

    def note_gap(self, model):
        for block in model.blocks:
            self.gap = min(self.gap, getattr(block.attn1.processor, "gap", self.gap))


# --- fastwan -------------------------------------------------------------------------------------

def settings(reference):
    args, folder = reference.args, reference.folder
    out = ["--width", reference.width, "--height", reference.height,
           "--num-frames", args.num_frames, "--flow-shift", reference.shift, "--seed", args.seed,
           "--rng", "torch", "--threads", args.threads, "--device", args.device]
    for part in ("dit", "vae", "text-encoder"):
        out += [f"--{part}-precision", args.precision]
    if folder.is_few_step:
        out += ["--dmd-denoising-steps", args.dmd_denoising_steps]
    else:
        out += ["--sampler", "unipc" if folder.is_unipc else "euler", "--compat", "diffusers",
                "--steps", args.steps, "--guidance-scale", args.guidance_scale,
                "--negative-prompt", args.negative_prompt]
    if folder.has_two:
        out += ["--guidance-scale-2", args.guidance_scale_2]
    if folder.gates("transformer"):
        out += ["--VSA-sparsity", args.sparsity]
    if reference.image:
        out += ["--image", reference.image]
    return out


def fastwan(reference, *flags):
    command = [reference.args.binary, "generate", "-m", reference.folder.path,
               "--prompt", reference.args.prompt, "--overwrite", *settings(reference), *flags]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        line = " ".join(map(str, command))
        sys.exit(f"{line}\nleft with {done.returncode}: {done.stderr[-2000:]}")


def compare(stage, start, got, want):
    got, want = got.double(), want.double()
    if got.shape != want.shape:
        sys.exit(f"{stage}: fastwan gave {list(got.shape)}, wanted {list(want.shape)}")
    span = float(want.max() - want.min())
    worst = float((got - want).abs().max())
    share = worst / span if span else worst
    return {"stage": stage, "from": start, "elements": want.numel(), "max_error": worst,
            "of_range": share, "relative_l2": float((got - want).norm() / want.norm()),
            "limit": LIMITS[stage], "within": share <= LIMITS[stage]}


def measure(reference, scratch):
    text, noise = reference.text(), reference.noise()
    latents = reference.latents(text, noise)
    frames = reference.frames(latents)
    files = {name: scratch / f"{name}.safetensors" for name in
             ("text", "noise", "latents", "embeds_out", "latents_out", "frames_out")}
    save_file(text, files["text"])
    save_file(noise, files["noise"])
    save_file({"latents": latents.contiguous()}, files["latents"])

    def frames_out():
        return load_file(files["frames_out"])["frames"]

    output = ("-o", files["frames_out"], "--save-latents", files["latents_out"])
    fastwan(reference, *output, "--prompt-embeds", files["text"], "--noise", files["noise"])
    alone = [compare("latents", "the same text and noise",
                     load_file(files["latents_out"])["latents"], latents)]
    fastwan(reference, "-o", files["frames_out"], "--load-latents", files["latents"])
    alone.append(compare("frames", "the same latents", frames_out(), frames))
    fastwan(reference, *output, "--save-embeds", files["embeds_out"])
    rows = []
    for name, values in load_file(files["embeds_out"]).items():
        wanted = text[name][:, :values.shape[1]]
        start = "the prompt" if name == "prompt_embeds" else "the negative prompt"
        rows.append(compare("text", start, values, wanted))
    return rows + alone + [
        compare("latents", "the prompt and the seed", load_file(files["latents_out"])["latents"],
                latents),
        compare("frames", "the prompt and the seed", frames_out(), frames)]


def show(report):
    print(f"{report['model']}: {report['width']}x{report['height']}, "
          f"{report['num_frames']} frames, {report['precision']}")
    print(f"{'stage':8} {'from':26} {'elements':>10} {'max error':>10} {'of range':>9} "
          f"{'relative L2':>11} {'limit':>7}")
    for row in report["rows"]:
        verdict = "" if report["precision"] != "fp32" or row["within"] else "  BEYOND"
        print(f"{row['stage']:8} {row['from']:26} {row['elements']:10} {row['max_error']:10.2e} "
              f"{row['of_range']:9.2e} {row['relative_l2']:11.2e} {row['limit']:7.0e}{verdict}")
    if report["smallest_gap"] is not None:
        print(f"smallest gap between a chosen tile and the next: {report['smallest_gap']:.1e} "
              "(below 1e-5 the choice may differ)")


def main(argv=None):
    args = parse(argv)
    torch.set_num_threads(args.threads)
    folder = Folder(args.model)
    with torch.no_grad(), tempfile.TemporaryDirectory() as scratch:
        reference = Reference(folder, args, pathlib.Path(scratch))
        rows = measure(reference, pathlib.Path(scratch))
    gap = None if reference.gap == float("inf") else reference.gap
    report = {"model": str(args.model), "precision": args.precision, "device": args.device,
              "width": reference.width, "height": reference.height, "num_frames": args.num_frames,
              "smallest_gap": gap, "rows": rows}
    print(json.dumps(report, indent=1)) if args.json else show(report)
    return 0 if args.precision != "fp32" or all(row["within"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
