#!/usr/bin/env python3
"""Goldens of one optimisation step: diffusers' WanTransformer3DModel, torch's autograd and AdamW.

    .deps/venv/bin/python tools/golden/training.py

train_finetune   flow matching: logit-normal density, shift 3, caption dropout; dense
train_generator  the student's update of a distillation: simulate mode, Video Sparse Attention with gates, guidance 3.5
train_critic     the critic's update: data mode, the same student

Noise, timesteps and the choice of steps come from the seed as src/base/rng.h says, so the test starts from the seed too.
The gradient is clipped to norm 1, then AdamW makes its first step. Its eps is large: the first step of Adam is g / (|g| + eps),
and with a small eps the sign of what is nothing but rounding would decide.

Everything is computed in fp64 (diffusers' own float() casts included) and, for the tolerance, a second time in fp32.
"""

import contextlib

import numpy
import torch
from diffusers import WanTransformer3DModel

import common
import vsa_reference

PRODUCER = "tools/golden/training.py"
CONFIG = {"patch_size": [1, 2, 2], "num_attention_heads": 2, "attention_head_dim": 24, "in_channels": 4, "out_channels": 4,
          "text_dim": 16, "freq_dim": 32, "ffn_dim": 64, "num_layers": 2, "cross_attn_norm": True,
          "qk_norm": "rms_norm_across_heads", "eps": 1e-6, "rope_max_seq_len": 32}
LATENTS = (3, 4, 5, 12, 14)  # 5 x 6 x 7 tokens: 8 tiles, most of them ragged
GRID = (5, 6, 7)
TEXT = (3, 6, 16)
SLOTS = (4, 5, 6)
SEED, STEP = 1234, 10
SPARSITY = 0.5
TIMESTEPS = (1000.0, 757.0, 522.0)
GUIDANCE, SHIFT = 3.5, 5.0
LOGIT_MEAN, LOGIT_STD, FLOW_SHIFT, DROPOUT = 0.2, 1.3, 3.0, 0.5
ADAMW = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-4, "weight_decay": 0.1}
STREAM = {"cfg_drop": 2, "flow_timestep": 3, "flow_noise": 4,
          "student": {"rollout": 5, "start": 6, "renoise": 7, "timestep": 8, "noise": 9},
          "fake": {"rollout": 10, "start": 11, "renoise": 12, "timestep": 13, "noise": 14}}


# --- random numbers of src/base/rng.h

def words(stream, slot, groups, draw=0):
    full = lambda value: numpy.full(groups, value, numpy.uint64)
    counter = [numpy.arange(groups, dtype=numpy.uint64), full(slot), full(STEP), full(stream | draw << 16)]
    return common.philox(counter, (SEED & 0xFFFFFFFF, SEED >> 32))


def uniform(stream, slot, element=0):
    return float((words(stream, slot, 1)[element][0] >> numpy.uint64(8)) + 0.5) * 2.0**-24


def normal(stream, shape, draw=0):
    """[B, ...] fp32: a row for each slot."""
    rows, count = [], int(numpy.prod(shape[1:]))
    for slot in SLOTS[:shape[0]]:
        u = [((w >> numpy.uint64(8)).astype(numpy.float64) + 0.5) * 2.0**-24 for w in words(stream, slot, -(-count // 4), draw)]
        rho, theta = [numpy.sqrt(-2 * numpy.log(u[i])) for i in (0, 2)], [2 * numpy.pi * u[i] for i in (1, 3)]
        four = [rho[0] * numpy.cos(theta[0]), rho[0] * numpy.sin(theta[0]), rho[1] * numpy.cos(theta[1]), rho[1] * numpy.sin(theta[1])]
        rows.append(numpy.stack(four, 1).reshape(-1)[:count])
    return torch.from_numpy(numpy.stack(rows).astype(numpy.float32).reshape(shape))


def shifted(base, shift):
    return shift * base / (1 + (shift - 1) * base)


# --- networks

@contextlib.contextmanager
def float_is_double():
    """diffusers computes norms and modulation after x.float(); in the fp64 run that must not round."""
    to_float, make = torch.Tensor.float, torch.arange
    torch.Tensor.float = torch.Tensor.double
    torch.arange = lambda *args, **kwargs: make(*args, **{**kwargs, **({"dtype": torch.float64} if kwargs.get("dtype") is torch.float32 else {})})
    try:
        yield
    finally:
        torch.Tensor.float, torch.arange = to_float, make


class Net:
    """A transformer with generated weights, with gates and sparse attention if wanted."""

    def __init__(self, case, dtype, sparse=False):
        model = WanTransformer3DModel(**CONFIG)
        self.arrays = {name: common.weight(case, name, tuple(p.shape)) for name, p in model.named_parameters()}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(torch.from_numpy(self.arrays[name]))
        self.model = model.to(dtype)
        self.parameters = dict(self.model.named_parameters())
        width = CONFIG["num_attention_heads"] * CONFIG["attention_head_dim"]
        self.processors = []
        for i, block in enumerate(self.model.blocks if sparse else []):
            gate = {}
            for kind, shape in (("weight", (width, width)), ("bias", (width,))):
                name = f"blocks.{i}.to_gate_compress.{kind}"
                self.arrays[name] = common.weight(case, name, shape)
                gate[kind] = self.parameters[name] = torch.nn.Parameter(torch.from_numpy(self.arrays[name]).to(dtype))
            self.processors.append(vsa_reference.GatedSparseAttention(gate["weight"], gate["bias"], GRID, SPARSITY))
            block.attn1.set_processor(self.processors[-1])

    def __call__(self, x, sigma, text):
        timestep = (1000 * sigma).to(x.dtype)
        return self.model(x, timestep, text, return_dict=False)[0]

    def x0(self, x, sigma, text):
        return x - wide(sigma, x) * self(x, sigma, text)

    def flat(self, value):
        return torch.cat([value(self.parameters[name]).detach().double().reshape(-1) for name in sorted(self.parameters)])


def wide(sigma, x):
    return sigma.to(x.dtype).view(-1, *[1] * (x.dim() - 1))


def noised(x0, noise, sigma):
    return (1 - wide(sigma, x0)) * x0 + wide(sigma, x0) * noise.to(x0.dtype)


def step_of(net, loss_or_grad):
    """Backward, clipping, AdamW: what the test compares."""
    before = net.flat(lambda p: p)
    loss = loss_or_grad()
    gradient = net.flat(lambda p: p.grad)
    parameters = [net.parameters[name] for name in sorted(net.parameters)]
    norms = {name: float(net.parameters[name].grad.double().norm()) for name in sorted(net.parameters)}
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
    torch.optim.AdamW(parameters, **ADAMW).step()
    return {"loss": float(loss), "norm": norm, "norms": norms, "gradient": gradient, "change": net.flat(lambda p: p) - before}


def inputs(case, dtype):
    x0 = torch.from_numpy(common.tensor(case, "latents", LATENTS)).to(dtype)
    text = torch.from_numpy(common.tensor(case, "text", TEXT)).to(dtype)
    text[:, 4:] = 0  # rows behind the prompt
    none = torch.zeros(TEXT[1:], dtype=dtype)
    none[:3] = torch.from_numpy(common.tensor(case, "unconditional", (3, TEXT[2]))).to(dtype)
    return x0, text, none


# --- the three updates

def finetune(dtype):
    case = "train_finetune"
    net = Net(case, dtype)
    x0, text, none = inputs(case, dtype)
    sigma = []
    for row, slot in enumerate(SLOTS):
        u = [uniform(STREAM["flow_timestep"], slot, i) for i in (0, 1)]
        z = numpy.sqrt(-2 * numpy.log(u[0])) * numpy.cos(2 * numpy.pi * u[1])
        sigma.append(shifted(1 - 1 / (1 + numpy.exp(-(LOGIT_MEAN + LOGIT_STD * z))), FLOW_SHIFT))
        if uniform(STREAM["cfg_drop"], slot) < DROPOUT:
            text[row] = none
    sigma, noise = torch.tensor(sigma, dtype=torch.float64), normal(STREAM["flow_noise"], LATENTS).to(dtype)

    def run():
        loss = ((net(noised(x0, noise, sigma), sigma, text) - (noise - x0))**2).mean()
        loss.backward()
        return loss

    return step_of(net, run) | {"sigma": sigma.tolist()}, [net]


def start_steps(streams):
    return [int(uniform(streams["rollout"], slot) * len(TIMESTEPS)) for slot in SLOTS]


def score_sigma(streams):
    t = [1000 * shifted(int(1000 * uniform(streams["timestep"], slot)) / 1000, SHIFT) for slot in SLOTS]
    return torch.tensor([min(max(x, 20.0), 980.0) / 1000 for x in t], dtype=torch.float64)


def level(steps):
    return torch.tensor([TIMESTEPS[k] / 1000 for k in steps], dtype=torch.float64)


def networks(case, dtype):
    return Net(f"{case}/student", dtype, sparse=True), Net(f"{case}/critic", dtype), Net(f"{case}/teacher", dtype)


def generator(dtype):
    case, streams = "train_generator", STREAM["student"]
    student, critic, teacher = networks(case, dtype)
    _, text, none = inputs(case, dtype)
    steps = start_steps(streams)
    z = normal(streams["start"], LATENTS).to(dtype)
    with torch.no_grad():
        for i in range(max(steps)):
            x0 = student.x0(z, level([i] * len(steps)), text)
            again = noised(x0, normal(streams["renoise"], LATENTS, draw=i + 1), level([i + 1] * len(steps)))
            z = torch.where(wide(torch.tensor(steps), z) > i, again, z)
    sigma = score_sigma(streams)

    def run():
        sample = student.x0(z, level(steps), text)
        with torch.no_grad():
            noisy = noised(sample, normal(streams["noise"], LATENTS), sigma)
            x_fake = critic.x0(noisy, sigma, text)
            x_c, x_u = teacher.x0(noisy, sigma, text), teacher.x0(noisy, sigma, none.expand(TEXT))
            x_real = x_c + (GUIDANCE - 1) * (x_c - x_u)
            g = (x_fake - x_real) / (sample - x_real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
        loss = 0.5 * torch.nn.functional.mse_loss(sample, (sample - g).detach())
        loss.backward()
        return loss

    result = step_of(student, run)
    assert all(p.grad is None for net in (critic, teacher) for p in net.parameters.values())
    return result | {"steps": steps, "sigma": sigma.tolist()}, [student, critic, teacher]


def critic(dtype):
    case, streams = "train_critic", STREAM["fake"]
    student, fake, teacher = networks(case, dtype)
    x0, text, _ = inputs(case, dtype)
    steps = start_steps(streams)
    with torch.no_grad():
        sample = student.x0(noised(x0, normal(streams["start"], LATENTS), level(steps)), level(steps), text)
    sigma, noise = score_sigma(streams), normal(streams["noise"], LATENTS).to(dtype)

    def run():
        loss = ((fake(noised(sample, noise, sigma), sigma, text) - (noise - sample))**2).mean()
        loss.backward()
        return loss

    return step_of(fake, run) | {"steps": steps, "sigma": sigma.tolist()}, [student, fake, teacher]


def write(case, update, what):
    with float_is_double():
        exact, nets = update(torch.float64)
    rounded, _ = update(torch.float32)
    relative = lambda key: float((rounded[key] - exact[key]).norm() / exact[key].norm())
    gaps = [p.gap for net in nets for p in net.processors]
    assert all(gap > 1e-4 for gap in gaps), f"{case}: two tiles at the border of the choice are {min(gaps)} apart"
    extra = {key: exact[key] for key in ("loss", "norm", "norms", "sigma", "steps") if key in exact}
    extra |= {"latents": LATENTS, "text": TEXT, "slots": SLOTS, "seed_of_run": SEED, "step": STEP, "smallest_gap": min(gaps, default=None),
              "fp32_error": {"loss": abs(rounded["loss"] / exact["loss"] - 1), "gradient": relative("gradient"), "change": relative("change")}}
    print(case, extra["loss"], extra["norm"], extra["fp32_error"], extra.get("steps"), extra["sigma"], min(gaps, default=None))
    common.write("training", case, {}, what=what, producer=PRODUCER, packages=("torch", "diffusers"), config=CONFIG,
                 tolerance={"times_fp32_error": 2, "floor": 1e-6},
                 tolerance_reason="twice the error of the same step in the oracle's own fp32, at least 1e-6 relative",
                 weights=common.weights_digest({f"{i}/{name}": array for i, net in enumerate(nets) for name, array in net.arrays.items()}),
                 sampled={key: exact[key].numpy() for key in ("gradient", "change")}, extra=extra)


def main():
    torch.set_num_threads(1)
    write("train_finetune", finetune, "one step of flow-matching finetuning")
    write("train_generator", generator, "the student's step of a distillation, simulate mode, sparse student")
    write("train_critic", critic, "the critic's step of a distillation, data mode, sparse student")


if __name__ == "__main__":
    main()
