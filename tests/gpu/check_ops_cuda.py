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


def plain_residual_norm(x, y, gate, scale, shift, adds_one):
    """sum and norm by the formula, without roundings in between."""
    total = x if y is None else x + (y if gate is None else gate * y)
    if scale is None:
        return [total]
    normed = torch.nn.functional.layer_norm(total, (x.shape[-1],), eps=1e-6) * (int(adds_one) + scale) + shift
    return [normed] if y is None else [total, normed]


def check_residual_norm():
    """Forward and backward against float64. bf16: two roundings of the norm forward, one of each gradient; a norm that
    reads the rounded sum sees 2^-9 of it."""
    ok = True
    shapes = ((1, 1, 4), (2, 3, 64), (64, 33, 128), (3, 65, 192), (2, 63, 256), (2, 40, 260), (1, 1000, 1536), (2, 17, 3072), (1, 9, 5120))
    kinds = {"norm": (False, False, True), "gated sum": (True, True, False), "sum and norm": (True, False, True), "gated sum and norm": (True, True, True)}
    for dtype, limit in ((torch.float32, 3e-6), (torch.bfloat16, 1.2e-2)):
        for B, S, C in shapes:
            for kind, (adds, gates, norms) in kinds.items():
                for shared in (False, True):  # vectors of samples, as views of one table, or one vector for all
                    torch.manual_seed(C + S)
                    x, y, *grads = (torch.randn(B, S, C, device="cuda").mul_(2).to(dtype) for _ in range(4))
                    table = torch.randn(B, 6, C, device="cuda").unsqueeze(2)
                    gate = table[:, 2] if gates else None
                    scale, shift = (torch.randn(2, C, device="cuda") if shared else (table[:, 1], table[:, 0])) if norms else (None, None)
                    adds_one, rounded = not shared, not gates
                    given = [x, y if adds else None, gate, scale, shift]
                    name = f"residual_norm {kind} {B} x {S} x {C}{', shared' if shared else ''}, {str(dtype)[6:]}:"
                    ok &= report(name + " is taken", torch.ops.fastwan._residual_norm_takes(*given))
                    leaves = [None if t is None else t.double().requires_grad_() for t in given]
                    want = plain_residual_norm(*leaves, adds_one)
                    upstream = grads[:len(want)]
                    wanted = [t for t in leaves if t is not None]
                    exact = [*(t.detach() for t in want), *torch.autograd.grad(want, wanted, [g.double() for g in upstream])]
                    exact = {what: t for what, t in zip([*["sum"] * adds, *["normed"] * norms, *[w for w, t in zip(("x", "y", "gate", "scale", "shift"), given) if t is not None]], exact)}

                    def run():
                        total, out = torch.ops.fastwan._residual_norm(*given, 1e-6, adds_one, False, rounded)
                        of_sum, of_out = (upstream[0] if adds else None), (upstream[-1] if norms else None)
                        dx, dy, of = torch.ops.fastwan._residual_norm_backward(of_sum, of_out, *given[:4], 1e-6, adds_one, rounded)
                        got = {"sum": total, "normed": out, "x": dx if norms else of_sum, "y": dy if gates else dx}
                        for k, what in enumerate(("gate", "scale", "shift")):
                            vectors = of[:, k:k + 1]
                            got[what] = vectors.sum((0, 1)) if given[2 + k] is not None and given[2 + k].dim() == 1 else vectors
                        return got

                    got, again = run(), run()
                    for what, t in exact.items():
                        near = C <= 4  # a row of four may have next to no variance
                        ok &= report(f"{name} {what}", error(got[what], t) < limit * (4 if near else 1) and torch.equal(got[what], again[what]), f"{error(got[what], t):.1e}")
    x = torch.randn(2, 5, 64, device="cuda", dtype=torch.bfloat16)
    scale, shift = torch.randn(2, 2, 1, 64, device="cuda")
    norm = torch.nn.functional.layer_norm(x.float(), (64,), eps=1e-6).bfloat16().float()
    got = torch.ops.fastwan._residual_norm(x, None, None, scale, shift, 1e-6, True, True, True)[1]
    near = (got.float() - torch.addcmul(shift, norm, 1 + scale)).abs() <= 2.0**-7 * (1 + scale.abs()) * (1 + norm.abs())
    ok &= report("residual_norm rounds the norm before its scale", bool(near.all()))
    per_token = torch.randn(2, 5, 64, device="cuda")
    return ok & report("residual_norm with vectors of tokens is left to the plain version", not torch.ops.fastwan._residual_norm_takes(x, None, None, per_token, per_token))


def check_rms_rotate():
    """Forward and backward against float64; bf16 rounds three times forward and once backward."""
    ok = True
    for dtype, limit in ((torch.float32, 3e-6), (torch.bfloat16, 1.2e-2)):
        for B, S, heads, d in ((1, 1, 1, 4), (2, 33, 2, 64), (3, 65, 3, 64), (2, 7, 5, 52), (1, 1000, 12, 128), (2, 9, 40, 128)):
            for rotates, rounds in ((True, True), (True, False), (False, True), (False, False)):
                torch.manual_seed(S)
                C = heads * d
                x, grad = (torch.randn(B, S, C, device="cuda").to(dtype) for _ in range(2))
                weight = torch.randn(C, device="cuda").to(dtype)
                angle = torch.randn(S, d // 2, device="cuda")
                turns = torch.stack([angle.cos(), angle.sin()], -1) if rotates else None
                name = f"rms_rotate {B} x {S} x {heads} x {d}{', turned' if rotates else ''}{', rounded' if rounds else ''}, {str(dtype)[6:]}:"
                ok &= report(name + " is taken", torch.ops.fastwan._rms_rotate_takes(x, weight, turns))
                leaves = [t.double().requires_grad_() for t in (x, weight)]
                want = torch.nn.functional.rms_norm(leaves[0], (C,), leaves[1], 1e-6)
                if rotates:
                    pairs = torch.view_as_complex(want.unflatten(-1, (heads, d // 2, 2)))
                    want = torch.view_as_real(pairs * torch.view_as_complex(turns.double()).unsqueeze(1)).flatten(-3)
                exact = [want.detach(), *torch.autograd.grad(want, leaves, grad.double())]

                def run():
                    return [torch.ops.fastwan._rms_rotate(x, weight, turns, 1e-6, rounds), *torch.ops.fastwan._rms_rotate_backward(grad, x, weight, turns, 1e-6)]

                for what, got, again, t in zip(("output", "gradient of x", "gradient of the weight"), run(), run(), exact):
                    ok &= report(f"{name} {what}", error(got, t) < limit and torch.equal(got, again), f"{error(got, t):.1e}")
    odd = torch.ones(1, 2, 6, device="cuda")
    return ok & report("rms_rotate of 6 channels is left to the plain version", not torch.ops.fastwan._rms_rotate_takes(odd, odd[0, 0], None))


def plain_noise(slots, count, seed, step, tag):
    """Philox4x32-10 on Python's integers, Box-Muller in float64."""
    rows = []
    for slot in slots:
        numbers = []
        for group in range((count + 3) // 4):
            c, k = [group, slot % 2**32, step % 2**32, tag % 2**32], [seed % 2**32, seed >> 32]
            for _ in range(10):
                p0, p1 = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
                c = [(p1 >> 32) ^ c[1] ^ k[0], p1 % 2**32, (p0 >> 32) ^ c[3] ^ k[1], p0 % 2**32]
                k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
            u = [((w >> 8) + 0.5) * 2.0**-24 for w in c]
            for a, b in (u[:2], u[2:]):
                rho = math.sqrt(-2 * math.log(a))
                numbers += [rho * math.cos(2 * math.pi * b), rho * math.sin(2 * math.pi * b)]
        rows.append(numbers[:count])
    return torch.tensor(rows, dtype=torch.float64)


def check_sample_noise():
    """Against float64: one rounding to float32."""
    ok = True
    for slots, count, seed, step, tag in (([0], 1, 0, 0, 0), ([7, 2**40 + 3, 1], 1027, 2**63 + 5, 2**33 + 9, 3 | 5 << 16), ([1, 2], 2048, 1000, 77, 2)):
        signed = seed - 2**64 if seed >= 2**63 else seed
        got = torch.ops.fastwan._sample_noise(torch.tensor(slots, device="cuda"), count, signed, step, tag).cpu().double()
        want = plain_noise(slots, count, seed, step, tag)
        far = ((got - want).abs() / want.abs().clamp_min(1e-30)).max()
        ok &= report(f"sample_noise {len(slots)} x {count}", bool(far < 1e-7), f"{float(far):.1e}")
    return ok


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
    start, ok = time.monotonic(), check_parts() & check_norm_silu() & check_residual_norm() & check_rms_rotate() & check_sample_noise()
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
