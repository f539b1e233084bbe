#!/usr/bin/env python3
"""The operators on a GPU from Python: libfastwan_ops.so and libfastwan_ops_cuda.so against the plain version in
float32, gradients included, in a CUDA graph, and past 2^31 elements. Needs torch with CUDA alone."""
import math
import pathlib
import sys

import torch


def tile_sizes(grid):
    return torch.tensor([min(4, grid[0] - t) * min(4, grid[1] - y) * min(4, grid[2] - x)
                         for t in range(0, grid[0], 4) for y in range(0, grid[1], 4) for x in range(0, grid[2], 4)], dtype=torch.int32)


def error(got, want):
    return float((got.detach().double() - want.detach().double()).norm() / want.detach().double().norm())


def report(what, ok, detail=""):
    print(f"{'ok  ' if ok else 'FAIL'} {what} {detail}", flush=True)
    return ok


def raster(x, topk, grid):
    return torch.ops.fastwan.video_sparse_attn_raster(*x, list(grid), topk)


def check_raster(grid, heads, head_dim, topk):
    tokens = math.prod(grid)
    torch.manual_seed(3)
    x = [torch.randn(1, tokens, heads, head_dim, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    name = f"{grid} x {heads} x {head_dim}, topk {topk}:"
    with torch.no_grad():
        fused = raster(x, topk, grid)
    leaves = [t.clone().requires_grad_() for t in x]
    composed = raster(leaves, topk, grid)  # a gradient is wanted: tiles, coarse stage, block_attention apart
    weight = torch.randn_like(composed)
    (composed * weight).sum().backward()
    exact_leaves = [t.float().requires_grad_() for t in x]  # no float32 kernel on CUDA: the plain version
    exact = raster(exact_leaves, topk, grid)
    (exact * weight.float()).sum().backward()
    # Lists of bf16 and float32 scores may differ near the threshold; with all tiles they cannot.
    limit = 1e-2 if topk == tile_sizes(grid).numel() else 0.2
    ok = report(name + " fused against composed", error(fused, composed) < 1e-2, f"{error(fused, composed):.1e}")
    ok &= report(name + " composed against float32", error(composed, exact) < limit, f"{error(composed, exact):.1e}")
    for letter, a, b in zip("qkvg", leaves, exact_leaves):
        ok &= report(name + f" gradient of {letter}", error(a.grad, b.grad) < limit * 1.5, f"{error(a.grad, b.grad):.1e}")
    return ok


def check_block_attention():
    torch.manual_seed(4)
    B, H, N, K, D = 2, 3, 12, 5, 128
    sizes = torch.tensor([64, 64, 1, 17, 64, 8, 64, 33, 64, 64, 5, 64], dtype=torch.int32, device="cuda")
    x = [torch.randn(B, N * 64, H, D, device="cuda", dtype=torch.bfloat16) for _ in range(3)]
    index = torch.stack([torch.randperm(N)[:K].sort().values for _ in range(B * H * N)]).view(B, H, N, K).int().cuda()
    count = torch.randint(0, K + 1, (B, H, N), dtype=torch.int32).cuda()
    grads, results = [], []
    for dtype in (torch.bfloat16, torch.float32):
        leaves = [t.detach().to(dtype, copy=True).requires_grad_() for t in x]
        out, lse = torch.ops.fastwan.block_attention(*leaves, index, count, sizes, sizes)
        (out.float().sin().sum() + torch.where(lse.isfinite(), lse, 0).cos().sum()).backward()
        results.append((out, torch.where(lse.isfinite(), lse, 0)))
        grads.append([t.grad for t in leaves])
    ok = True
    for what, got, want in [("out", results[0][0], results[1][0]), ("lse", results[0][1], results[1][1]),
                            *zip(("dq", "dk", "dv"), *grads)]:
        ok &= report(f"block_attention {what}, through lse too", error(got, want) < 1e-2, f"{error(got, want):.1e}")
    return ok


def check_graph():
    grid, topk = (8, 12, 12), 5
    x = [torch.randn(1, math.prod(grid), 2, 128, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    with torch.no_grad():
        want = raster(x, topk, grid)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = raster(x, topk, grid)
        for t in x:
            t.copy_(torch.randn_like(t))
        graph.replay()
        return report("replay of a CUDA graph on new inputs", bool((got == raster(x, topk, grid)).all()) and not bool((got == want).all()))


def check_large():
    """Rows past 2^31 elements: v is one value a batch, so that out must be that value."""
    B, S, H, D = 129, 2048, 64, 128  # 2.16e9 elements
    q = torch.randn(1, S, H, D, device="cuda", dtype=torch.bfloat16).expand(B, S, H, D)
    v = torch.arange(B, device="cuda", dtype=torch.bfloat16).view(B, 1, 1, 1).expand(B, S, H, D).contiguous()
    N = S // 64
    index = torch.arange(N, dtype=torch.int32, device="cuda").view(1, 1, N, 1).expand(B, H, N, 1).contiguous()
    count = torch.ones(B, H, N, dtype=torch.int32, device="cuda")
    sizes = torch.full((N,), 64, dtype=torch.int32, device="cuda")
    out, _ = torch.ops.fastwan.block_attention(q.contiguous(), q.contiguous(), v, index, count, sizes, sizes)
    return report("past 2^31 elements", bool((out == v).all()))


def main():
    folder = pathlib.Path(sys.argv[1])
    for library in ("libfastwan_ops.so", "libfastwan_ops_cuda.so"):
        torch.ops.load_library(str(folder / library))
    ok = check_block_attention()
    ok &= check_raster((5, 6, 7), 2, 128, 8)
    ok &= check_raster((9, 14, 13), 3, 128, 12)
    ok &= check_raster((8, 12, 12), 2, 64, 18)
    ok &= check_graph()
    ok &= check_large()
    print("operators on CUDA", "passed" if ok else "FAILED")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
