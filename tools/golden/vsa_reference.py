"""Video Sparse Attention in fp64, written out from the formulas: what goldens with gates are made with.

No tiles of memory and no padding: a tile is a list of token numbers, the mask is expanded to tokens.
Source of the formulas: FastVideo attention/backends/video_sparse_attn.py and fastvideo-kernel ops.py.
"""

import itertools
import math

import torch
import torch.nn.functional as F

SIDE = 4


def tiles(grid):
    """Token numbers of each 4x4x4 tile, tiles in t, h, w order."""
    T, H, W = grid
    starts = itertools.product(range(0, T, SIDE), range(0, H, SIDE), range(0, W, SIDE))
    return [[(t * H + h) * W + w for t in range(t0, min(t0 + SIDE, T)) for h in range(h0, min(h0 + SIDE, H))
             for w in range(w0, min(w0 + SIDE, W))] for t0, h0, w0 in starts]


def topk(sparsity, num_tiles):
    return min(max(math.ceil((1.0 - sparsity) * num_tiles), 1), num_tiles)


def attend(q, k, v, gate, grid, sparsity):
    """q, k, v, gate [B, S, H, D] -> [B, S, H, D] fp64 and the smallest gap between the last chosen score and the first left out."""
    q, k, v, gate = (x.double().transpose(1, 2) for x in (q, k, v, gate))  # [B, H, S, D]
    groups = tiles(grid)
    tile_of = torch.empty(q.shape[2], dtype=torch.long)
    for number, tokens in enumerate(groups):
        tile_of[tokens] = number
    mean = lambda x: torch.stack([x[:, :, tokens].mean(2) for tokens in groups], 2)  # [B, H, N, D]
    scale = 1.0 / math.sqrt(q.shape[-1])
    scores = mean(q) @ mean(k).transpose(2, 3) * scale  # [B, H, N, N]
    count = topk(sparsity, len(groups))
    order = scores.sort(dim=-1, descending=True, stable=True)
    gap = math.inf if count == len(groups) else float((order.values[..., count - 1] - order.values[..., count]).min())
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, order.indices[..., :count], True)
    mask = chosen[:, :, tile_of][..., tile_of]  # [B, H, S, S]
    fine = (q @ k.transpose(2, 3) * scale).masked_fill(~mask, -math.inf).softmax(-1) @ v
    coarse = (scores.softmax(-1) @ mean(v))[:, :, tile_of]
    return (coarse * gate + fine).transpose(1, 2), gap


class GatedSparseAttention:
    """Self-attention of one diffusers block: q, k, v as diffusers makes them, then VSA. `gap` is the smallest yet seen."""

    def __init__(self, gate_weight, gate_bias, grid, sparsity):
        self.weight, self.bias = gate_weight, gate_bias
        self.grid, self.sparsity, self.gap = grid, sparsity, math.inf

    def __call__(self, attn, x, encoder_hidden_states=None, attention_mask=None, rotary_emb=None):
        heads = (attn.heads, -1)
        cos, sin = rotary_emb[0][..., 0::2], rotary_emb[1][..., 1::2]

        def rotated(y):
            first, second = y.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)

        q = rotated(attn.norm_q(attn.to_q(x)).unflatten(2, heads))
        k = rotated(attn.norm_k(attn.to_k(x)).unflatten(2, heads))
        v = attn.to_v(x).unflatten(2, heads)
        gate = F.linear(x, self.weight, self.bias).unflatten(2, heads)
        out, gap = attend(q, k, v, gate, self.grid, self.sparsity)
        self.gap = min(self.gap, gap)
        return attn.to_out[0](out.to(x.dtype).flatten(2))
