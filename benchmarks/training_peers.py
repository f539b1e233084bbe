"""The training cases as a user of diffusers and torch writes them: eager, float32, autograd, torch.optim.AdamW.

Video sparse attention is scaled_dot_product_attention with the mask of the chosen tiles, its coarse branch in plain torch.
"""
import itertools
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from diffusers import WanTransformer3DModel

CONFIG = json.loads((pathlib.Path(__file__).parents[1] / "recipes/tiny-shapes/model/transformer/config.json").read_text())
BATCH, LATENTS, TEXT = 4, (8, 8, 24, 24), (32, 128)
GRID, SIDE = (8, 12, 12), 4  # tokens; of a tile
TILES_KEPT = 4               # of 18: sparsity 0.8
TIMESTEPS = (1000.0, 757.0, 522.0)
STEP_OF_SAMPLE = (0, 1, 0, 2)
GUIDANCE, SHIFT = 3.5, 5.0


class SparseAttention(torch.nn.Module):
    """Self-attention of one block: q, k, v as diffusers' processor makes them, a gate for the coarse branch."""

    def __init__(self, width):
        super().__init__()
        self.gate = torch.nn.Linear(width, width)
        torch.nn.init.zeros_(self.gate.weight), torch.nn.init.zeros_(self.gate.bias)
        raster = torch.arange(math.prod(GRID)).view(GRID)
        starts = itertools.product(*(range(0, length, SIDE) for length in GRID))
        tiles = torch.stack([raster[t:t + SIDE, h:h + SIDE, w:w + SIDE].flatten() for t, h, w in starts])  # all are full
        self.to_tiles = tiles.flatten()
        self.to_raster = self.to_tiles.argsort()

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]

        def rotated(y):
            first, second = y.unflatten(-1, (-1, 2)).unbind(-1)
            out = torch.empty_like(y)
            out[..., 0::2], out[..., 1::2] = first * cos - second * sin, first * sin + second * cos
            return out

        def tiled(y):
            return y.index_select(1, self.to_tiles).transpose(1, 2)  # [B, H, S, d]

        heads = (attn.heads, -1)
        q = tiled(rotated(attn.norm_q(attn.to_q(x)).unflatten(2, heads)))
        k = tiled(rotated(attn.norm_k(attn.to_k(x)).unflatten(2, heads)))
        v, gate = tiled(attn.to_v(x).unflatten(2, heads)), tiled(self.gate(x).unflatten(2, heads))
        slots = SIDE**3
        mean_q, mean_k, mean_v = (y.unflatten(2, (-1, slots)).mean(3) for y in (q, k, v))  # [B, H, N, d]
        scores = mean_q @ mean_k.transpose(2, 3) / math.sqrt(q.shape[-1])                  # [B, H, N, N]
        chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, scores.topk(TILES_KEPT).indices, True)
        mask = chosen.repeat_interleave(slots, 2).repeat_interleave(slots, 3)              # [B, H, S, S]
        fine = F.scaled_dot_product_attention(q, k, v, mask)
        coarse = (scores.softmax(-1) @ mean_v).repeat_interleave(slots, 2)
        out = (coarse * gate + fine).transpose(1, 2).index_select(1, self.to_raster)       # [B, S, H, d]
        return attn.to_out[0](out.flatten(2))


class Network:

    def __init__(self, sparse=False, recompute=False, trains=True):
        self.model = WanTransformer3DModel.from_config(CONFIG).train(trains).requires_grad_(trains)
        for block in self.model.blocks if sparse else []:
            block.attn1.set_processor(SparseAttention(CONFIG["num_attention_heads"] * CONFIG["attention_head_dim"]))
        self.parameters = list(self.model.parameters())
        if recompute:
            self.model.enable_gradient_checkpointing()
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01, fused=True) if trains else None

    def __call__(self, x, sigma, text):
        return self.model(x, 1000 * sigma, text, return_dict=False)[0]

    def x0(self, x, sigma, text):
        return x - wide(sigma) * self(x, sigma, text)

    def update(self, loss):
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def wide(sigma):
    return sigma.view(-1, 1, 1, 1, 1)


def noised(x0, noise, sigma):
    return (1 - wide(sigma)) * x0 + wide(sigma) * noise


def shifted(base, shift):
    return shift * base / (1 + (shift - 1) * base)


def finetune_step(**options):
    network = Network(**options)
    x0, text = torch.randn(BATCH, *LATENTS), torch.randn(BATCH, *TEXT)

    def step():
        sigma, noise = shifted(torch.rand(BATCH), 3), torch.randn_like(x0)
        network.update(((network(noised(x0, noise, sigma), sigma, text) - (noise - x0))**2).mean())

    return step


def distill_step(**options):
    """An iteration of the critic alone, then one with the student's update: simulate mode."""
    student = Network(**options)
    critic, teacher = (Network(recompute=options.get("recompute", False), trains=trains) for trains in (True, False))
    text, none = torch.randn(BATCH, *TEXT), torch.randn(1, *TEXT).expand(BATCH, *TEXT)
    levels = torch.tensor(TIMESTEPS) / 1000
    steps = torch.tensor(STEP_OF_SAMPLE)

    @torch.no_grad()
    def rollout():
        x = torch.randn(BATCH, *LATENTS)
        for i in range(max(STEP_OF_SAMPLE)):
            rows = (steps > i).nonzero()[:, 0]
            x0 = student.x0(x[rows], levels[i].expand(len(rows)), text[rows])
            x[rows] = noised(x0, torch.randn_like(x0), levels[i + 1].expand(len(rows)))
        return x

    def score_sigma():
        return shifted(torch.rand(BATCH), SHIFT).clamp(0.02, 0.98)

    def update_student():
        sample = student.x0(rollout(), levels[steps], text)
        with torch.no_grad():
            sigma = score_sigma()
            noisy = noised(sample, torch.randn_like(sample), sigma)
            x_fake = critic.x0(noisy, sigma, text)
            x_c, x_u = teacher.x0(torch.cat([noisy, noisy]), torch.cat([sigma, sigma]), torch.cat([text, none])).chunk(2)
            x_real = x_u + GUIDANCE * (x_c - x_u)
            g = (x_fake - x_real) / (sample - x_real).abs().mean(dim=(1, 2, 3, 4), keepdim=True)
        student.update(0.5 * F.mse_loss(sample, (sample - g).detach()))

    def update_critic():
        with torch.no_grad():
            sample = student.x0(rollout(), levels[steps], text)
        sigma, noise = score_sigma(), torch.randn_like(sample)
        critic.update(((critic(noised(sample, noise, sigma), sigma, text) - (noise - sample))**2).mean())

    def pair():
        update_critic()
        update_student()
        update_critic()

    return pair


CASES = {"finetune_step": lambda: finetune_step(sparse=True),
         "finetune_step_recompute": lambda: finetune_step(sparse=True, recompute=True),
         "finetune_step_dense": finetune_step,
         "distill_step": lambda: distill_step(sparse=True),
         "distill_step_recompute": lambda: distill_step(sparse=True, recompute=True),
         "distill_step_dense": distill_step}
