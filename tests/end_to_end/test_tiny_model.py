"""models/tiny-shapes: what `make demo` shows is what its prompt says."""
import json
import os
import subprocess
import sys

import numpy
from safetensors.numpy import save_file

from conftest import MODEL as RANDOM
from conftest import PROMPT, ROOT, Mp4, binary

MODEL = ROOT / "models" / "tiny-shapes"


def judge(model):
    return subprocess.run([sys.executable, ROOT / "tools" / "train_tiny", "--judge", model, "--device", "cpu"], capture_output=True,
                          text=True, timeout=300, env={**os.environ, "FASTWAN_BIN": str(binary()), "CI": "1"})


def test_eight_of_ten_prompts_come_out_right():
    run = judge(MODEL)
    assert run.returncode == 0, run.stdout + run.stderr


def test_random_weights_do_not_pass_for_a_trained_model():
    run = judge(RANDOM)
    assert run.returncode == 1 and run.stdout.startswith("0 of 10"), run.stdout + run.stderr


def test_it_is_small_enough_for_a_repository():
    files = [file for file in MODEL.rglob("*") if file.is_file() and not file.is_symlink()]
    assert sum(file.stat().st_size for file in files) <= 20_000_000


def test_its_defaults_make_the_clip_that_it_was_trained_on(fastwan, tmp_path):
    preset = json.loads((MODEL / "fastwan.json").read_text())
    run = fastwan("generate", "-m", MODEL, "-p", PROMPT, "-o", "a.mp4", "--json")
    assert run.status == 0 and not json.loads(run.out)["warnings"], run
    clip = Mp4(tmp_path / "a.mp4")
    assert (clip.width, clip.height, clip.frames) == (preset["width"], preset["height"], preset["num_frames"])


def test_eval_takes_its_feature_net_where_none_is_named(fastwan, tmp_path):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        for number in range(4):
            frames = numpy.random.default_rng(number).random((5, 3, 32, 32), numpy.float32)
            save_file({"frames": frames}, tmp_path / folder / f"{number}.safetensors")
    words = ["eval", "run", "--videos", "a", "--reference", "b", "--metrics", "frechet", "--json"]
    found = fastwan(*words)
    named = fastwan(*words, "--features", MODEL / "features" / "model.safetensors")
    assert found.status == named.status == 0, found
    assert json.loads(found.out)["metrics"] == json.loads(named.out)["metrics"]
