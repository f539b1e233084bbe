#!/usr/bin/env python3
"""Peers of the Hopper kernels in plain torch, at the shapes of tests/gpu/bench.cpp: dense scaled_dot_product_attention
(cuDNN, flash) and FlexAttention with the same kind of block mask (forward alone: its backward does not compile with
blocks of 64). Writes fastwan-bench/1; after --seconds no further case is begun, and those left out are named."""
import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

CASES = [("480x832x81 s.8", 12, (21, 30, 52), 125), ("480x832x81 s.9", 12, (21, 30, 52), 63), ("448x832x61 s.8", 12, (16, 28, 52), 73),
         ("448x832x61 s.9", 12, (16, 28, 52), 37), ("14B 720x1280x81 s.9", 40, (21, 45, 80), 144), ("16x40768 s.9", 16, (28, 28, 52), 64)]
WARM_UPS, REPEATS = 2, 11


def tile_sizes(grid):
    return torch.tensor([min(4, grid[0] - t) * min(4, grid[1] - y) * min(4, grid[2] - x)
                         for t in range(0, grid[0], 4) for y in range(0, grid[1], 4) for x in range(0, grid[2], 4)], dtype=torch.int32, device="cuda")


def time_ms(run, flush):
    times = []
    for i in range(WARM_UPS + REPEATS):
        flush.fill_(i)
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        stop.record()
        stop.synchronize()
        if i >= WARM_UPS:
            times.append(start.elapsed_time(stop))
    times.sort()
    return statistics.median(times), times[0], times[len(times) * 3 // 4] - times[len(times) // 4]


def main():
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output")
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--seconds", type=float, default=600)
    options = parser.parse_args()
    start = time.monotonic()
    results, dense_done, left_out = [], set(), []

    def add(name, peer, case, run, flops):
        median, least, iqr = time_ms(run, flush)
        label, heads, _, topk = case
        results.append({"name": name, "shape": {"case": label, "heads": heads, "head_dim": 128, "topk": topk}, "dtype": "bf16", "device": "cuda:0", "peer": peer,
                        "median_ms": round(median, 4), "min_ms": round(least, 4), "iqr_ms": round(iqr, 4), "repeats": REPEATS, "tflops": round(flops / median * 1e-9, 1),
                        "gbps": None, "peer_ratio": None, "flags": ["noisy"] if iqr > 0.03 * median else []})
        print(f"{name:16} {label:20} {peer:14} {median:9.3f} ms  min {least:9.3f}  {flops / median * 1e-9:7.1f} TFLOP/s", flush=True)

    compiled = torch.compile(flex_attention, dynamic=False)
    tiles_of_64 = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_M1": 64, "BLOCK_N1": 64, "BLOCK_M2": 64, "BLOCK_N2": 64}
    for case in CASES:
        label, heads, grid, topk = case
        if options.only not in label:
            continue
        if time.monotonic() - start > options.seconds:
            left_out.append(label)
            continue
        tokens = grid[0] * grid[1] * grid[2]
        if (heads, tokens) not in dense_done:
            dense_done.add((heads, tokens))
            q, k, v = (torch.randn(1, heads, tokens, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
            for peer, backend in (("sdpa-cudnn", SDPBackend.CUDNN_ATTENTION), ("sdpa-flash", SDPBackend.FLASH_ATTENTION)):
                with sdpa_kernel(backend):
                    add("attn.dense.fwd", peer, case, lambda: F.scaled_dot_product_attention(q, k, v), 4.0 * tokens ** 2 * 128 * heads)
        sizes = tile_sizes(grid)
        tiles = sizes.numel()
        q, k, v = (torch.randn(1, heads, tiles * 64, 128, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        order = torch.rand(1, heads, tiles, tiles, device="cuda").argsort(-1).int()  # the first topk of each row are its list
        index = torch.cat([order[..., :topk].sort(-1).values, order[..., topk:]], -1).contiguous()
        del order
        count = torch.full((1, heads, tiles), topk, dtype=torch.int32, device="cuda")
        mask = BlockMask.from_kv_blocks(count, index, BLOCK_SIZE=64, mask_mod=lambda b, h, i, j: j % 64 < sizes[j // 64])
        pairs = float(tiles * 64 * topk * 64 * heads)
        try:
            add("vsa.kernel.fwd", "flex", case, lambda: compiled(q, k, v, block_mask=mask, kernel_options=tiles_of_64), 4.0 * pairs * 128)
        except Exception as problem:  # the peer's own limits: reported, not hidden
            print(f"flex at {label}: {type(problem).__name__}: {str(problem)[:200]}", flush=True)
        del q, k, v, index, count, mask
        torch.cuda.empty_cache()
    with open(options.output, "w") as out:
        json.dump({"schema": "fastwan-bench/1", "run": {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda,
                   "cudnn": torch.backends.cudnn.version(), "peers_left_out": left_out}, "results": results}, out, indent=1)


if __name__ == "__main__":
    main()
