"""What Python's torch expects of an operator: schema, autograd registration, fake tensors, compilation, gradients."""
import math

import pytest
import torch

ops = torch.ops.fastwan
GRID = (5, 6, 7)  # 8 tiles, all but one of them partial
TILE_SIZES = torch.tensor([64, 48, 32, 24, 16, 12, 8, 6], dtype=torch.int32)


def randn(*sizes, dtype=torch.float32, grad=True):
    return torch.randn(*sizes, dtype=dtype, requires_grad=grad)


def block_attention_inputs(dtype=torch.float32, tile=64, head=64):
    torch.manual_seed(1)
    q_sizes = torch.tensor([tile, tile - 1, 1], dtype=torch.int32)
    kv_sizes = torch.tensor([tile, 2, tile - 3, 1], dtype=torch.int32)
    index = torch.tensor([[[[0, 3], [1, 2], [2, 0]], [[1, 0], [3, 0], [0, 2]]]], dtype=torch.int32)
    count = torch.tensor([[[2, 2, 1], [1, 0, 2]]], dtype=torch.int32)
    q = randn(1, 3 * tile, 2, head, dtype=dtype)
    k, v = (randn(1, 4 * tile, 2, head, dtype=dtype) for _ in "kv")
    return q, k, v, index, count, q_sizes, kv_sizes


def raster_inputs(dtype=torch.float32, gated=True):
    torch.manual_seed(2)
    q, k, v, gate = (randn(1, math.prod(GRID), 2, 64, dtype=dtype) for _ in "qkvg")
    return q, k, v, gate if gated else None, GRID, 3


def tiled_inputs(dtype=torch.float32, weighted=True):
    torch.manual_seed(3)
    q, k, v, weight = (randn(1, 2, 512, 64, dtype=dtype) for _ in "qkvw")
    return q, k, v, TILE_SIZES, TILE_SIZES, 3, [4, 4, 4], weight if weighted else None


def cases():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        name = str(dtype).removeprefix("torch.")
        yield f"tile_mean-{name}", ops.tile_mean, (randn(2, 512, 2, 24, dtype=dtype), TILE_SIZES, 64)
        yield f"tile_mean_backward-{name}", ops._tile_mean_backward, (randn(2, 8, 2, 24, dtype=dtype, grad=False), TILE_SIZES, 64)
        yield f"ordered_matmul-{name}", ops._ordered_matmul, (randn(2, 3, 5, 7, dtype=dtype), randn(2, 3, 7, 4, dtype=dtype))
        yield f"row_softmax-{name}", ops._row_softmax, (randn(2, 3, 5, 7, dtype=dtype),)
        yield f"block_select-{name}", ops.block_select, (randn(2, 3, 5, 9, dtype=dtype), 4)
        yield f"block_attention-{name}", ops.block_attention, block_attention_inputs(dtype)
        yield f"raster-{name}", ops.video_sparse_attn_raster, raster_inputs(dtype)
        yield f"raster-ungated-{name}", ops.video_sparse_attn_raster, raster_inputs(dtype, gated=False)
        yield f"tiled-{name}", ops.video_sparse_attn, tiled_inputs(dtype)
        yield f"tiled-unweighted-{name}", ops.video_sparse_attn, tiled_inputs(dtype, weighted=False)


CASES = {name: (op, args) for name, op, args in cases()}


@pytest.mark.parametrize("name", CASES)
def test_operator_passes_opcheck(name):
    op, args = CASES[name]
    results = torch.library.opcheck(op, args)
    assert set(results.values()) == {"SUCCESS"}, results


def test_backward_operator_passes_opcheck():
    q, k, v, *lists = block_attention_inputs()
    out, lse = ops.block_attention(q, k, v, *lists)
    tensors = [t.detach() for t in (torch.randn_like(out), torch.randn_like(lse), q, k, v, out, lse)]
    torch.library.opcheck(ops._block_attention_backward, (*tensors, *lists))
    torch.library.opcheck(ops._block_attention_backward, (tensors[0], None, *tensors[2:], *lists))


def test_tile_mean_gradient_in_double():
    x = randn(1, 12, 1, 3, dtype=torch.float64)
    sizes = torch.tensor([4, 1, 3], dtype=torch.int32)
    assert torch.autograd.gradcheck(lambda x: ops.tile_mean(x, sizes, 4), (x,))


def test_coarse_gradients_in_double():
    a, b = randn(2, 2, 3, 5, dtype=torch.float64), randn(2, 2, 5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(ops._ordered_matmul, (a, b))
    assert torch.autograd.gradcheck(ops._ordered_matmul, (a, b.detach()))
    assert torch.autograd.gradcheck(ops._row_softmax, (a,))


def test_block_attention_gradient_in_double_through_out_and_lse():
    q, k, v, *lists = block_attention_inputs(torch.float64, tile=4, head=3)

    def attend(q, k, v):
        out, lse = ops.block_attention(q, k, v, *lists)
        return out, lse.masked_fill(lse == -math.inf, 0)

    assert torch.autograd.gradcheck(attend, (q, k, v))


def test_whole_operator_gradient_in_double():
    torch.manual_seed(4)
    grid, tile = (3, 3, 4), [2, 2, 2]  # 8 tiles
    tensors = [randn(1, math.prod(grid), 1, 3, dtype=torch.float64) for _ in "qkvg"]
    assert torch.autograd.gradcheck(lambda *x: ops.video_sparse_attn_raster(*x, grid, 3, tile), tensors)


class Layer(torch.nn.Module):
    """A model that calls the operator between learned layers."""

    def __init__(self):
        super().__init__()
        self.qkvg = torch.nn.Linear(128, 4 * 128)
        self.out = torch.nn.Linear(128, 128)

    def forward(self, x):
        q, k, v, gate = self.qkvg(x).unflatten(-1, (4, 2, 64)).unbind(2)
        return self.out(ops.video_sparse_attn_raster(q, k, v, gate, GRID, 3).flatten(2))


def test_model_compiles_as_one_graph_with_equal_values_and_gradients():
    torch.manual_seed(5)
    eager = Layer()
    compiled = torch.compile(eager, fullgraph=True, backend="aot_eager")
    x = randn(1, math.prod(GRID), 128)
    grads = []
    for model in (eager, compiled):
        eager.zero_grad()
        x.grad = None
        y = model(x)
        y.square().sum().backward()
        grads.append([y.detach(), x.grad.clone(), *(p.grad.clone() for p in eager.parameters())])
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_compiles_with_changing_batch_and_heads():
    attend = torch.compile(lambda *x: ops.video_sparse_attn_raster(*x, GRID, 3), fullgraph=True,
                           backend="aot_eager", dynamic=True)
    for batch, heads in ((1, 2), (2, 3), (3, 5)):
        x = [torch.randn(batch, math.prod(GRID), heads, 64) for _ in "qkvg"]
        torch.testing.assert_close(attend(*x), ops.video_sparse_attn_raster(*x, GRID, 3), rtol=0, atol=0)


def test_autocast_leaves_the_given_types_alone():
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = ops.block_attention(*block_attention_inputs())
    assert out.dtype == torch.float32 and lse.dtype == torch.float32


def test_tile_index_and_topk():
    tile_index, non_pad, sizes = ops.vsa_tile_index(*GRID)
    assert sizes.tolist() == TILE_SIZES.tolist()
    assert sorted(tile_index.tolist()) == list(range(math.prod(GRID)))
    assert non_pad[:64].tolist() == list(range(64)) and non_pad[64 + 48] == 128
    assert ops.vsa_topk(.8, 624) == 125 and ops.vsa_topk_unpadded(.8, 32760, 624) == 103
    with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\], got 1.5"):
        ops.vsa_topk(1.5, 8)


@pytest.mark.parametrize("change, message", [
    (lambda a: a.update(topk=0), "topk must lie between 1 and the number of key tiles, 8, got 0"),
    (lambda a: a.update(topk=9), "topk must lie between 1 and the number of key tiles, 8, got 9"),
    (lambda a: a.update(grid=(5, 6, 8)), r"q must be \[B=1, S=240, H=2, D=64\], got \[1, 210, 2, 64\]"),
    (lambda a: a.update(k=a["k"].double()), "k must have the type of q, float, got double"),
    (lambda a: a.update(v=a["v"].to("meta")), "v must be on the device of q, cpu, got meta"),
    (lambda a: a.update(gate=a["gate"][:, :200]), r"gate must be \[B=1, S=210, H=2, D=64\], got \[1, 200, 2, 64\]"),
    (lambda a: a.update(q=a["q"].long()), "q must be float16, bfloat16, float32 or float64, got long"),
    (lambda a: a.update(q=a["q"][0]), r"q must be \[B S H D\], got \[210, 2, 64\]"),
    (lambda a: a.update(q=a["q"].detach().to(torch.float8_e4m3fn)), "q must be float16, bfloat16, float32 or float64, got .*Float8"),
    (lambda a: a.update(scale=math.nan), "scale must be finite, got nan"),
    (lambda a: a.update(tile=(4, 0, 4)), "plan_tiles: a grid and its tiles need at least 1x1x1 tokens"),
])
def test_bad_input_is_a_value_error_that_says_what_was_wanted(change, message):
    q, k, v, gate, grid, topk = raster_inputs()
    arguments = dict(q=q, k=k, v=v, gate=gate, grid=grid, topk=topk)
    change(arguments)
    with pytest.raises(ValueError, match=message):
        ops.video_sparse_attn_raster(**arguments)


@pytest.mark.parametrize("head_size", [1, 3, 32, 64, 80, 96, 128, 192, 256])
def test_every_head_size_agrees_with_float64(head_size):
    torch.manual_seed(7)
    q, k, v, gate = (torch.randn(1, math.prod(GRID), 2, head_size) for _ in "qkvg")
    out = ops.video_sparse_attn_raster(q, k, v, gate, GRID, 8)  # all tiles: no near tie of scores decides
    want = ops.video_sparse_attn_raster(q.double(), k.double(), v.double(), gate.double(), GRID, 8)
    torch.testing.assert_close(out.double(), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("arrange", [
    lambda: torch.randn(1, 210, 3, 2, 64).unbind(2),  # one projection for all three
    lambda: [torch.randn(1, 210, 64, 2).transpose(2, 3) for _ in "qkv"],
    lambda: [torch.randn(1, 420, 2, 128)[:, ::2, :, ::2] for _ in "qkv"],
    lambda: [torch.randn(1, 1, 2, 64).expand(1, 210, 2, 64) for _ in "qkv"],
], ids=["packed", "transposed", "sliced", "expanded"])
def test_strides_do_not_reach_values_and_gradients(arrange):
    torch.manual_seed(8)
    strided = arrange()
    results = []
    for tensors in (strided, [x.contiguous() for x in strided]):
        tensors = [x.detach().requires_grad_() for x in tensors]
        out = ops.video_sparse_attn_raster(*tensors, tensors[0], GRID, 3)
        out.square().sum().backward()
        results.append([out, *(x.grad for x in tensors)])
    assert all(torch.equal(a, b) for a, b in zip(*results))
