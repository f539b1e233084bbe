"""`fastwan eval`: folders of videos measured against each other, driven as a user does."""
import json
import os
import subprocess

import numpy
from safetensors.numpy import save_file

from conftest import binary, small


def clip(seed, frames=5, size=32):
    rng = numpy.random.default_rng(seed)
    return rng.random((frames, 3, size, size), dtype=numpy.float32)


def test_list_names_every_metric(fastwan):
    run = fastwan("eval", "list", "--json")
    assert run.status == 0, run
    names = [metric["name"] for metric in json.loads(run.out)]
    assert names[:3] == ["psnr", "ssim", "mse"] and "frechet" in names


def test_run_measures_pairs_of_a_folder_and_writes_a_report(fastwan, tmp_path):
    for folder, scale in (("a", 0.5), ("b", 1.0)):
        (tmp_path / folder).mkdir()
        for seed in (1, 2):
            save_file({"frames": clip(seed) * numpy.float32(scale)}, tmp_path / folder / f"clip{seed}.safetensors")
    run = fastwan("eval", "run", "--videos", "a", "--reference", "b", "--metrics", "mse,flicker", "-o", "out", "--json")
    assert run.status == 0, run
    document = json.loads(run.out)
    wanted = numpy.mean([((clip(seed).astype(float) * 0.5) ** 2).mean() for seed in (1, 2)])
    assert abs(document["metrics"]["mse"]["value"] - wanted) < 1e-6
    assert [pair["name"] for pair in document["pairs"]] == ["clip1", "clip2"]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["metrics"]["mse"] == document["metrics"]["mse"]
    assert (tmp_path / "out" / "report.html").read_text().startswith("<!doctype html>")


def test_the_table_shows_the_psnr_of_equal_videos(fastwan, tmp_path):
    (tmp_path / "a").mkdir()
    save_file({"frames": clip(1)}, tmp_path / "a" / "x.safetensors")
    run = fastwan("eval", "run", "--videos", "a", "--reference", "a", "--metrics", "psnr", "-o", "out")
    assert run.status == 0 and [line.split() for line in run.out.splitlines()][1] == ["psnr", "infinite"], run
    assert "<td>psnr</td><td>infinite</td>" in (tmp_path / "out" / "report.html").read_text()


def test_metrics_of_videos_alone_need_no_reference(fastwan, tmp_path):
    (tmp_path / "a").mkdir()
    save_file({"frames": clip(1)}, tmp_path / "a" / "x.safetensors")
    run = fastwan("eval", "run", "--videos", "a", "--metrics", "flicker", "-o", "out", "--json")
    assert run.status == 0, run
    document = json.loads(run.out)
    frames = clip(1).astype(float)
    wanted = numpy.abs(frames[2:] - 2 * frames[1:-1] + frames[:-2]).mean()
    assert abs(document["metrics"]["flicker"]["value"] - wanted) < 1e-5 * wanted
    assert document["reference"] is None and "floor" not in document["metrics"]["flicker"]
    table = fastwan("eval", "run", "--videos", "a", "--metrics", "flicker")
    assert table.status == 0 and "flicker" in table.out, table
    save_file({"frames": clip(1)[None], "codes": numpy.zeros(1, numpy.int64)}, tmp_path / "coded.safetensors")
    coded = fastwan("eval", "run", "--videos", "coded.safetensors", "--metrics", "attributes,flicker", "--json")
    assert coded.status == 0, coded
    assert json.loads(coded.out)["metrics"]["attributes"]["against"] == "codes"


def test_run_reads_what_generate_writes(fastwan, tmp_path):
    (tmp_path / "v").mkdir()
    assert fastwan(*small("-o", tmp_path / "v" / "clip.mp4", "--save-frames", tmp_path / "clip.safetensors")).status == 0
    (tmp_path / "r").mkdir()
    (tmp_path / "clip.safetensors").rename(tmp_path / "r" / "clip.safetensors")
    run = fastwan("eval", "run", "--videos", "v", "--reference", "r", "--metrics", "psnr,ssim", "--json")
    assert run.status == 0, run
    assert json.loads(run.out)["metrics"]["ssim"]["value"] > 0.5  # H.264 with half the chroma of a noisy picture


def test_a_long_video_is_not_held_many_times_over(tmp_path):
    """50 MB as floats: two of them and frames in fp64 beside torch's 200 MB; whole in fp64 SSIM took 2.2 GB, squared error 640 MB."""
    for folder, seed in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        frames = numpy.random.default_rng(seed).integers(0, 256, (64, 3, 256, 256), dtype=numpy.uint8)
        save_file({"frames": frames}, tmp_path / folder / "x.safetensors")
    run = subprocess.Popen([str(binary()), "eval", "run", "--videos", "a", "--reference", "b"], cwd=tmp_path, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(run.pid, 0)
    assert status == 0 and usage.ru_maxrss < 450e3, usage


def test_numbers_that_did_not_arrive_are_no_success(tmp_path):
    (tmp_path / "a").mkdir()
    save_file({"frames": clip(1)}, tmp_path / "a" / "x.safetensors")
    for words in (["eval", "run", "--videos", "a", "--metrics", "flicker", "--json"], ["eval", "list"], ["--help"]):
        with open("/dev/full", "w") as full:
            run = subprocess.run([str(binary()), *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
        assert run.returncode == 5 and "error[disk_full]: cannot write standard output" in run.stderr, run
    reader, writer = os.pipe()  # who stops reading is no fault
    os.close(reader)
    run = subprocess.run([str(binary()), "eval", "run", "--videos", "a", "--metrics", "flicker", "--json"], cwd=tmp_path, stdout=writer,
                         stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert run.returncode == 0 and "error" not in run.stderr, run


def test_mistakes_have_codes(fastwan, tmp_path):
    (tmp_path / "a").mkdir()
    save_file({"frames": clip(1)}, tmp_path / "a" / "x.safetensors")
    for words, status, message in (
            (["eval"], 2, "list"), (["eval", "walk"], 2, "walk"), (["eval", "run"], 2, "--videos"),
            (["eval", "run", "--videos", "a", "--reference", "none"], 4, "does not exist"),
            (["eval", "run", "--videos", "a"], 2, "--metrics psnr compares videos of equal names: add --reference"),
            (["eval", "run", "--videos", "a", "--metrics", "flicker,mse"], 2, "--metrics mse"),
            (["eval", "run", "--videos", "a", "--metrics", "attributes"], 2, "`codes`"),
            (["eval", "run", "--videos", "a", "--reference", "a", "--metrics", "vmaf"], 2, "vmaf"),
            (["eval", "run", "--videos", "a", "--reference", "a", "--metrics", "kid", "--features", "x"], 4, "x"),
            (["eval", "run", "--videos", "/nope"], 4, "/nope"),
            (["eval", "run", "--videos", "a", "--metrics", ""], 2, "--metrics names no metric"),
            (["eval", "run", "--videos", "a", "--metrics", " , "], 2, "--metrics names no metric"),
            (["eval", "run", "--videos", "a", "--reference", "a", "--fps", "-1"], 2, "--fps"),
            (["eval", "run", "--videos", "a", "--metrics", "flicker", "--fps", "nan"], 2, "--fps")):
        run = fastwan(*words)
        assert run.status == status and message in run.err, run
        assert run.err.startswith("error["), run
