#!/usr/bin/env python3
"""Goldens of src/diffusion: noise levels, samplers, torch's generator, guidance.

    .deps/venv/bin/python tools/golden/diffusion.py [--out tests/golden]

levels     schedules of diffusers' two flow schedulers; the table sigma nearest to each timestep 1000 ... 1
unipc_*    latents after each step by UniPCMultistepScheduler, one file for each sigma schedule
euler      the same by FlowMatchEulerDiscreteScheduler
noise      draws of torch's CPU generator, in the order of a request
guidance   classifier-free guidance and its rescaling

One class serves all three UniPC schedules: it takes the unshifted levels of the other two and shifts them itself.
The velocity of step i is 0.5 x + w_i, w_i generated from (case, "w<i>"): linear in x, so that errors carry on.
"""

import argparse

import numpy
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

import common

PRODUCER = "tools/golden/diffusion.py"
PACKAGES = ("torch", "diffusers", "numpy")
SHAPE = (1, 4, 3, 5, 6)
STEPS = (1, 2, 3, 4, 15, 50)
SHIFTS = (1, 3, 5, 8)
STRIDE = 7  # of 360 elements, 52 are stored after each step


def unshifted(schedule, steps, shift):
    """Levels before the shift; None where the class's own are meant."""
    if schedule == "diffusers":
        return None
    first = torch.tensor(1.0 - 1.0 / 1000).float()
    if schedule == "fastvideo":  # the constructor's table is shifted before its maximum is taken
        first = shift * first / (1 + (shift - 1) * first)
    return numpy.linspace(first.item(), 0, steps + 1)[:-1]


def unipc(schedule, steps, shift):
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    levels = unshifted(schedule, steps, shift)
    scheduler.set_timesteps(steps) if levels is None else scheduler.set_timesteps(sigmas=levels.copy())
    scheduler.set_begin_index(0)  # by position: rounded timesteps may repeat
    return scheduler


def euler(steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def states(scheduler, case):
    """[steps, stored]: the latents after each step."""
    x = torch.from_numpy(common.tensor(case, "x", SHAPE))
    out = []
    for i, t in enumerate(scheduler.timesteps):
        v = x * 0.5 + torch.from_numpy(common.tensor(case, f"w{i}", SHAPE))
        x = scheduler.step(v, t, x, return_dict=False)[0]
        out.append(x.reshape(-1)[::STRIDE].numpy())
    return numpy.stack(out)


def write_levels(root):
    out = {}
    for shift in (8, 5, 3):
        table = FlowMatchEulerDiscreteScheduler(shift=shift)
        nearest = [int((table.timesteps.double() - t).abs().argmin()) for t in range(1000, 0, -1)]
        out[f"few_step.s{shift}"] = table.sigmas[nearest].numpy()
    for shift in (*SHIFTS, 12):
        for steps in STEPS:
            for schedule in ("diffusers", "fastvideo", "wan"):
                scheduler = unipc(schedule, steps, shift)
                out[f"unipc.{schedule}.n{steps}.s{shift}.sigma"] = scheduler.sigmas.numpy()[:-1]
                out[f"unipc.{schedule}.n{steps}.s{shift}.timestep"] = scheduler.timesteps.numpy().astype(numpy.int64)
    for shift in (1, 5, 7):
        for steps in (1, 2, 5, 50):
            scheduler = euler(steps, shift)
            out[f"euler.n{steps}.s{shift}.sigma"] = scheduler.sigmas.numpy()[:-1]
            out[f"euler.n{steps}.s{shift}.timestep"] = scheduler.timesteps.numpy()
    common.write("diffusion", "levels", out,
                 what="name: sampler, schedule, number of steps, shift; few_step: timesteps 1000 ... 1",
                 producer=PRODUCER, packages=PACKAGES, tolerance=0,
                 tolerance_reason="the same operations in the same types", root=root)


def write_states(root):
    reason = "of the range, L2 twice that: fp32 scalars, whose cancellation magnifies one unit of expm1 by 1/h^2"
    for schedule in ("diffusers", "fastvideo", "wan"):
        case = f"unipc_{schedule}"
        out = {f"n{n}.s{s}": states(unipc(schedule, n, s), case) for n in STEPS for s in SHIFTS}
        common.write("diffusion", case, out, what="every 7th latent after each step of UniPC", producer=PRODUCER,
                     packages=PACKAGES, tolerance=1e-6, tolerance_reason=reason, config={"shape": SHAPE, "stride": STRIDE},
                     root=root)
    out = {f"n{n}.s{s}": states(euler(n, s), "euler") for n in (1, 2, 5, 50) for s in (1, 5, 7)}
    common.write("diffusion", "euler", out, what="every 7th latent after each step of FlowMatchEuler", producer=PRODUCER,
                 packages=PACKAGES, tolerance=1e-6, tolerance_reason="fp32 on both sides",
                 config={"shape": SHAPE, "stride": STRIDE}, root=root)


def write_noise(root):
    out = {}
    for seed in (1024, 7):
        for c, t, h, w in ((16, 1, 1, 1), (17, 1, 1, 1), (4, 2, 2, 4), (4, 3, 5, 6), (10, 5, 4, 5)):
            for order, shape in (("channels", (1, c, t, h, w)), ("frames", (1, t, c, h, w))):
                generator = torch.Generator("cpu").manual_seed(seed)
                draws = [torch.randn(shape, generator=generator)]
                draws += [torch.randn(shape, generator=generator, dtype=torch.bfloat16).float() for _ in range(2)]
                for i, draw in enumerate(draws):
                    canonical = draw if order == "channels" else draw.permute(0, 2, 1, 3, 4)
                    out[f"{seed}.{c}x{t}x{h}x{w}.{order}.{i}"] = canonical.contiguous().numpy()
    common.write("diffusion", "noise", out, what="fp32 start, then two bf16 draws: name is seed, CxTxHxW, order, draw",
                 producer=PRODUCER, packages=PACKAGES, tolerance=4e-6,
                 tolerance_reason="fp32: the logarithm differs between instruction sets by 2.1e-6; bf16 is exact",
                 root=root)


def write_guidance(root):
    shape = (2, 4, 3, 5, 6)
    conditional = torch.from_numpy(common.tensor("guidance", "conditional", shape))
    unconditional = torch.from_numpy(common.tensor("guidance", "unconditional", shape))
    out = {}
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        c, u = conditional.to(dtype), unconditional.to(dtype)
        v = u + 4.3 * (c - u)
        out[f"{name}.plain"] = v.float().numpy()
        out[f"{name}.rescaled"] = rescale_noise_cfg(v, c, guidance_rescale=0.7).float().numpy()
    common.write("diffusion", "guidance", out, what="guidance of scale 4.3, and rescaled by 0.7", producer=PRODUCER,
                 packages=PACKAGES, tolerance={"plain": 0, "fp32.rescaled": 1e-6, "bf16.rescaled": 2**-6},
                 tolerance_reason="plain is three rounded operations; the order of the sum inside std is free, and in "
                                  "bf16 one unit of its result moves the next roundings", root=root)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default=None, help="a folder other than tests/golden")
    root = parser.parse_args().out
    torch.set_num_threads(1)
    write_levels(root)
    write_states(root)
    write_noise(root)
    write_guidance(root)


if __name__ == "__main__":
    main()
