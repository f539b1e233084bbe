"""The package `fastwan`: FastVideo's call, from a build folder and from the wheel."""
import os
import pathlib
import subprocess
import sys

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "python"))
from fastwan import video_sparse_attn  # noqa: E402

SIZES = torch.tensor([64, 64, 32, 8])


def inputs():
    torch.manual_seed(6)
    return [torch.randn(1, 2, 256, 64) for _ in "qkvw"]


def test_call_takes_fastvideos_arguments_by_place_and_by_name():
    q, k, v, weight = inputs()
    want = torch.ops.fastwan.video_sparse_attn(q, k, v, SIZES, SIZES, 2, [4, 4, 4], weight)
    by_place = video_sparse_attn(q, k, v, SIZES, SIZES, 2, (4, 4, 4), weight)
    by_name = video_sparse_attn(q, k, v, variable_block_sizes=SIZES, q_variable_block_sizes=SIZES, topk=2, block_size=4,
                                compress_attn_weight=weight)
    assert torch.equal(by_place, want) and torch.equal(by_name, want)


def test_absent_weight_adds_the_coarse_branch_with_weight_one():
    q, k, v, _ = inputs()
    with_ones = video_sparse_attn(q, k, v, SIZES, SIZES, 2, compress_attn_weight=torch.ones_like(q))
    assert torch.equal(video_sparse_attn(q, k, v, SIZES, SIZES, 2), with_ones)
    assert not torch.equal(video_sparse_attn(q, k, v, SIZES, SIZES, 2, compress_attn_weight=torch.zeros_like(q)), with_ones)


def test_bad_topk_is_a_value_error():
    q, k, v, _ = inputs()
    with pytest.raises(ValueError, match="topk must lie between 1 and the number of key tiles, 4, got 5"):
        video_sparse_attn(q, k, v, SIZES, SIZES, 5)


@pytest.mark.parametrize("change, message", [
    (dict(k=torch.zeros(1, 2, 255, 64)), r"k must be \[B=1, H=2, S=4 tiles x 64=256, D=64\], got \[1, 2, 255, 64\]"),
    (dict(v=torch.zeros(1, 2, 192, 64)), r"v must be \[B=1, H=2, S=4 tiles x 64=256, D=64\], got \[1, 2, 192, 64\]"),
    (dict(k=torch.zeros(1, 3, 256, 64)), r"k must be \[B=1, H=2, .*\], got \[1, 3, 256, 64\]"),
    (dict(block_size=(4, 4, 8)), r"q must be \[B=1, H=2, S=4 tiles x 128=512, D=64\], got \[1, 2, 256, 64\]"),
    (dict(block_size=(4, -4, -4)), r"block_size must be at least 1x1x1, got \[4, -4, -4\]"),
    (dict(k=torch.zeros(1, 2, 256, 64, dtype=torch.bfloat16)), "k must have the type of q, float, got c10::BFloat16"),
    (dict(q=torch.zeros(1, 2, 256, 64, dtype=torch.long)), "q must be float16, bfloat16, float32 or float64, got long"),
    (dict(variable_block_sizes=SIZES.float()), "variable_block_sizes must hold integers, got float"),
    (dict(compress_attn_weight=torch.zeros(1, 2, 255, 64)), "compress_attn_weight must be like q or 1 in each dimension, "),
], ids=str)
def test_bad_input_names_the_callers_argument(change, message):
    q, k, v, weight = inputs()
    arguments = dict(q=q, k=k, v=v, variable_block_sizes=SIZES, q_variable_block_sizes=SIZES, topk=2, compress_attn_weight=weight)
    with pytest.raises(ValueError, match="video_sparse_attn: " + message):
        video_sparse_attn(**(arguments | change))


def test_other_tiles_other_numbers_of_keys_and_a_broadcast_weight():
    q, k, v, weight = inputs()
    sizes, key_sizes = torch.tensor([128, 100]), torch.tensor([64, 3])
    assert video_sparse_attn(q, k, v, sizes, sizes, 1, (4, 4, 8)).isfinite().all()
    assert video_sparse_attn(q, k[:, :, :128], v[:, :, :128], key_sizes, SIZES, 1).isfinite().all()
    column = weight[..., :1]
    assert torch.equal(video_sparse_attn(q, k, v, SIZES, SIZES, 2, compress_attn_weight=column),
                       video_sparse_attn(q, k, v, SIZES, SIZES, 2, compress_attn_weight=column.expand_as(q)))


def test_wheel_installs_and_runs_without_the_build_folder(tmp_path):
    build = pathlib.Path(os.environ["FASTWAN_LIB_DIR"]).parent
    subprocess.run([sys.executable, "tools/make_wheel", str(build), str(tmp_path), "--operators-only"], cwd=ROOT, check=True)
    wheel, = tmp_path.glob("*.whl")
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target",
                    str(tmp_path / "site"), str(wheel)], check=True)
    environment = {k: v for k, v in os.environ.items() if k != "FASTWAN_LIB_DIR"} | {"PYTHONPATH": str(tmp_path / "site")}
    code = "import fastwan, torch; print(fastwan.__file__, torch.ops.fastwan.vsa_topk(.8, 624))"
    printed = subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert printed.stdout.split() == [str(tmp_path / "site" / "fastwan" / "__init__.py"), "125"]


def test_the_command_becomes_the_program_without_torch(tmp_path):
    """As in site-packages, with a script in the program's place and a torch that must not be imported."""
    (tmp_path / "fastwan" / "bin").mkdir(parents=True)
    (tmp_path / "fastwan_program.py").write_text((ROOT / "python" / "fastwan_program.py").read_text())
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "imageio_ffmpeg.py").write_text("def get_ffmpeg_exe():\n    return '/wheel/ffmpeg'\n")
    program = tmp_path / "fastwan" / "bin" / "fastwan"
    program.write_text("#!/bin/sh\necho \"$FASTWAN_FFMPEG_BIN\" \"$@\"\nexit 7\n")
    program.chmod(0o755)
    code = "import fastwan_program; fastwan_program.main()"
    environment = {"PATH": "/nowhere", "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code, "inspect", "a b"], env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (7, "/wheel/ffmpeg inspect a b\n", "")
    environment["FASTWAN_FFMPEG_BIN"] = "/mine"
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert run.stdout.split() == ["/mine"]
