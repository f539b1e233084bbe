"""fastwan for Python: the operators of libfastwan_ops.so, and FastVideo's entry to video sparse attention.

`import fastwan` registers `torch.ops.fastwan.*`. A script that has

    from fastvideo_kernel import video_sparse_attn

trains and samples with these operators after changing that line to

    from fastwan import video_sparse_attn
"""
import os
import pathlib

import torch

__all__ = ["video_sparse_attn", "library_folder"]


def library_folder():
    """Where the libraries are: FASTWAN_LIB_DIR, else beside this file."""
    return pathlib.Path(os.environ.get("FASTWAN_LIB_DIR") or pathlib.Path(__file__).parent / "lib")


torch.ops.load_library(str(library_folder() / "libfastwan_ops.so"))
_CUDA_OPERATORS = library_folder() / "libfastwan_ops_cuda.so"
if torch.version.cuda and torch.cuda.is_available() and _CUDA_OPERATORS.exists():
    torch.ops.load_library(str(_CUDA_OPERATORS))


def video_sparse_attn(q, k, v, variable_block_sizes, q_variable_block_sizes, topk, block_size=(4, 4, 4),
                      compress_attn_weight=None):
    """FastVideo's call: q, k, v, compress_attn_weight [B, H, S, D] in tile order, sizes in tokens a tile.

    `compress_attn_weight` left out adds the coarse branch with weight 1. An integer block_size is the side of
    a cube. Rows of out beyond a query tile's size hold no fine term.
    """
    if isinstance(block_size, int):
        block_size = (block_size,) * 3
    return torch.ops.fastwan.video_sparse_attn(q, k, v, variable_block_sizes, q_variable_block_sizes, topk,
                                               list(block_size), compress_attn_weight)
