#!/usr/bin/env python3
"""The operators on a GPU from Python: libfastwan_ops.so and libfastwan_ops_cuda.so against the plain version in
float32, gradients included, bit for bit in a second run, in CUDA graphs, and past 2^31 elements. bf16 takes the Hopper
kernels where there are such, fp16 the portable ones on every GPU. Needs torch with CUDA alone.
Usage: check_ops_cuda.py FOLDER_OF_THE_LIBRARIES"""
import math
import pathlib
import sys
import time

import torch

TYPES = (torch.bfloat16, torch.float16)
ROUNDING = {torch.bfloat16: 1e-2, torch.float16: 2e-3}


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


def check_raster(dtype, grid, heads, head_dim, topk):
    tokens = math.prod(grid)
    torch.manual_seed(3)
    x = [torch.randn(1, tokens, heads, head_dim, device="cuda", dtype=dtype) for _ in range(4)]
    name = f"{grid} x {heads} x {head_dim}, topk {topk}, {str(dtype)[6:]}:"
    # bf16 on Hopper, and that alone, must be the fused operation: else this would compare one path with itself.
    takes = torch.ops.fastwan._video_sparse_attn_fused_takes(x[0], list(grid))
    ok = report(name + f" fused: {takes}", takes == (dtype == torch.bfloat16 and torch.cuda.get_device_capability() == (9, 0)))
    with torch.no_grad():
        fused = raster(x, topk, grid)
    leaves = [t.clone().requires_grad_() for t in x]
    composed = raster(leaves, topk, grid)  # a gradient is wanted: tiles, coarse stage, block_attention apart
    weight = torch.randn_like(composed)
    (composed * weight).sum().backward()
    exact_leaves = [t.float().requires_grad_() for t in x]  # no float32 kernel on CUDA: the plain version
    exact = raster(exact_leaves, topk, grid)
    (exact * weight.float()).sum().backward()
    # Lists of rounded and float32 scores may differ near the threshold; with all tiles they cannot.
    limit = ROUNDING[dtype] if topk == tile_sizes(grid).numel() else 0.2
    ok &= report(name + " without against with gradients", error(fused, composed) < ROUNDING[dtype], f"{error(fused, composed):.1e}")
    ok &= report(name + " against float32", error(composed, exact) < limit, f"{error(composed, exact):.1e}")
    for letter, a, b in zip("qkvg", leaves, exact_leaves):
        ok &= report(name + f" gradient of {letter}", error(a.grad, b.grad) < limit * 1.5, f"{error(a.grad, b.grad):.1e}")
    return ok


def block_problem(dtype, device="cuda"):
    torch.manual_seed(4)
    B, H, N, K, D = 2, 3, 12, 5, 128
    sizes = torch.tensor([64, 64, 1, 17, 64, 8, 64, 33, 64, 64, 5, 64], dtype=torch.int32, device=device)
    x = [torch.randn(B, N * 64, H, D).to(device, dtype) for _ in range(3)]
    index = torch.stack([torch.randperm(N)[:K].sort().values for _ in range(B * H * N)]).view(B, H, N, K).int().to(device)
    count = torch.randint(0, K + 1, (B, H, N), dtype=torch.int32).to(device)
    return x, (index, count, sizes, sizes)


def run_block(x, lists):
    leaves = [t.detach().clone().requires_grad_() for t in x]
    out, lse = torch.ops.fastwan.block_attention(*leaves, *lists)
    finite = torch.where(lse.isfinite(), lse, 0)
    (out.float().sin().sum() + finite.cos().sum()).backward()
    return [out.detach(), finite.detach(), *(t.grad for t in leaves)]


def check_block_attention(dtype):
    x, lists = block_problem(dtype)
    got, want = run_block(x, lists), run_block([t.float() for t in x], lists)
    ok = True
    for what, a, b in zip(("out", "lse", "dq", "dk", "dv"), got, want):
        ok &= report(f"block_attention {str(dtype)[6:]} {what}, through lse too", error(a, b) < ROUNDING[dtype], f"{error(a, b):.1e}")
    for again in range(3):
        ok &= all(torch.equal(a, b) for a, b in zip(got, run_block(x, lists)))
    return report(f"block_attention {str(dtype)[6:]}: the same bits again, gradients too", ok)


def check_parts():
    """tile_mean and block_select against the CPU."""
    torch.manual_seed(6)
    ok = True
    sizes = torch.tensor([64, 1, 63, 17], dtype=torch.int32)
    for dtype in (torch.float32, *TYPES):
        x = torch.randn(2, 256, 3, 128).to(dtype)
        got, want = torch.ops.fastwan.tile_mean(x.cuda(), sizes.cuda(), 64).cpu(), torch.ops.fastwan.tile_mean(x.double(), sizes, 64)
        ok &= report(f"tile_mean {str(dtype)[6:]}", error(got, want) < 4 * torch.finfo(dtype).eps, f"{error(got, want):.1e}")
        scores = (torch.randint(-40, 40, (2, 3, 5, 364)).float() * 2.0**-9).to(dtype)  # ties in most rows
        same = all(torch.equal(torch.ops.fastwan.block_select(scores.cuda(), k).cpu(), torch.ops.fastwan.block_select(scores, k)) for k in (1, 73, 364))
        ok &= report(f"block_select {str(dtype)[6:]}: the CPU's tiles", same)
    return ok


def plain_norm_silu(x, gamma):
    """The formula, in the type of x without roundings in between."""
    normed = x / x.norm(dim=-1, keepdim=True).clamp_min(1e-12) * math.sqrt(x.shape[-1]) * gamma
    return torch.nn.functional.silu(normed)


def check_norm_silu():
    """Forward and backward against float64; bf16 rounds four times forward (2^-9 each, silu' up to 1.1) and once backward."""
    ok = True
    for dtype, limit in ((torch.float32, 1e-6), (torch.bfloat16, 1.2e-2)):
        for rows, channels in ((1, 4), (3, 16), (1000, 32), (77, 48), (64, 96), (65, 384), (63, 640), (9, 1024), (70001, 16)):
            torch.manual_seed(channels)
            x = torch.randn(rows, channels, device="cuda").mul_(3).to(dtype)
            x[0] = 0 if rows > 1 else x[0]
            gamma = torch.randn(channels, device="cuda").to(dtype)
            grad = torch.randn(rows, channels, device="cuda").to(dtype)
            name = f"norm_silu {rows} x {channels}, {str(dtype)[6:]}:"
            ok &= report(name + " is taken", torch.ops.fastwan._norm_silu_takes(x, gamma))
            leaves = [t.double().requires_grad_() for t in (x, gamma)]
            want = plain_norm_silu(*leaves)
            wants = [want.detach(), *torch.autograd.grad(want, leaves, grad.double())]
            gots = [torch.ops.fastwan._norm_silu(x, gamma), *torch.ops.fastwan._norm_silu_backward(grad, x, gamma)]
            again = [torch.ops.fastwan._norm_silu(x, gamma), *torch.ops.fastwan._norm_silu_backward(grad, x, gamma)]
            if rows > 1:  # the row of zeros: its gradient is 1e12 sqrt(C) times the rest, beyond every other row
                wants[1][0] = gots[1][0] = again[1][0] = 0
            for what, got, second, exact in zip(("output", "gradient of x", "gradient of gamma"), gots, again, wants):
                ok &= report(f"{name} {what}", error(got, exact) < limit and torch.equal(got, second), f"{error(got, exact):.1e}")
    odd = torch.ones(2, 6, device="cuda")
    return ok & report("norm_silu of 6 channels is left to the plain version", not torch.ops.fastwan._norm_silu_takes(odd, odd[0]))


def check_declared():
    """Schemas and fake tensors agree with what the CUDA implementations do."""
    ok = True
    for dtype in TYPES:
        x, lists = block_problem(dtype)
        cases = [(torch.ops.fastwan.block_attention.default, (*x, *lists)), (torch.ops.fastwan.tile_mean.default, (x[0], lists[2], 64)),
                 (torch.ops.fastwan.block_select.default, (torch.randn(1, 2, 3, 40, device="cuda").to(dtype), 7))]
        for op, arguments in cases:
            try:
                torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))
            except Exception as problem:
                ok = report(f"opcheck {op} {dtype}", False, str(problem)[:300])
    return report("opcheck of schemas and fake tensors", ok)


def check_graph(dtype):
    name = str(dtype)[6:]
    grid, topk = (8, 12, 12), 5
    x = [torch.randn(1, math.prod(grid), 2, 128, device="cuda", dtype=dtype) for _ in range(4)]
    blocks, lists = block_problem(dtype)
    with torch.no_grad():
        want = raster(x, topk, grid)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = raster(x, topk, grid)
        for t in x:
            t.copy_(torch.randn_like(t))
        graph.replay()
        ok = report(f"replay of a CUDA graph on new inputs, {name}", torch.equal(got, raster(x, topk, grid)) and not torch.equal(got, want))
        out, lse = torch.ops.fastwan.block_attention(*blocks, *lists)
        backward = torch.ops.fastwan._block_attention_backward
        weight = torch.randn_like(out)
        backward(weight, None, *blocks, out, lse, *lists)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            grads = backward(weight, None, *blocks, out, lse, *lists)
        weight.copy_(torch.randn_like(weight))
        graph.replay()
        again = backward(weight, None, *blocks, out, lse, *lists)
    return report(f"the same of the gradients, {name}", all(torch.equal(a, b) for a, b in zip(grads, again))) and ok


def check_large(dtype):
    """Past 2^31 elements. Every key is zero, so a tile's weights are all 1/64; v and the gradient of out are one value
    a batch: out must be v, and dv that gradient."""
    B, S, H, D = 129, 2048, 64, 128  # 2.16e9 elements
    q = torch.randn(1, S, H, D, device="cuda", dtype=dtype).expand(B, S, H, D).contiguous()
    k = torch.zeros_like(q)
    v = torch.arange(B, device="cuda", dtype=dtype).view(B, 1, 1, 1).expand(B, S, H, D).contiguous()
    N = S // 64
    index = torch.arange(N, dtype=torch.int32, device="cuda").view(1, 1, N, 1).expand(B, H, N, 1).contiguous()
    count = torch.ones(B, H, N, dtype=torch.int32, device="cuda")
    sizes = torch.full((N,), 64, dtype=torch.int32, device="cuda")
    lists = (index, count, sizes, sizes)
    out, lse = torch.ops.fastwan.block_attention(q, k, v, *lists)
    ok = report(f"past 2^31 elements, {str(dtype)[6:]}", torch.equal(out, v))
    grads = torch.ops.fastwan._block_attention_backward(v, None, q, k, v, out, lse, *lists)
    return report(f"past 2^31 elements, gradient of v, {str(dtype)[6:]}", torch.equal(grads[2], v)) and ok


def main():
    folder = pathlib.Path(sys.argv[1])
    for library in ("libfastwan_ops.so", "libfastwan_ops_cuda.so"):
        torch.ops.load_library(str(folder / library))
    start, ok = time.monotonic(), check_parts() & check_norm_silu()
    for dtype in TYPES:
        ok &= check_block_attention(dtype)
        ok &= check_raster(dtype, (5, 6, 7), 2, 128, 8)
        ok &= check_raster(dtype, (9, 14, 13), 3, 128, 12)
        ok &= check_raster(dtype, (8, 12, 12), 2, 64, 18)
        ok &= check_graph(dtype)
        ok &= check_large(dtype)
        torch.cuda.empty_cache()
    ok &= check_declared()
    print("operators on CUDA", "passed" if ok else "FAILED", f"in {time.monotonic() - start:.0f} s")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
