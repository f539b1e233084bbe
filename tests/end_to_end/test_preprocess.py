"""Clips and prompts to training rows, through the program."""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time

import numpy
import pyarrow.parquet
import pytest
from conftest import MODEL, binary, ffmpeg
from safetensors.numpy import load_file, save_file

SIZE = ["--num-frames", "5", "--max-height", "32", "--max-width", "32", "--train-fps", "8"]


def make_clip(path, number, frames=9, fps=8, size="48x36"):
    """A clip of a colour and a moving bar of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    source = f"color=c=#{40 + 15 * number:02x}{200 - 12 * number:02x}60:s={size}:r={fps}:d={frames / fps}"
    subprocess.run([ffmpeg(), "-v", "error", "-f", "lavfi", "-i", source, "-vf",
                    f"drawbox=x=mod(t*24\\,30):y={number % 20}:w=8:h=10:color=white:t=fill", "-frames:v", str(frames),
                    "-pix_fmt", "yuv420p", "-y", str(path)], check=True)


@pytest.fixture
def clips(tmp_path):
    """A merged folder of seven clips."""
    entries = []
    for i in range(7):
        name = f"{'sub/' if i % 2 else ''}clip{i}.{'webm' if i == 3 else 'mp4'}"
        make_clip(tmp_path / "set" / "videos" / name, i)
        entries.append({"path": name, "cap": [f"a small red circle number {i}", "unused"]})
    (tmp_path / "set" / "videos2caption.json").write_text(json.dumps(entries))
    return tmp_path / "set"


def words(out, *extra, path="set", kind="merged", task="t2v"):
    return ["preprocess", "-m", MODEL, "--dataset-path", path, "--dataset-type", kind, "--task", task,
            "--dataset-output-dir", out, *(SIZE if task != "text_only" else []), *extra]


def rows_in(folder):
    files = sorted(pathlib.Path(folder).rglob("*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def array(row, name):
    return numpy.frombuffer(row[f"{name}_bytes"], row[f"{name}_dtype"]).reshape(row[f"{name}_shape"])


def test_a_folder_of_clips_becomes_rows_that_pyarrow_reads(fastwan, tmp_path, clips):
    run = fastwan(*words("out", "--samples-per-file", "3", "--json"))
    assert run.status == 0, run
    report = json.loads(run.out)
    folder = pathlib.Path(report["path"])
    assert (report["rows"], report["inputs"], report["left_out"]) == (7, 7, {})
    assert sorted(p.name for p in (tmp_path / folder).iterdir()) == [
        "data_chunk_00000.parquet", "data_chunk_00001.parquet", "data_chunk_00002.parquet", "manifest.json"]
    rows = rows_in(tmp_path / folder)
    assert [row["id"] for row in rows] == [f"{'sub/' if i % 2 else ''}clip{i}" for i in range(7)]
    for i, row in enumerate(rows):
        latents, text = array(row, "vae_latent"), array(row, "text_embedding")
        assert latents.shape[1] == 2 == row["num_frames"] and latents.dtype == numpy.float32
        assert numpy.isfinite(latents).all() and latents.std() > 0
        assert text.ndim == 2 and 1 < text.shape[0] < 32 and numpy.isfinite(text).all()
        assert row["caption"] == f"a small red circle number {i}"
        assert (row["width"], row["height"], row["fps"], row["duration_sec"]) == (32, 32, 8.0, 5 / 8)
        assert row["media_type"] == "video" and row["file_name"].startswith(f"clip{i}.")
    assert not numpy.array_equal(array(rows[0], "vae_latent"), array(rows[1], "vae_latent"))
    verified = fastwan("preprocess", "verify", "out")
    assert verified.status == 0 and "7 rows in 3 files" in verified.out, verified
    decoded = fastwan("preprocess", "decode", "out", "-m", MODEL, "-o", "look", "--row", "2", "--count", "2")
    assert decoded.status == 0, decoded
    assert [pathlib.Path(line).name for line in decoded.out.split()] == ["row_2.mp4", "row_3.mp4"]
    assert (tmp_path / "look" / "row_3.mp4").stat().st_size > 500


def test_shards_together_give_the_rows_of_one_run(fastwan, tmp_path, clips):
    assert fastwan(*words("one", "--do-temporal-sample")).status == 0
    for shard in range(3):
        run = fastwan(*words("three", "--do-temporal-sample", "--preprocess.shard", f"{shard}/3"))
        assert run.status == 0, run
    assert sorted(p.name for p in (tmp_path / "three/combined_parquet_dataset").iterdir()) == [
        "worker_0", "worker_1", "worker_2"]
    assert rows_in(tmp_path / "three") == rows_in(tmp_path / "one")


def test_shards_of_one_folder_are_of_one_set_and_verify_misses_none(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("\ufeffa red circle\na blue circle\na green plus\n", encoding="utf-8")

    def prompts(*extra):
        return fastwan(*words("out", *extra, path="prompts.txt", kind="text", task="text_only"))

    assert prompts("--shard", "0/2").status == 0
    run = fastwan("preprocess", "verify", "out")
    assert run.status == 3 and "--shard 1/2 is missing; run it" in run.err, run
    assert fastwan("preprocess", "verify", "out/combined_parquet_dataset/worker_0").status == 0
    run = prompts("--shard", "2/3")  # rows of 0/2 would come again
    assert run.status == 8 and "begun with another --shard" in run.err, run
    run = prompts("--shard", "1/2", "--samples-per-file", "1")
    assert run.status == 8 and "begun with another --samples-per-file" in run.err, run
    assert prompts("--shard", "1/2").status == 0
    assert fastwan("preprocess", "verify", "out").status == 0
    assert [row["caption"] for row in rows_in(tmp_path / "out")] == ["a red circle", "a blue circle", "a green plus"]


def test_a_killed_run_goes_on_and_each_id_comes_once(fastwan, tmp_path, clips):
    expected = fastwan(*words("whole", "--samples-per-file", "2"))
    assert expected.status == 0, expected
    chance = random.Random(3)
    command = [str(w) for w in [binary(), *words("killed", "--samples-per-file", "2")]]
    first_chunk = tmp_path / "killed/combined_parquet_dataset/worker_0/data_chunk_00000.parquet"
    kills = 0
    for turn in range(12):
        process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "CI": "1"}, stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
        if turn == 0:  # the first kill falls between two chunks, on a machine of any speed
            while process.poll() is None and not first_chunk.exists():
                time.sleep(0.001)
        else:
            time.sleep(chance.uniform(0.1, 2.5))
        process.kill()
        process.wait()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL
        kills += 1
    last = fastwan(*words("killed", "--samples-per-file", "2", "--json"))
    assert last.status == 0, last
    assert kills > 0, "no run was killed"
    assert rows_in(tmp_path / "killed") == rows_in(tmp_path / "whole")
    assert json.loads(last.out)["rows"] == 7
    names = {p.name for p in (tmp_path / "killed/combined_parquet_dataset/worker_0").iterdir()}
    assert names == {"manifest.json", *(f"data_chunk_0000{n}.parquet" for n in range(4))}
    before = time.monotonic()
    again = fastwan(*words("killed", "--samples-per-file", "2", "--json"))
    assert json.loads(again.out)["rows_found"] == 7, again
    assert time.monotonic() - before < 60
    other = fastwan(*words("killed", "--samples-per-file", "2", "--seed", "5"))
    assert other.status == 8 and "error[exists]" in other.err, other


def test_what_is_left_out_is_counted_and_a_bad_clip_stops_or_is_skipped(fastwan, tmp_path, clips):
    make_clip(clips / "videos" / "short.mp4", 1, frames=3)
    make_clip(clips / "videos" / "long.mp4", 1, frames=40)
    (clips / "videos" / "bad.mp4").write_bytes(b"no video at all")
    entries = [{"path": "short.mp4", "cap": "x"}, {"path": "long.mp4", "cap": "x"}, {"path": "bad.mp4", "cap": "x"},
               {"path": "clip0.mp4", "cap": []}, {"path": "gone.mp4", "cap": "x"}, {"path": "clip2.mp4", "cap": "x"}]
    (clips / "videos2caption.json").write_text(json.dumps(entries))
    stopped = fastwan(*words("out", "--video-length-tolerance-range", "5"))
    assert stopped.status == 3 and "error[bad_media]" in stopped.err and "bad.mp4" in stopped.err, stopped
    skipped = fastwan(*words("out", "--video-length-tolerance-range", "5", "--on-bad-row", "skip", "--json"))
    assert skipped.status == 0, skipped
    report = json.loads(skipped.out)
    assert report["rows"] == 1
    assert report["left_out"] == {"bad_media": 1, "no caption": 1, "not_found": 1, "too long": 1, "too short": 1}
    limited = fastwan(*words("other", "--video-length-tolerance-range", "5", "--on-bad-row", "skip",
                             "--max-bad-rows", "2"))
    assert limited.status == 3 and "error[bad_dataset]" in limited.err, limited


def untyped(out, path, *extra, task="t2v"):
    given = words(out, *extra, path=path, task=task)
    at = given.index("--dataset-type")
    return given[:at] + given[at + 2:]


def test_the_type_of_a_dataset_is_what_its_path_is(fastwan, tmp_path, clips):
    entries = json.loads((clips / "videos2caption.json").read_text())
    (tmp_path / "list.JSON").write_text(json.dumps([{**e, "path": f"set/videos/{e['path']}"} for e in entries]))
    (tmp_path / "list.jsonl").write_text("\n".join(
        json.dumps({"video": f"set/videos/{e['path']}", "caption": e["cap"][0]}) for e in entries))
    for number, path in enumerate(("set", "set/videos2caption.json", "list.JSON", "list.jsonl")):
        run = fastwan(*untyped(f"out{number}", path))
        assert run.status == 0, run
    latents = [[row["vae_latent_bytes"] for row in rows_in(tmp_path / f"out{n}")] for n in range(4)]
    assert len(latents[0]) == 7 and all(other == latents[0] for other in latents[1:])
    assert rows_in(tmp_path / "out1") == rows_in(tmp_path / "out0")  # ids too
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    run = fastwan(*untyped("text", "prompts.txt", task="text_only"))
    assert run.status == 0, run
    (tmp_path / "list.JSON").rename(tmp_path / "clips.lst")
    unclear = fastwan(*untyped("out4", "clips.lst"))
    assert unclear.status == 2 and "error[bad_value]" in unclear.err, unclear
    assert all(name in unclear.err for name in ("merged (", "json (", "jsonl (", "text (")), unclear
    assert fastwan(*words("out4", path="clips.lst", kind="json")).status == 0  # the flag decides
    wrong = fastwan(*words("out5", path="set/videos2caption.json"))
    assert wrong.status == 2 and "error[conflict]" in wrong.err and "which is a file" in wrong.err, wrong


def test_clips_of_one_stem_are_rows_and_a_repeated_one_follows_on_bad_row(fastwan, tmp_path):
    make_clip(tmp_path / "a.mp4", 1)
    make_clip(tmp_path / "a.webm", 2)
    make_clip(tmp_path / "b.mp4", 3)
    names = ["a.mp4", "a.webm", "b.mp4"]
    list_of = lambda names: "\n".join(json.dumps({"video": name, "caption": "a circle"}) for name in names)
    (tmp_path / "list.jsonl").write_text(list_of(names))
    run = fastwan(*untyped("out", "list.jsonl"))
    assert run.status == 0, run
    assert [row["id"] for row in rows_in(tmp_path / "out")] == ["a.mp4", "a.webm", "b"]
    (tmp_path / "list.jsonl").write_text(list_of([*names, "a.mp4"]))
    stopped = fastwan(*untyped("other", "list.jsonl"))
    assert stopped.status == 3 and "list.jsonl:4: a.mp4 comes twice, first in" in stopped.err, stopped
    assert not (tmp_path / "other").exists()
    skipped = fastwan(*untyped("other", "list.jsonl", "--on-bad-row", "skip", "--json"))
    assert skipped.status == 0 and "list.jsonl:4: a.mp4 comes twice" in skipped.err, skipped
    assert json.loads(skipped.out)["left_out"] == {"bad_dataset": 1}
    assert rows_in(tmp_path / "other") == rows_in(tmp_path / "out")


def test_jsonl_i2v_and_prompts_alone(fastwan, tmp_path, clips):
    lines = [json.dumps({"video": f"set/videos/clip{i}.mp4", "caption": f"circle {i}"}) for i in (0, 2)]
    (tmp_path / "list.jsonl").write_text("\n".join(lines))
    run = fastwan(*words("i2v", path="list.jsonl", kind="jsonl", task="i2v"))
    assert run.status == 0, run
    rows = rows_in(tmp_path / "i2v")
    assert array(rows[0], "pil_image").shape == (32, 32, 3)
    assert array(rows[0], "first_frame_latent").shape == array(rows[0], "vae_latent").shape
    assert rows[0]["clip_feature_bytes"] == b""
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n")
    run = fastwan(*words("text", path="prompts.txt", kind="text", task="text_only"))
    assert run.status == 0, run
    texts = rows_in(tmp_path / "text")
    assert [(row["id"], row["caption"]) for row in texts] == [("prompt-0", "a red circle"), ("prompt-1", "a blue square")]
    shapes = {tuple(row["text_embedding_shape"]) for row in texts}
    assert len(shapes) == 1
    padded = array(texts[0], "text_embedding")
    assert (padded[-1] == 0).all() and (padded[0] != 0).any()


def test_synth_does_not_depend_on_the_number_of_shards_and_resumes(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"a red circle {i}\n" for i in range(5)))
    base = ["preprocess", "synth", "--teacher", MODEL, "--prompts", "prompts.txt", "--seed", "11", "--num-frames", "5",
            "--height", "32", "--width", "32"]
    assert fastwan(*base, "--out", "one", "--samples-per-file", "2").status == 0
    for shard in range(2):
        run = fastwan(*base, "--out", "two", "--shard", f"{shard}/2")
        assert run.status == 0, run
    one, two = rows_in(tmp_path / "one"), rows_in(tmp_path / "two")
    assert [row["id"] for row in one] == [f"prompt-{i}" for i in range(5)]
    assert one == two
    assert len({row["vae_latent_bytes"] for row in one}) == 5
    again = fastwan(*base, "--out", "one", "--samples-per-file", "2", "--json")
    assert json.loads(again.out)["rows_found"] == 5, again
    other = fastwan(*base, "--out", "one", "--samples-per-file", "2", "--VSA-sparsity", "0.25")
    assert other.status == 8, other


SYNTH = ["preprocess", "synth", "--seed", "11", "--num-frames", "5", "--height", "32", "--width", "32", "--prompts", "prompts.txt"]
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "dark")
SAMPLERS = [("unipc", "--sampler", "unipc", "--steps", "4", "--cfg", "3.5", "--negative-prompt", "a square"),
            ("dmd", "--sampler", "dmd", "--cfg", "1")]


def synth_rows(fastwan, out, *extra, model=MODEL):
    run = fastwan(*SYNTH, "--teacher", model, "--out", out, *extra, "--json")
    assert run.status == 0, run
    return json.loads(run.out)


def assert_rows_equal_but_for_rounding(got, wanted):
    """Latents of one model in fp32 in another order of sums: docs/numerics.md, whole pipelines, 1e-4 of the range."""
    assert [row["id"] for row in got] == [row["id"] for row in wanted]
    for a, b in zip(got, wanted):
        x, y = (array(row, "vae_latent").astype(float) for row in (a, b))
        assert numpy.abs(x - y).max() <= 1e-4 * (y.max() - y.min()), a["id"]
        for one in (a, b):
            one.pop("vae_latent_bytes")
        assert a == b  # the texts' bytes among them


@pytest.mark.parametrize("sampler", SAMPLERS, ids=[name for name, *_ in SAMPLERS])
def test_synth_rows_of_a_batch_are_those_of_single_clips(fastwan, tmp_path, sampler):
    (tmp_path / "prompts.txt").write_text("".join(f"a {colour} circle\n" for colour in COLOURS))  # 3 + 3 + 1
    settings = ["--samples-per-file", "2", *sampler[1:]]
    synth_rows(fastwan, "single", *settings, "--batch", "1")
    synth_rows(fastwan, "default", *settings, "--device", "cpu")
    single = rows_in(tmp_path / "single")
    assert rows_in(tmp_path / "default") == single
    assert synth_rows(fastwan, "three", *settings, "--batch", "3")["rows"] == len(COLOURS)
    assert_rows_equal_but_for_rounding(rows_in(tmp_path / "three"), rows_in(tmp_path / "single"))
    for shard in range(2):  # 4 and 3 rows: batches of 3, 1 and of 3
        synth_rows(fastwan, "shards", *settings, "--batch", "3", "--shard", f"{shard}/2")
    assert_rows_equal_but_for_rounding(rows_in(tmp_path / "shards"), rows_in(tmp_path / "single"))
    latents = [array(row, "vae_latent").astype(float) for row in single]
    for i, a in enumerate(latents):  # what the tolerance must tell apart
        for b in latents[:i]:
            assert numpy.abs(a - b).max() > 0.1 * (a.max() - a.min())


def test_synth_goes_on_in_the_middle_with_another_batch(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"a {colour} circle\n" for colour in COLOURS))
    settings = ["--samples-per-file", "2", *SAMPLERS[0][1:]]
    synth_rows(fastwan, "out", *settings, "--batch", "3")
    before, folder = rows_in(tmp_path / "out"), tmp_path / "out/combined_parquet_dataset/worker_0"
    for number in (1, 2, 3):
        (folder / f"data_chunk_0000{number}.parquet").unlink()
    report = synth_rows(fastwan, "out", *settings, "--batch", "2")  # rows 2 to 6: 2 + 2 + 1
    assert (report["rows"], report["rows_found"]) == (7, 2)
    after = rows_in(tmp_path / "out")
    assert after[:2] == before[:2]
    assert_rows_equal_but_for_rounding(after, before)


EULER = ["--sampler", "euler", "--cfg", "1", "--shift", "3", "--batch", "1"]


def trajectory_of(row):
    """(latents [K + 1, C, T, H, W], timesteps [K + 1]) as float64."""
    return tuple(array(row, f"trajectory_{name}").astype(float) for name in ("latents", "timesteps"))


def test_synth_keeps_the_states_of_the_teachers_path_and_its_end(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"a {colour} circle\n" for colour in COLOURS[:3]))
    synth_rows(fastwan, "paths", *EULER, "--steps", "3", "--ode-timesteps", "1000,700")
    synth_rows(fastwan, "ends", *EULER, "--steps", "3")
    synth_rows(fastwan, "one", *EULER, "--steps", "1")
    paths, ends, one = (rows_in(tmp_path / name) for name in ("paths", "ends", "one"))
    vae = json.loads((MODEL / "vae/config.json").read_text())
    mean, std = (numpy.array(vae[name]).reshape(-1, 1, 1, 1) for name in ("latents_mean", "latents_std"))
    assert "vae_latent_bytes" not in paths[0] and paths[0]["media_type"] == "video"
    for path, end, single in zip(paths, ends, one):
        assert path["id"] == end["id"] and path["text_embedding_bytes"] == end["text_embedding_bytes"]
        states, timesteps = trajectory_of(path)
        assert states.shape == (3, *array(end, "vae_latent").shape)
        assert timesteps[0] == 1000 and 600 < timesteps[1] < 900 and timesteps[2] == 0
        normalised = lambda row: (array(row, "vae_latent").astype(float) - mean) / std
        assert numpy.abs(states[2] - normalised(end)).max() <= 1e-6 * numpy.abs(states[2]).max()
        # The path's first step, from the velocity that a path of one step tells: its end is noise - velocity.
        noise, velocity = states[0], states[0] - normalised(single)
        assert numpy.abs(states[1] - (noise + (timesteps[1] / 1000 - 1) * velocity)).max() < 1e-5
        assert abs(noise.mean()) < 0.2 and abs(noise.std() - 1) < 0.2
    assert len({row["trajectory_latents_bytes"] for row in paths}) == 3
    told = fastwan("preprocess", "inspect", "paths", "--json")
    assert json.loads(told.out)["columns"]["trajectory_timesteps"] == "float32 [3]", told
    verified = fastwan("preprocess", "verify", "paths")
    assert verified.status == 0 and "3 rows in 1 files are whole" in verified.out, verified
    shown = [fastwan("preprocess", "decode", name, "-m", MODEL, "-o", f"look-{name}", "--row", "1") for name in ("paths", "ends")]
    assert all(run.status == 0 for run in shown), shown


def test_trajectories_do_not_depend_on_shards_and_their_runs_resume(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("".join(f"a {colour} circle\n" for colour in COLOURS[:5]))
    settings = ["--sampler", "unipc", "--steps", "4", "--cfg", "3.5", "--shift", "3", "--batch", "1", "--samples-per-file", "2"]
    paths = [*settings, "--ode-timesteps", "1000,757,522"]
    synth_rows(fastwan, "one", *paths)
    for shard in range(2):
        synth_rows(fastwan, "two", *paths, "--shard", f"{shard}/2")
    whole = rows_in(tmp_path / "one")
    assert rows_in(tmp_path / "two") == whole and [row["id"] for row in whole] == [f"prompt-{i}" for i in range(5)]
    (tmp_path / "one/combined_parquet_dataset/worker_0/data_chunk_00001.parquet").unlink()
    assert synth_rows(fastwan, "one", *paths)["rows_found"] == 2
    assert rows_in(tmp_path / "one") == whole
    for other in ([*settings, "--ode-timesteps", "1000,500"], settings):
        run = fastwan(*SYNTH, "--teacher", MODEL, "--out", "one", *other)
        assert run.status == 8 and "another --ode-timesteps" in run.err, run


def test_verify_tells_what_a_trajectory_lacks(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\na blue circle\n")
    synth_rows(fastwan, "out", *EULER, "--steps", "2", "--ode-timesteps", "1000")
    file = next((tmp_path / "out").rglob("*.parquet"))
    table = pyarrow.parquet.read_table(file)
    column = table.column_names.index("trajectory_timesteps_bytes")
    emptied = table.set_column(column, table.schema.field(column), [[table.column(column)[0].as_py(), b""]])
    pyarrow.parquet.write_table(emptied, tmp_path / "bad.parquet")
    run = fastwan("preprocess", "verify", "bad.parquet")
    assert run.status == 3 and "row 1: trajectory_timesteps is empty" in run.err, run


@pytest.mark.parametrize("given,code,told", [
    (["--ode-timesteps", "522,757"], "bad_value", "--ode-timesteps must be whole numbers that fall"),
    (["--steps", "2", "--ode-timesteps", "1000,990"], "bad_value", "nearest to two of those"),
    (["--ode-timesteps", "1000", "--sampler", "dmd"], "conflict", "--ode-timesteps needs a sampler that follows")])
def test_a_trajectory_that_cannot_be_is_refused(fastwan, tmp_path, given, code, told):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    run = fastwan(*SYNTH, "--teacher", MODEL, "--out", "out", "--cfg", "1", *([] if "dmd" in given else ["--sampler", "euler"]), *given)
    assert f"error[{code}]" in run.err and told in run.err, run


def test_synth_names_the_one_prompt_of_a_batch_that_gives_no_clip(fastwan, tmp_path):
    # Finite weights with which one word's embedding overflows: its token is all in one channel, so that the last norm makes
    # 8 of it (the root of 64 channels), and that norm's weight is 6e37 there. Other words stay finite, and the transformer
    # does not listen to the channel: 0 times it is 0 for them, NaN for that word.
    shutil.copytree(MODEL, tmp_path / "model")
    file, other_file = (tmp_path / "model" / name for name in (
        "text_encoder/model.safetensors", "transformer/diffusion_pytorch_model.safetensors"))
    weights, transformer = load_file(file), load_file(other_file)
    vocabulary = [piece for piece, _ in json.loads((MODEL / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]]
    for piece in ("q", "qu"):  # of "square" and no other word below
        weights["shared.weight"][vocabulary.index(piece), 0] = 1e18
    weights["encoder.final_layer_norm.weight"][0] = 6e37
    transformer["condition_embedder.text_embedder.linear_1.weight"][:, 0] = 0
    save_file(weights, file, metadata={"format": "pt"})
    save_file(transformer, other_file, metadata={"format": "pt"})
    (tmp_path / "prompts.txt").write_text("a red circle\na red triangle\na red square\na blue circle\na blue square\n")
    run = fastwan(*SYNTH, "--teacher", "model", "--out", "out", "--batch", "4")
    assert run.status == 6 and "error[non_finite]" in run.err, run
    assert "prompt-2 (a red square)" in run.err, run
    assert not any(f"prompt-{other} " in run.err for other in (0, 1, 3, 4)), run
    (tmp_path / "prompts.txt").write_text("a red circle\na red triangle\n")
    assert fastwan(*SYNTH, "--teacher", "model", "--out", "whole", "--batch", "4").status == 0


BAD = [
    (words("out", "--shard", "2/2"), "bad_value", "--shard"),
    (words("out", path="set", task="i2v")[:-8] + ["--num-frames", "8"], "bad_value", "--num-frames"),
    (words("out", task="t3v"), "bad_value", "--task"),
    (words("out", kind="text"), "conflict", "text_only"),
    (words("out", path="absent"), "not_found", "absent"),
    (words("out", "--drop-short-ratio", "1.5"), "bad_value", "--drop-short-ratio"),
    (words("out", "--num-frames", "9"), "conflict", "--num-frames is given 2 times"),
    (["preprocess", "inspect", "absent"], "not_found", "absent"),
    (["preprocess", "synth", "--teacher", MODEL, "--prompts", "p.txt"], "usage", "--out"),
    (["preprocess", "synth", "--teacher", MODEL, "--prompts", "p.txt", "--out", "o", "--batch", "-1"], "bad_value", "--batch"),
    (["preprocess", "synth", "--teacher", MODEL, "--prompts", "p.txt", "--out", "o", "--batch", "1025"], "bad_value", "--batch"),
]


def save_lora(path, scale):
    """A LoRA file of the first block's query."""
    width = json.loads((MODEL / "transformer/config.json").read_text())
    size = width["num_attention_heads"] * width["attention_head_dim"]
    key = "transformer.blocks.0.attn1.to_q.lora_{}.weight"
    save_file({key.format("A"): numpy.full((1, size), scale, numpy.float32),
               key.format("B"): numpy.ones((size, 1), numpy.float32)}, path)


def change_vae_mean(model):
    config = json.loads((model / "vae/config.json").read_text())
    config["latents_mean"][0] += 0.5
    (model / "vae/config.json").write_text(json.dumps(config))


def change_tokenizer(model):
    config = json.loads((model / "tokenizer/tokenizer.json").read_text())
    config["model"]["vocab"][-1][1] -= 1.0
    (model / "tokenizer/tokenizer.json").write_text(json.dumps(config))


def change_weights(part):
    """Another value under the same names and shapes: what a header does not tell."""
    def change(model):
        (file,) = (model / part).glob("*.safetensors")
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    return change


CHANGES = [("VAE config", change_vae_mean), ("tokenizer", change_tokenizer), ("--lora", lambda model: save_lora(model / "l.safetensors", 0.02)),
           ("transformer", change_weights("transformer")), ("text encoder", change_weights("text_encoder"))]


@pytest.fixture
def made(fastwan, tmp_path):
    """Rows of a teacher with a LoRA, and the command that made them."""
    shutil.copytree(MODEL, tmp_path / "model")
    save_lora(tmp_path / "model/l.safetensors", 0.01)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    command = [*SYNTH, "--teacher", "model", "--lora", "model/l.safetensors", "--out", "out"]
    run = fastwan(*command)
    assert run.status == 0, run
    return command


@pytest.mark.parametrize("name,change", CHANGES, ids=[name for name, _ in CHANGES])
def test_synth_refuses_to_go_on_with_another_part_of_the_model_and_names_it(fastwan, tmp_path, made, name, change):
    change(tmp_path / "model")
    other = fastwan(*made)
    assert other.status == 8 and "error[exists]" in other.err and f"begun with another {name}. Choose" in other.err, other


def test_synth_goes_on_where_only_places_and_what_takes_no_part_changed(fastwan, tmp_path, made):
    (tmp_path / "model").rename(tmp_path / "moved")
    change_weights("vae")(tmp_path / "moved")  # nothing is decoded
    again = fastwan(*["moved" + word[5:] if word.startswith("model") else word for word in made], "--json")
    assert again.status == 0 and json.loads(again.out)["rows_found"] == 1, again


def test_preprocess_refuses_to_go_on_with_another_tokenizer_or_weights(fastwan, tmp_path):
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    command = ["preprocess", "-m", "model", "--dataset-path", "prompts.txt", "--dataset-type", "text", "--task", "text_only",
               "--dataset-output-dir", "out"]
    assert fastwan(*command).status == 0
    change_weights("text_encoder")(tmp_path / "model")
    change_tokenizer(tmp_path / "model")
    other = fastwan(*command)
    assert other.status == 8 and "begun with another text encoder, tokenizer. Choose" in other.err, other


ONLY_OF_VIDEOS = [
    ["--num-videos-per-prompt", "2"], ["--noise", "n.safetensors"], ["--load-latents", "l.safetensors"],
    ["--prompt-embeds", "e.safetensors"], ["--contact-sheet", "s.png"], ["--save-frames", "f.safetensors"],
    ["--save-latents", "l.safetensors"], ["--save-embeds", "e.safetensors"], ["--output", "a.mp4"], ["--output-path", "d"],
    ["--output-video-name", "a"], ["--report", "r.json"], ["--overwrite"], ["--crf", "20"], ["--metadata", "none"],
    ["--vae-tiling"], ["--vae-precision", "fp32"], ["--fit", "pad"], ["--image", "a.png"]]


@pytest.mark.parametrize("given", ONLY_OF_VIDEOS, ids=[given[0] for given in ONLY_OF_VIDEOS])
def test_synth_refuses_a_flag_that_is_only_of_videos(fastwan, tmp_path, given):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    run = fastwan(*SYNTH, "--teacher", MODEL, "--out", "out", *given)
    assert run.status == 2 and "error[conflict]" in run.err and f"synth does not take {given[0]}:" in run.err, run
    assert not (tmp_path / "out").exists()
    assert f"{given[0]} " not in fastwan("preprocess", "synth", "--help").out


def test_synth_refuses_such_flags_in_any_spelling_and_all_at_once(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    run = fastwan(*SYNTH, "--teacher", MODEL, "--out", "out", "-o", "a.mp4", "--request.output.report=r.json")
    assert run.status == 2 and "--output, --report" in run.err, run


@pytest.mark.parametrize("arguments,code,part", BAD, ids=[f"{code}-{part}" for _, code, part in BAD])
def test_bad_usage_of_preprocess(fastwan, tmp_path, arguments, code, part):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "videos2caption.json").write_text('[{"path": "a.mp4", "cap": "a"}]')
    run = fastwan(*arguments)
    assert f"error[{code}]" in run.err and part in run.err, run
    assert run.status in (2, 3, 4), run
