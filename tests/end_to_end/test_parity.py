"""tools/parity.py on folders that no golden holds: a user checks real weights with the same program."""
import json
import subprocess
import sys

import pytest

from conftest import MODEL, ROOT, binary


def parity(*words):
    run = subprocess.run([sys.executable, ROOT / "tools" / "parity.py", "--binary", binary(), "--json", *words],
                         capture_output=True, text=True, timeout=300)
    assert run.stdout, run.stderr
    return run.returncode, json.loads(run.stdout)


def make(folder, *words):
    subprocess.run([sys.executable, ROOT / "tools" / "make_random_model", *words, folder], check=True, timeout=300,
                   capture_output=True)
    return folder


def test_the_random_model_agrees_stage_by_stage():
    status, report = parity("--model", MODEL, "--width", "64", "--height", "48")
    assert status == 0, report
    assert [row["stage"] for row in report["rows"]][-4:] == ["latents", "frames", "latents", "frames"]
    assert all(0 < row["of_range"] < row["limit"] for row in report["rows"] if row["stage"] != "text"), report


@pytest.mark.slow  # a model is made first
def test_two_experts_agree_with_a_second_scale_below_one(tmp_path):
    folder = make(tmp_path / "model", "--kind", "a14b", "--seed", "11")
    status, report = parity("--model", folder, "--guidance-scale", "4", "--guidance-scale-2", "0.5")
    assert status == 0, report


def test_a_wrong_answer_is_beyond_the_limits(tmp_path):
    """The negative control: a program that samples at another shift than it was told."""
    program = tmp_path / "fastwan"
    program.write_text('#!/bin/sh\nfor word; do shift; [ "$last" = --flow-shift ] && word=4; set -- "$@" "$word"; last=$word; done\n'
                       f'exec "{binary()}" "$@"\n')
    program.chmod(0o755)
    run = subprocess.run([sys.executable, ROOT / "tools" / "parity.py", "--binary", program, "--model", MODEL,
                          "--width", "64", "--height", "48"], capture_output=True, text=True, timeout=300)
    assert run.returncode == 1, run.stdout + run.stderr
    assert "BEYOND" in run.stdout
