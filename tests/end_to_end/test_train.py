"""`fastwan train`, as a user drives it: loss, stop and resume, exports that generate and that diffusers loads."""
import fcntl
import hashlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy
import pytest

from conftest import MODEL, PROMPT, ROOT, Mp4, binary
from test_rows import put, write

STEPS = 20

RECIPE = """
models:
  student: {{_target_: wan, init_from: {model}, init: {init}, attention_backend: {attention}, flow_shift: 3.0}}
{more_models}
method:
{method}
training:
  model_path: {model}
  data:
    source: shapes
    shapes: {{seed: 3, count: 16}}
    train_batch_size: 2
    num_frames: 9
    num_height: 32
    num_width: 32
    text_len: 32
    seed: 5
  optimizer: {{learning_rate: {rate}, lr_scheduler: constant}}
  loop: {{max_train_steps: {steps}, gradient_accumulation_steps: 2}}
  checkpoint: {{output_dir: run, training_state_checkpointing_steps: {every}}}
  tracker: {{trackers: [jsonl, tensorboard]}}
{vsa}
  compute_dtype: fp32
callbacks:
  ema: {{decay: 0.9}}
pipeline: {{negative_prompt: ""}}
"""

FINETUNE = dict(init="random", attention="dense", more_models="", method="  _target_: finetune", rate="2e-3", vsa="",
                steps=STEPS, every=4)
DISTILL = dict(
    init="pretrained", attention="vsa", rate="1e-4", vsa="  vsa: {sparsity: 0.5}", steps=12, every=3,
    more_models=f"  teacher: {{_target_: wan, init_from: {MODEL}, trainable: false, attention_backend: dense}}\n"
                f"  critic: {{_target_: wan, init_from: {MODEL}, attention_backend: dense}}\n",
    method="  _target_: distill\n  rollout_mode: simulate\n  generator_update_interval: 3\n"
           "  dmd_denoising_steps: [1000, 757, 522]\n  real_score_guidance_scale: 3.5\n"
           "  fake_score_learning_rate: 4e-4\n")


def write_recipe(folder, settings, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    values = {"model": MODEL, **settings, **changes}
    (folder / "recipe.yaml").write_text(RECIPE.format(**values))


def train(fastwan, folder, *extra, **options):
    return fastwan("train", "--config", "recipe.yaml", "--device", "cpu", "--threads", "1", *extra,
                   cwd=folder, **options)


def manifest(folder, step):
    return json.loads((folder / "run" / f"checkpoint-{step}" / "manifest.json").read_text())


def state_digests(folder, step):
    """What the checkpoint's weights, moments and averages hash to."""
    return {f["name"]: f["sha256_tree"] for f in manifest(folder, step)["files"] if f["name"] != "config.yaml"}


def metrics(folder):
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        phases = [key for key in line if key.startswith("seconds/")]
        for clock in ("step_time", "avg_step_time", "tokens_per_second", "flops_per_second", "mfu", *phases):
            line.pop(clock, None)
    return lines


def straight_run(folder, settings):
    """An uninterrupted run."""
    write_recipe(folder, settings)
    run = subprocess.run([str(binary()), "train", "--config", "recipe.yaml", "--device", "cpu", "--threads", "1"],
                         cwd=folder, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    assert run.returncode == 0, run.stderr
    return folder


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A finetune from random weights."""
    return straight_run(tmp_path_factory.mktemp("finetuned"), FINETUNE)


def test_the_loss_is_finite_and_falls(finetuned):
    lines = metrics(finetuned)
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    losses = [line["train_loss"] for line in lines]
    assert all(math.isfinite(loss) for loss in losses)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5]), losses
    assert all(line["grad_norm"] > 0 and line["learning_rate"] == 2e-3 for line in lines)


def test_the_run_tells_what_it_was(finetuned):
    run = finetuned / "run"
    facts = json.loads((run / "run.json").read_text())
    assert facts["seed"] == 5 and facts["environment"]["torch"].startswith("2.11")
    version = subprocess.run([str(binary()), "--version"], capture_output=True, text=True).stdout
    commit = re.fullmatch(r"fastwan [0-9.]+ \(commit (unknown|[0-9a-f]{12}(?:-dirty)?)\)\n", version)[1]
    assert facts["environment"]["commit"] == commit
    assert manifest(finetuned, STEPS)["environment"] == facts["environment"]
    assert (run / "config.yaml").read_text() == (run / f"checkpoint-{STEPS}" / "config.yaml").read_text()
    assert (run / "negative.safetensors").exists()
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert sorted(p.name for p in run.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-16", "checkpoint-20"]


def test_a_stop_by_steps_and_one_by_signal_resume_to_the_same_bits(fastwan, finetuned, tmp_path):
    write_recipe(tmp_path, FINETUNE)
    first = train(fastwan, tmp_path, "--training.loop.max_train_steps=7")
    assert first.status == 0, first
    process = subprocess.Popen([str(binary()), "train", "--config", "recipe.yaml", "--device", "cpu", "--threads", "1"],
                               cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and logged_steps(tmp_path) < 10:
        time.sleep(0.001)
    process.send_signal(signal.SIGUSR1)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 75, told
    assert 10 <= logged_steps(tmp_path) < STEPS, told
    last = train(fastwan, tmp_path)
    assert last.status == 0, last
    assert state_digests(tmp_path, STEPS) == state_digests(finetuned, STEPS)
    assert metrics(tmp_path) == metrics(finetuned)


def test_muon_learns_and_goes_on_to_the_same_bits(fastwan, tmp_path):
    for name in ("straight", "cut"):
        write_recipe(tmp_path / name, FINETUNE, steps=8)
    muon = "--training.optimizer.name=muon"
    assert train(fastwan, tmp_path / "straight", muon).status == 0
    assert train(fastwan, tmp_path / "cut", muon, "--training.loop.max_train_steps=5").status == 0
    assert train(fastwan, tmp_path / "cut", muon).status == 0
    assert state_digests(tmp_path / "cut", 8) == state_digests(tmp_path / "straight", 8)
    losses = [line["train_loss"] for line in metrics(tmp_path / "straight")]
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3]), losses
    refused = train(fastwan, tmp_path / "cut", "--training.loop.max_train_steps=9")
    assert refused.status == 8 and "training.optimizer.name" in refused.err, refused


@pytest.mark.parametrize("target,told", [("nowhere", "leads to nothing"), (".", "around itself")])
def test_a_model_folder_that_the_export_could_not_copy_is_refused_before_the_first_step(fastwan, tmp_path, target, told):
    shutil.copytree(MODEL, tmp_path / "model")
    (tmp_path / "model" / "vae" / "extra").symlink_to(target)
    write_recipe(tmp_path, FINETUNE, steps=1, model=tmp_path / "model")
    refused = train(fastwan, tmp_path)
    assert refused.status != 0 and told in refused.err and "vae/extra" in refused.err, refused
    assert not list(tmp_path.glob("run/checkpoint-*"))


@pytest.mark.parametrize("target,code,told", [("run", "conflict", "is or holds run"), (".", "conflict", "is or holds"),
                                              ("model", "conflict", "is or holds"), ("mine", "exists", "mine holds what no export wrote"),
                                              ("other", "exists", "other.tmp holds what no export wrote"),
                                              ("mine/note.txt", "exists", "note.txt is a file")])
def test_an_export_takes_nothing_with_it(fastwan, tmp_path, target, code, told):
    shutil.copytree(MODEL, tmp_path / "model")
    for folder in ("mine", "other.tmp"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "note.txt").write_text("mine")
    write_recipe(tmp_path, FINETUNE, steps=1, model=tmp_path / "model")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    refused = train(fastwan, tmp_path, f"--training.checkpoint.export_path={target}")
    assert f"error[{code}]" in refused.err and told in refused.err, refused
    assert not list(tmp_path.glob("run/checkpoint-*"))
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_run_folder_that_cannot_be_made_is_named(fastwan, tmp_path):
    (tmp_path / "file").write_text("mine")
    write_recipe(tmp_path, FINETUNE, steps=1)
    refused = train(fastwan, tmp_path, "--training.checkpoint.output_dir=file/run")
    assert "error[not_found]" in refused.err and "cannot create folder file/run" in refused.err, refused


def test_a_later_export_replaces_an_earlier_one(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, steps=1)
    weights = tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors"
    ours = "--training.checkpoint.export_path=out"
    (tmp_path / "out").mkdir()
    assert train(fastwan, tmp_path, ours).status == 0
    first = weights.read_bytes()
    (tmp_path / "out").rename(tmp_path / "out.tmp")  # as an export leaves it that was killed
    assert train(fastwan, tmp_path, ours, "--training.loop.max_train_steps=2").status == 0
    assert weights.read_bytes() != first and not (tmp_path / "out.tmp").exists()
    assert train(fastwan, tmp_path, ours, "--training.loop.max_train_steps=3").status == 0


def test_another_config_is_refused_until_it_is_allowed(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, steps=2)
    assert train(fastwan, tmp_path).status == 0
    write_recipe(tmp_path, FINETUNE, steps=3, rate="1e-3")
    refused = train(fastwan, tmp_path)
    assert refused.status == 8 and "error[changed_run]" in refused.err, refused
    assert "training.optimizer.learning_rate was 0.002, is 0.001" in refused.err
    unknown = train(fastwan, tmp_path, "--allow-change", "seed,training.optimizer.learning_rat")
    assert unknown.status == 2 and "error[bad_value]" in unknown.err, unknown
    assert all(part in unknown.err for part in ("seed, dataset, world_size, config", "got training.optimizer.learning_rat",
                                                "Did you mean training.optimizer.learning_rate?")), unknown
    assert train(fastwan, tmp_path, "--allow-change", "seed, training.optimizer.learning_rate").status == 0


def test_a_checkpoint_of_other_networks_is_refused_whatever_is_allowed(fastwan, tmp_path):
    lora = ["--models.student.lora.enable=true", "--models.student.lora.rank=4"]
    allow = ["--allow-change", "config,dataset"]
    for name, settings, made_with, gone_on_with, told in (
            ("full", FINETUNE, [], lora, "the network student is another in unit root_in"),
            ("rank", FINETUNE, lora, ["--models.student.lora.enable=true", "--models.student.lora.rank=2"],
             "to_k.lora_A.weight [4, 64], this run has blocks.0.attn1.to_k.lora_A.weight [2, 64]"),
            ("dense", FINETUNE, ["--models.student.attention_backend=vsa", "--training.vsa.sparsity=0.5"], [],
             "the network student is another in unit block_0")):
        write_recipe(tmp_path / name, settings, init="pretrained", steps=1)
        assert train(fastwan, tmp_path / name, *made_with).status == 0
        run = train(fastwan, tmp_path / name, *gone_on_with, *allow, "--training.loop.max_train_steps=2")
        assert run.status == 8 and "error[changed_run]" in run.err and told in run.err, run
    write_recipe(tmp_path / "full", DISTILL, attention="dense", vsa="", steps=2)
    run = train(fastwan, tmp_path / "full", *allow)
    assert run.status == 8 and "holds no network critic, its method was finetune" in run.err, run


def model_with(folder, component, **changes):
    """The tests' model, one component's config changed; for networks that start from random weights."""
    shutil.copytree(MODEL, folder)
    for name, keys in {component: changes, **({"text_encoder": {"d_model": changes["text_dim"]}}
                                              if "text_dim" in changes else {})}.items():
        config = folder / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **keys}))
    return folder


def test_networks_that_do_not_fit_each_other_are_refused_before_weights_are_read(fastwan, tmp_path):
    narrow = model_with(tmp_path / "narrow", "transformer", text_dim=32)
    few = model_with(tmp_path / "few", "transformer", in_channels=8, out_channels=8)
    vae = few / "vae" / "config.json"
    vae.write_text(json.dumps({**json.loads(vae.read_text()), "z_dim": 8, "latents_mean": [0.0] * 8,
                               "latents_std": [1.0] * 8}))
    write_recipe(tmp_path, DISTILL)
    for role, model, told in (("teacher", narrow, "takes texts of 32 channels, the text encoder of"),
                              ("critic", few, "takes latents of 8 channels, the VAE of")):
        run = train(fastwan, tmp_path, f"--models.{role}.init_from={model}")
        assert run.status == 2 and "error[conflict]" in run.err, run
        assert f"models.{role}: {model}/transformer" in run.err and told in run.err, run
        assert "loading" not in run.err, run
        plan = train(fastwan, tmp_path, f"--models.{role}.init_from={model}", "--dry-run")
        assert plan.status == 2 and plan.err.splitlines()[-1] == run.err.splitlines()[-1], plan
    assert train(fastwan, tmp_path, "--dry-run").status == 0


def write_rows(folder, kind="t2v", count=4, latent=(16, 3, 8, 8), width=64):
    rows = []
    for i in range(count):
        row = {"id": str(i), "caption": "a circle", "media_type": "video", "file_name": str(i), "width": 32,
               "height": 32, "num_frames": 9, "duration_sec": 1.0, "fps": 9.0}
        put(row, "vae_latent", numpy.zeros(latent, numpy.float32))
        put(row, "text_embedding", numpy.zeros((3, width), numpy.float32))
        rows.append(row)
    write(folder / "rows.parquet", kind, rows)


ODE = dict(init="pretrained", attention="vsa", rate="1e-3", vsa="  vsa: {sparsity: 0.5}", steps=12, every=3, more_models="",
           method="  _target_: ode\n  dmd_denoising_steps: [1000, 757, 522]\n")
TRAJECTORIES = ["--training.data.source=parquet", "--training.data.data_path=rows", "--training.optimizer.name=muon"]


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory):
    """Rows of eight trajectories of the small model, dense and with guidance."""
    folder = tmp_path_factory.mktemp("trajectories")
    (folder / "prompts.txt").write_text("".join(f"a {word} circle\n" for word in "red blue green white black yellow dark small".split()))
    made = subprocess.run([str(binary()), "preprocess", "synth", "--teacher", MODEL, "--prompts", "prompts.txt", "--out", "rows", "--sampler",
                           "unipc", "--steps", "8", "--cfg", "3.5", "--shift", "3", "--num-frames", "9", "--size", "32x32", "--seed", "3",
                           "--attention-backend", "dense", "--device", "cpu", "--ode-timesteps", "1000,757,522"],
                          cwd=folder, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return folder / "rows"


def regress(fastwan, folder, rows, *extra, **changes):
    write_recipe(folder, ODE, **changes)
    if not (folder / "rows").exists():
        (folder / "rows").symlink_to(rows)
    return train(fastwan, folder, *TRAJECTORIES, *extra)


def test_ode_regression_learns_resumes_to_the_same_bits_and_exports_a_few_step_student(fastwan, trajectories, tmp_path):
    run = regress(fastwan, tmp_path / "straight", trajectories)
    assert run.status == 0, run
    lines = metrics(tmp_path / "straight")
    losses = [line["train_loss"] for line in lines]
    assert all(math.isfinite(loss) for loss in losses) and sum(losses[-4:]) < 0.9 * sum(losses[:4]), losses
    assert all(line["vsa_sparsity"] == 0.5 and 500 < line["ode_timestep"] <= 1000 for line in lines), lines
    seen = {key for line in lines for key in line if key.startswith("train_loss/")}
    assert len(seen) == 3, seen  # one twelfth of the timesteps for each state

    assert regress(fastwan, tmp_path / "parts", trajectories, "--training.loop.max_train_steps=5").status == 0
    assert regress(fastwan, tmp_path / "parts", trajectories).status == 0
    assert state_digests(tmp_path / "parts", 12) == state_digests(tmp_path / "straight", 12)
    assert metrics(tmp_path / "parts") == lines

    export = tmp_path / "straight/run/export"
    preset = json.loads((export / "fastwan.json").read_text())
    assert (preset["sampler"], preset["dmd_denoising_steps"], preset["VSA_sparsity"]) == ("dmd", [1000, 757, 522], 0.5), preset
    assert json.loads((export / "model_index.json").read_text())["_class_name"] == "WanDMDPipeline"
    made = fastwan("generate", "-m", export, "-p", PROMPT, "--seed", "1", "--size", "32x32", "--num-frames", "9", "-o", "a.mp4", "--json")
    assert made.status == 0 and json.loads(made.out)["settings"]["--sampler"] == "dmd", made


def test_ode_regression_is_the_same_with_other_micro_batches_and_full_recompute_and_takes_adapters(fastwan, trajectories, tmp_path):
    plain = ["--training.model.enable_gradient_checkpointing_type=none"]
    assert regress(fastwan, tmp_path / "a", trajectories, *plain, steps=2, every=1).status == 0
    assert regress(fastwan, tmp_path / "b", trajectories, "--training.model.enable_gradient_checkpointing_type=full",
                   steps=2, every=1).status == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    split = regress(fastwan, tmp_path / "c", trajectories, *plain, "--training.data.train_batch_size=1",
                    "--training.loop.gradient_accumulation_steps=4", steps=2, every=1)
    assert split.status == 0, split
    for a, c in zip(metrics(tmp_path / "a"), metrics(tmp_path / "c")):
        assert c["ode_timestep"] == pytest.approx(a["ode_timestep"]) and c["train_loss"] == pytest.approx(a["train_loss"], rel=1e-5)
    lora = regress(fastwan, tmp_path / "lora", trajectories, "--models.student.lora.enable=true", "--models.student.lora.rank=4",
                   steps=2, every=1)
    assert lora.status == 0 and list((tmp_path / "lora/run").rglob("*lora*.safetensors")), lora


@pytest.mark.parametrize("settings,flags,told", [
    (FINETUNE, [], "has no latents, which this method trains on. Rows of trajectories are for method ode"),
    (ODE, ["--method.dmd_denoising_steps=1000,500"], "which are not those of method.dmd_denoising_steps"),
    (ODE, ["--method.dmd_denoising_steps=1000,990,522"], "which are not those of method.dmd_denoising_steps"),
    (ODE, ["--training.data.num_frames=5"], "the trajectory has 3 latent frames, training.data wants 2")])
def test_trajectories_that_do_not_fit_are_refused_at_the_start(fastwan, trajectories, tmp_path, settings, flags, told):
    write_recipe(tmp_path, settings, steps=1)
    (tmp_path / "rows").symlink_to(trajectories)
    run = train(fastwan, tmp_path, *TRAJECTORIES[:2], *flags)
    assert run.status == 3 and "error[bad_dataset]" in run.err and "row 0" in run.err and told in run.err, run
    assert "loading" not in run.err, run


def test_rows_without_a_trajectory_are_refused_by_ode_regression(fastwan, tmp_path):
    write_rows(tmp_path)
    write_recipe(tmp_path, ODE, steps=1)
    run = train(fastwan, tmp_path, *ROWS)
    assert run.status == 3 and "rows.parquet, row 0 has no trajectory" in run.err and "--ode-timesteps" in run.err, run


ROWS = ["--training.data.source=parquet", "--training.data.data_path=rows.parquet"]


@pytest.mark.parametrize("channels,width,told", [
    (8, 64, "the latent has 8 channels, the VAE of"), (16, 48, "the text embedding has 48 channels, the text encoder")])
def test_rows_of_another_model_are_refused_before_the_first_step(fastwan, tmp_path, channels, width, told):
    write_rows(tmp_path, latent=(channels, 3, 8, 8), width=width)
    write_recipe(tmp_path, FINETUNE, steps=1)
    run = train(fastwan, tmp_path, *ROWS)
    assert run.status == 3 and "error[bad_dataset]" in run.err, run
    assert "rows.parquet, row 0: " + told in run.err, run
    assert not list(tmp_path.glob("run/checkpoint-*"))


def without_weights(component, cut=False):
    """Makes a model folder whose component has no weights, or half of them."""
    def make(folder):
        shutil.copytree(MODEL, folder / "model")
        for file in (folder / "model" / component).glob("*.safetensors"):
            file.write_bytes(file.read_bytes()[:-1000]) if cut else file.unlink()
    return make


def with_two_experts(folder):
    shutil.copytree(MODEL, folder / "model")
    shutil.copytree(MODEL / "transformer", folder / "model" / "transformer_2")
    index = folder / "model" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()),
                                 "transformer_2": ["diffusers", "WanTransformer3DModel"]}))


SHOWS = ["--callbacks.validation.every_steps=2", "--callbacks.validation.sampling_steps=1"]


@pytest.mark.parametrize("settings,flags,make,code,told", [
    (FINETUNE, ["--resume", "latest"], None, "not_found", "run holds no checkpoint"),
    (FINETUNE, ["--resume", "elsewhere"], None, "not_found", "elsewhere"),
    (FINETUNE, ["--training.checkpoint.export_path=recipe.yaml/x"], None, "not_found", "recipe.yaml is not a folder"),
    (FINETUNE, ["--profile", "recipe.yaml/trace.json"], None, "not_found", "recipe.yaml is not a folder"),
    (FINETUNE, ["--training.data.shapes.count=2"], None, "bad_dataset", "a global batch needs 4"),
    (FINETUNE, ["--training.data.num_height=36"], None, "conflict", "patches of 1x2x2, those of this run are 3x9x8"),
    (FINETUNE, ["--training.data.num_height=34"], None, "conflict", "must be multiples of 4, got 34 and 32"),
    (FINETUNE, ROWS, lambda f: write_rows(f, count=2), "bad_dataset", "a global batch needs 4"),
    (FINETUNE, ROWS, lambda f: write_rows(f, latent=(16, 2, 8, 8)), "bad_dataset", "row 0 has 2 latent frames"),
    (FINETUNE, ROWS, lambda f: write_rows(f, latent=(16, 3, 7, 8)), "conflict", "those of this run are 3x7x8"),
    (FINETUNE, ROWS, lambda f: write_rows(f, "text_only"), "bad_dataset", "rows.parquet, row 0 has no latents"),
    (FINETUNE, [*SHOWS, "--callbacks.validation.dataset_file=none.json"], None, "not_found", "none.json"),
    (FINETUNE, [*SHOWS, "--callbacks.validation.prompts=a", "--callbacks.validation.num_frames=6"], None, "bad_value", "4k+1"),
    (FINETUNE, [*SHOWS, "--callbacks.validation.prompts=a\udcff"], None, "not_utf8", "UTF-8"),
    (FINETUNE, [*SHOWS, *ROWS, "--callbacks.validation.prompts=a", "--training.model_path=model"],
     lambda f: (write_rows(f), without_weights("vae")(f)), "not_found", "model/vae"),
    (FINETUNE, ["--pipeline.negative_prompt=a\udcff"], None, "not_utf8", "UTF-8"),
    (FINETUNE, ["--training.model_path=model"], without_weights("text_encoder"), "not_found", "model/text_encoder"),
    (DISTILL, ["--models.student.init_from=model"], without_weights("transformer"), "not_found", "model/transformer"),
    (DISTILL, ["--models.teacher.init_from=model"], without_weights("transformer", cut=True), "bad_offsets", "model/transformer"),
    (DISTILL, ["--models.teacher.init_from=model"], with_two_experts, "unsupported_model", "models.teacher.init_from"),
    (DISTILL, ["--models.student.lora.enable=true", "--models.student.lora.target_modules=nothing"], None, "bad_value",
     "lora.target_modules")])
def test_mistakes_in_configs_folders_and_first_rows_are_told_before_a_network_is_loaded(
        fastwan, tmp_path, settings, flags, make, code, told):
    write_recipe(tmp_path, settings, steps=1)
    if make:
        make(tmp_path)
    run = train(fastwan, tmp_path, *flags)
    assert f"error[{code}]" in run.err and told in run.err, run
    assert "loading" not in run.err and not list(tmp_path.glob("run/checkpoint-*")), run


def test_a_run_that_cannot_go_on_says_so_before_a_network_is_loaded(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, steps=1)
    first = train(fastwan, tmp_path)
    assert first.status == 0 and "loading student" in first.err, first
    state = next((tmp_path / "run" / "checkpoint-1").glob("state-*"))
    whole = state.read_bytes()
    with open(tmp_path / "run" / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = [("locked", train(fastwan, tmp_path))]
    refused += [("changed_run", train(fastwan, tmp_path, "--training.optimizer.learning_rate=1")),
                ("exists", train(fastwan, tmp_path, "--resume", "none"))]
    state.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused.append(("bad_checkpoint", train(fastwan, tmp_path, "--resume", "latest")))
    for code, run in refused:
        assert f"error[{code}]" in run.err and "loading" not in run.err, run


def test_fewer_processes_than_the_recipe_has_accumulate_its_batch(fastwan, tmp_path):
    for name, method in (("finetune", FINETUNE), ("distill", DISTILL)):
        for processes, accumulated in ((1, 4), (2, 2)):
            folder = tmp_path / f"{name}-{processes}"
            write_recipe(folder, method, steps=2, every=1)
            flags = [f"--training.distributed.num_gpus={processes}",
                     f"--training.loop.gradient_accumulation_steps={accumulated}"]
            if processes == 2:  # in two goes: a resume finds its place in the data
                assert train(fastwan, folder, *flags, "--training.loop.max_train_steps=1").status == 0
            run = train(fastwan, folder, *flags)
            assert run.status == 0, run
            told = "the recipe is for 2 processes, this run has 1: an iteration accumulates 4 micro-batches of 2"
            assert (told in run.err) == (processes == 2), run
        assert state_digests(tmp_path / f"{name}-1", 2) == state_digests(tmp_path / f"{name}-2", 2)
        assert metrics(tmp_path / f"{name}-1") == metrics(tmp_path / f"{name}-2")


def test_a_run_that_goes_on_in_another_environment_says_so_once(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, steps=1)
    assert train(fastwan, tmp_path).status == 0
    same = train(fastwan, tmp_path, "--training.loop.max_train_steps=2")
    assert same.status == 0 and "was saved elsewhere" not in same.err, same
    words = ["train", "--config", "recipe.yaml", "--device", "cpu", "--threads", "2"]
    other = fastwan(*words, "--training.loop.max_train_steps=3", cwd=tmp_path)
    assert other.status == 0, other
    assert other.err.count("checkpoint-2 was saved elsewhere: threads was 1, is 2. The run goes on") == 1, other
    facts = json.loads((tmp_path / "run" / "run.json").read_text())["environment"]
    assert set(facts) == {"program", "commit", "torch", "device", "processor", "deterministic", "threads", "instructions"}
    assert (facts["threads"], facts["device"], facts["deterministic"]) == ("2", "cpu", "no")
    again = fastwan(*words, "--deterministic", "--training.loop.max_train_steps=4", cwd=tmp_path)
    assert "elsewhere: deterministic was no, is yes. The" in again.err, "what the last checkpoint was saved in counts"


def logged_steps(folder):
    log = folder / "run" / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


def kill_until_done(folder, kills, seed):
    """Kills -9 while it loads and between and within steps and saves, resumes, until `kills` have hit; then lets it finish."""
    words = [str(binary()), "train", "--config", "recipe.yaml", "--device", "cpu", "--threads", "1"]
    chance = random.Random(seed)
    started = time.monotonic()
    subprocess.run([*words, "--training.loop.max_train_steps=1"], cwd=folder, check=True, capture_output=True)
    one = time.monotonic() - started
    hits = 0
    while hits < kills:
        process = subprocess.Popen(words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if hits > 0 and chance.random() < 0.25:
            time.sleep(one * chance.uniform(0.0, 0.7))  # about as long as it loads
        else:
            # A step that it logs, not a time: on a machine of any speed the run is under way and not over.
            awaited = logged_steps(folder) + chance.randint(1, 3)
            while process.poll() is None and logged_steps(folder) < awaited:
                time.sleep(0.001)
            time.sleep(one * chance.uniform(0.0, 0.1))
        process.kill()
        process.wait()
        hits += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert hits > 0, "no run was killed"
    subprocess.run(words, cwd=folder, check=True, capture_output=True)
    return hits


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    return straight_run(tmp_path_factory.mktemp("distilled"), DISTILL)


def test_a_killed_distillation_ends_as_the_uninterrupted_one(distilled, tmp_path):
    write_recipe(tmp_path, DISTILL)
    kill_until_done(tmp_path, kills=4, seed=1)
    assert state_digests(tmp_path, 12) == state_digests(distilled, 12)
    assert metrics(tmp_path) == metrics(distilled)


@pytest.mark.slow
def test_fifty_kills_of_a_distillation(distilled, tmp_path):
    hits = 0
    for seed in range(40):
        folder = tmp_path / str(seed)
        write_recipe(folder, DISTILL)
        hits += kill_until_done(folder, kills=8, seed=seed)
        assert state_digests(folder, 12) == state_digests(distilled, 12), seed
        if hits >= 50:
            return
    pytest.fail(f"only {hits} kills hit")


def test_the_distilled_export_generates(fastwan, distilled, tmp_path):
    export = distilled / "run" / "export"
    assert json.loads((export / "model_index.json").read_text())["_class_name"] == "WanDMDPipeline"
    run = fastwan("generate", "-m", export, "-p", PROMPT, "--seed", "1", "--size", "32x32", "--num-frames", "9",
                  "-o", "a.mp4")
    assert run.status == 0, run
    assert Mp4(tmp_path / "a.mp4").frames == 9


CAPTIONS = [PROMPT, "a large blue square moves quickly to the right on a plain background"]


def without_validation(lines):
    """Rows of iterations, and the steps of rows of validation."""
    return ([line for line in lines if "validation_seconds" not in line],
            [line["step"] for line in lines if "validation_seconds" in line])


LOSSES = ["validation_loss", *(f"validation_loss/t_{i:02}" for i in range(12))]
STATISTICS = ("clipped", "contrast", "saturation", "frame_difference", "flicker")


def validations(folder):
    """What each validation measured, by step, without its clocks."""
    return {line["step"]: {name: value for name, value in line.items() if not name.endswith("_seconds")}
            for line in metrics(folder) if "validation_seconds" in line}


def test_validation_makes_videos_and_changes_no_bit_of_training(fastwan, finetuned, tmp_path):
    write_recipe(tmp_path, FINETUNE)
    run = train(fastwan, tmp_path, f"--callbacks.validation.prompts={PROMPT}", "--callbacks.validation.every_steps=10",
                "--callbacks.validation.sampling_steps=2,3", "--callbacks.validation.guidance_scale=2")
    assert run.status == 0, run
    assert state_digests(tmp_path, STEPS) == state_digests(finetuned, STEPS)
    iterations, validated = without_validation(metrics(tmp_path))
    assert iterations == metrics(finetuned) and validated == [0, 10, 20]
    for step in validated:
        folder = tmp_path / "run" / "validation" / f"step_{step}"
        for count in (2, 3):
            name = f"validation_step_{step}_inference_steps_{count}_video_0"
            video = Mp4(folder / f"{name}.mp4")
            assert (video.width, video.height, video.frames) == (32, 32, 9)
            assert (folder / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    digests = [entry["latents_sha256"] for step in validated
               for entry in json.loads((tmp_path / f"run/validation/step_{step}/videos.json").read_text())]
    assert len(set(digests)) == 6, "each step and each number of steps gives other latents"
    measured = validations(tmp_path)
    for step, values in measured.items():
        assert set(values) == {"step", *LOSSES, *(f"validation_video/{name}" for name in STATISTICS)}, step
        assert values["validation_loss"] == pytest.approx(sum(values[name] for name in LOSSES[1:]) / 12, rel=1e-12)
    assert measured[20]["validation_loss"] < 0.9 * measured[10]["validation_loss"] < 0.9 * measured[0]["validation_loss"]
    events = next((tmp_path / "run").glob("events.out.tfevents.*")).read_bytes()
    assert all(name.encode() in events for name in (*LOSSES, "validation_video/flicker"))


def test_validation_shows_what_the_export_generates(fastwan, distilled, tmp_path):
    from safetensors.numpy import load_file
    (tmp_path / "captions.json").write_text(json.dumps({"data": [{"caption": caption} for caption in CAPTIONS]}))
    write_recipe(tmp_path, DISTILL)
    nowhere = {"FASTWAN_FFMPEG_BIN": "/nowhere/ffmpeg"}
    run = train(fastwan, tmp_path, "--callbacks.validation.dataset_file=captions.json",
                "--callbacks.validation.every_steps=6", "--callbacks.validation.run_at_start=false", env=nowhere)
    assert run.status == 0 and run.err.count("frames as .safetensors") == 1, run
    assert state_digests(tmp_path, 12) == state_digests(distilled, 12)
    iterations, validated = without_validation(metrics(tmp_path))
    assert iterations == metrics(distilled) and validated == [6, 12]

    def shown(step):
        name = f"validation_step_{step}_inference_steps_3_video_1.safetensors"
        return load_file(tmp_path / "run" / "validation" / f"step_{step}" / name)["frames"]

    measured = validations(tmp_path)
    assert not any("loss" in name for values in measured.values() for name in values), "of a student of few steps"
    videos = [load_file(tmp_path / f"run/validation/step_12/validation_step_12_inference_steps_3_video_{i}.safetensors")
              ["frames"].astype(numpy.float64) for i in range(2)]
    expected = {
        "clipped": [((x <= 1 / 255) | (x >= 254 / 255)).mean() for x in videos],
        "contrast": [numpy.tensordot((.2126, .7152, .0722), x, (0, 1)).std((1, 2)).mean() for x in videos],
        "saturation": [(x.max(1) - x.min(1)).mean() for x in videos],
        "frame_difference": [abs(numpy.diff(x, axis=0)).mean() for x in videos],
        "flicker": [abs(numpy.diff(x, 2, axis=0)).mean() for x in videos]}
    said = json.loads((tmp_path / "run/validation/step_12/videos.json").read_text())
    for name, each in expected.items():
        assert measured[12][f"validation_video/{name}"] == pytest.approx(numpy.mean(each), abs=1e-6), name
        assert [entry["statistics"][name] for entry in said] == pytest.approx(each, abs=1e-6), name
    made = fastwan("generate", "-m", tmp_path / "run" / "export", "-p", CAPTIONS[1], "--seed", "6", "--size", "32x32",
                   "--num-frames", "9", "-o", "a.safetensors")
    assert made.status == 0, made
    frames = load_file(tmp_path / "a.safetensors")["frames"]
    assert frames.shape == (9, 3, 32, 32)
    assert abs(frames - shown(12)).max() < 1e-3
    assert abs(frames - shown(6)).max() > 1e-2


def test_a_student_of_shifted_timesteps_is_sampled_at_them(fastwan, tmp_path):
    from safetensors.numpy import load_file
    base = tmp_path / "base"
    shutil.copytree(MODEL, base)
    (base / "fastwan.json").unlink()  # as published models are
    write_recipe(tmp_path, DISTILL, model=base, steps=1)
    run = train(fastwan, tmp_path, "--method.warp_denoising_step=true", "--method.dmd_denoising_steps=1000,500",
                "--models.student.flow_shift=5", f"--callbacks.validation.prompts={PROMPT}",
                "--callbacks.validation.every_steps=1", "--callbacks.validation.run_at_start=false",
                env={"FASTWAN_FFMPEG_BIN": "/nowhere/ffmpeg"})
    assert run.status == 0, run
    export = tmp_path / "run" / "export"
    said = json.loads((export / "fastwan.json").read_text())
    assert said == {"VSA_sparsity": 0.5, "dmd_denoising_steps": [1000, 500], "flow_shift": 5.0, "sampler": "dmd",
                    "warp_denoising_step": True}
    shown = load_file(tmp_path / "run/validation/step_1/validation_step_1_inference_steps_2_video_0.safetensors")["frames"]

    def made(*more):
        run = fastwan("generate", "-m", export, "-p", PROMPT, "--seed", "5", "--size", "32x32", "--num-frames", "9",
                      "-o", "a.safetensors", "--overwrite", *more)
        assert run.status == 0, run
        return load_file(tmp_path / "a.safetensors")["frames"]

    assert abs(made() - shown).max() < 1e-3
    assert abs(made("--no-warp-denoising-step") - shown).max() > 1e-2


def test_validation_shows_what_the_networks_predict_where_that_is_wanted(fastwan, distilled, tmp_path):
    write_recipe(tmp_path, DISTILL)
    run = train(fastwan, tmp_path, f"--callbacks.validation.prompts={PROMPT}", "--callbacks.validation.every_steps=6",
                "--training.tracker.log_visualization=true", "--training.tracker.trackers=jsonl,csv")
    assert run.status == 0, run
    assert state_digests(tmp_path, 12) == state_digests(distilled, 12)
    videos = [f"{name}_pred_video" for name in ("generator", "fake_score", "real_score")]
    for step in (6, 12):
        folder = tmp_path / "run" / "validation" / f"step_{step}"
        assert all((folder / f"{name}.mp4").exists() and (folder / f"{name}.png").exists() for name in videos)
        assert set(videos) < {entry["file"].removesuffix(".mp4") for entry in json.loads((folder / "videos.json").read_text())}
    assert not (tmp_path / "run" / "validation" / "step_0" / "generator_pred_video.mp4").exists(), "no student update yet"
    table = [line.split(",") for line in (tmp_path / "run" / "metrics.csv").read_text().splitlines()]
    assert table[0] == ["step", "metric", "value"]
    logged = {(line["step"], name): value for line in map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
              for name, value in line.items() if name != "step"}
    assert {(int(step), name): float(value) if value else None for step, name, value in table[1:]} == logged
    unseen = train(fastwan, tmp_path, "--training.tracker.log_visualization=true", "--training.loop.max_train_steps=13")
    assert "shows nothing without callbacks.validation" in unseen.err, unseen


VALIDATE = (f"--callbacks.validation.prompts={PROMPT}", "--callbacks.validation.sampling_steps=1")


def test_a_resumed_run_measures_the_losses_of_the_straight_one(fastwan, finetuned, tmp_path):
    wanted = (*VALIDATE, "--callbacks.validation.every_steps=5")
    for name in ("straight", "cut"):
        write_recipe(tmp_path / name, FINETUNE)
    assert train(fastwan, tmp_path / "straight", *wanted).status == 0
    assert train(fastwan, tmp_path / "cut", *wanted, "--training.loop.max_train_steps=7").status == 0
    last = train(fastwan, tmp_path / "cut", *wanted)
    assert last.status == 0, last
    assert state_digests(tmp_path / "cut", STEPS) == state_digests(tmp_path / "straight", STEPS) == state_digests(finetuned, STEPS)
    measured = validations(tmp_path / "straight")
    assert sorted(measured) == [0, 5, 10, 15, 20] and validations(tmp_path / "cut") == measured


def test_losses_of_different_runs_compare_and_are_of_the_average(fastwan, tmp_path):
    write_recipe(tmp_path / "first", FINETUNE, steps=6)
    last_only = (*VALIDATE, "--callbacks.validation.every_steps=6", "--callbacks.validation.run_at_start=false")
    assert train(fastwan, tmp_path / "first", *last_only).status == 0
    write_recipe(tmp_path / "own", FINETUNE, steps=6)
    assert train(fastwan, tmp_path / "own", *last_only, "--callbacks.ema.use_for_validation=false").status == 0
    # The export holds the average. Another seed, shift, batch and density train on it.
    write_recipe(tmp_path / "next", FINETUNE, steps=1, init="pretrained", model=tmp_path / "first" / "run" / "export")
    run = train(fastwan, tmp_path / "next", *VALIDATE, "--callbacks.validation.every_steps=9", "--training.data.seed=77",
                "--models.student.flow_shift=5", "--training.data.train_batch_size=3", "--training.data.training_cfg_rate=0.5",
                "--training.model.weighting_scheme=logit_normal", "--training.model.precondition_outputs=true")
    assert run.status == 0, run
    of_average, of_weights, again = (validations(tmp_path / name)[step] for name, step in (("first", 6), ("own", 6), ("next", 0)))
    for name in LOSSES:
        assert again[name] == pytest.approx(of_average[name], rel=1e-5), name
    assert abs(of_weights["validation_loss"] / of_average["validation_loss"] - 1) > 1e-3


def write_equal_rows(path, latents, text, count):
    """`count` rows that are alike: whatever their order, a loss is the same."""
    row = {"id": "a", "caption": "a circle", "media_type": "video", "file_name": "a", "width": 32, "height": 32,
           "num_frames": 9, "duration_sec": 1.0, "fps": 9.0}
    put(row, "vae_latent", latents)
    put(row, "text_embedding", text)
    path.parent.mkdir(exist_ok=True)
    write(path, "t2v", [row] * count)


def noise_of_validation(slot, shape):
    """The header of src/base/rng.h, for seed 0, step 0, stream 15."""
    sys.path.insert(0, str(ROOT / "tools" / "golden"))
    from common import philox
    count = math.prod(shape)
    groups = numpy.arange(-(-count // 4), dtype=numpy.uint64)
    words = philox([groups, *(numpy.full_like(groups, value) for value in (slot, 0, 15))], (0, 0))
    u = [((w >> numpy.uint64(8)).astype(numpy.float64) + 0.5) * 2.0**-24 for w in words]
    pairs = [numpy.sqrt(-2 * numpy.log(u[i])) * turn(2 * numpy.pi * u[i + 1]) for i in (0, 2) for turn in (numpy.cos, numpy.sin)]
    return numpy.stack(pairs, 1).reshape(-1)[:count].astype(numpy.float32).reshape(shape)


def test_the_loss_on_rows_of_a_folder_is_what_diffusers_makes_of_them(fastwan, tmp_path):
    import torch
    from diffusers import WanTransformer3DModel
    model = tmp_path / "model"
    shutil.copytree(MODEL, model)
    config = model / "vae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "latents_mean": [0.5] * 16, "latents_std": [2.0] * 16}))
    random = numpy.random.default_rng(3)
    latents = random.normal(0.5, 2, (16, 3, 8, 8)).astype(numpy.float32)
    text = random.normal(size=(5, 64)).astype(numpy.float32)
    write_equal_rows(tmp_path / "shown" / "a.parquet", latents, text, 4)
    write_equal_rows(tmp_path / "held_out" / "a.parquet", latents, text, 9)
    write_recipe(tmp_path, FINETUNE, model=model, init="pretrained", steps=1)
    parquet = ("--training.data.source=parquet", "--training.data.data_path=shown")
    run = train(fastwan, tmp_path, *VALIDATE, *parquet, "--callbacks.validation.every_steps=1",
                "--callbacks.validation.data_path=held_out", "--callbacks.validation.loss_rows=6")
    assert run.status == 0 and "validation_loss" not in run.err, run

    network = WanTransformer3DModel.from_pretrained(model / "transformer")
    padded = torch.zeros(1, 32, 64)
    padded[0, :5] = torch.from_numpy(text)
    clean = torch.from_numpy((latents - 0.5) / 2)[None]
    losses = []
    for slot in range(6):
        sigma = (slot + 0.5) / 6
        noise = torch.from_numpy(noise_of_validation(slot, (1, 16, 3, 8, 8)))
        with torch.no_grad():
            velocity = network((1 - sigma) * clean + sigma * noise, torch.tensor([1000 * sigma]), padded, return_dict=False)[0]
        losses.append(((velocity - (noise - clean)) ** 2).mean().item())
    assert validations(tmp_path)[0]["validation_loss"] == pytest.approx(numpy.mean(losses), rel=1e-5)


def test_what_validation_loss_lacks_is_said_and_what_it_cannot_read_refused(fastwan, tmp_path):
    for name, latent in (("shown", (16, 3, 8, 8)), ("other", (8, 3, 8, 8)), ("larger", (16, 3, 8, 10))):
        (tmp_path / name).mkdir()
        write_rows(tmp_path / name, latent=latent)
    write_recipe(tmp_path, FINETUNE, steps=1)
    parquet = (*VALIDATE, "--training.data.source=parquet", "--training.data.data_path=shown", "--callbacks.validation.every_steps=1")
    refused = train(fastwan, tmp_path, *parquet, "--callbacks.validation.data_path=other")
    assert refused.status == 3 and "other/rows.parquet, row 0: the latent has 8 channels" in refused.err and "loading" not in refused.err, refused
    refused = train(fastwan, tmp_path, *parquet, "--callbacks.validation.data_path=larger")
    assert refused.status == 3 and "larger/rows.parquet, row " in refused.err, refused
    assert "latents are [16, 3, 8, 10], those of training [16, 3, 8, 8]" in refused.err and "loading" not in refused.err, refused
    refused = train(fastwan, tmp_path, *parquet, "--callbacks.validation.data_path=nowhere")
    assert refused.status == 4 and "nowhere" in refused.err, refused
    assert not list(tmp_path.glob("run/checkpoint-*"))
    absent = train(fastwan, tmp_path, *parquet)
    assert absent.status == 0 and "there is no validation_loss: callbacks.validation.data_path names no rows" in absent.err, absent
    assert not any("loss" in name for values in validations(tmp_path).values() for name in values)
    shutil.rmtree(tmp_path / "run")
    same = train(fastwan, tmp_path, *parquet, "--callbacks.validation.data_path=../" + tmp_path.name + "/shown")
    assert same.status == 0 and "validation_loss is of rows that training shows: " in same.err, same
    shutil.rmtree(tmp_path / "run")
    off = train(fastwan, tmp_path, *parquet, "--callbacks.validation.loss_rows=0")
    assert off.status == 0 and "validation_loss" not in off.err, off


def test_a_validation_that_fails_does_not_end_the_run(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, steps=2)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "validation").write_text("in the way")
    run = train(fastwan, tmp_path, f"--callbacks.validation.prompts={PROMPT}", "--callbacks.validation.every_steps=2",
                "--callbacks.validation.sampling_steps=1")
    assert run.status == 0 and run.err.count("video 0 failed") == 2, run
    iterations, validated = without_validation(metrics(tmp_path))
    assert [line["step"] for line in iterations] == [1, 2] and validated == [0, 2]
    assert all(set(values) == {"step", *LOSSES} for values in validations(tmp_path).values()), "what needs no video"


def test_a_student_without_the_coarse_branch_stays_one(fastwan, distilled, tmp_path):
    from safetensors import safe_open
    write_recipe(tmp_path, DISTILL, steps=3)
    run = train(fastwan, tmp_path, "--training.vsa.coarse_branch=false")
    assert run.status == 0, run

    def has_gates(folder):
        with safe_open(folder / "transformer" / "diffusion_pytorch_model.safetensors", "np") as weights:
            return any("to_gate_compress" in name for name in weights.keys())

    export = tmp_path / "run" / "export"
    assert has_gates(distilled / "run" / "export") and not has_gates(export)
    made = fastwan("generate", "-m", export, "-p", PROMPT, "--seed", "1", "--size", "32x32", "--num-frames", "9",
                   "-o", "a.mp4")
    assert made.status == 0 and "there is no coarse term" in made.err, made


@pytest.mark.parametrize("settings", [FINETUNE, DISTILL], ids=["finetune", "distill"])
def test_the_logged_work_is_the_planned_one(fastwan, settings, tmp_path):
    write_recipe(tmp_path, settings, steps=3, every=3)
    no_recompute = "--training.model.enable_gradient_checkpointing_type=none"  # what MFU does not count
    plan = json.loads(fastwan("train", "--config", "recipe.yaml", "--dry-run", "--json", no_recompute,
                              cwd=tmp_path).out)
    assert train(fastwan, tmp_path, no_recompute).status == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    work = [line["flops_per_second"] * line["step_time"] for line in lines]
    always = plan["critic_flops"] or plan["flops"]
    assert work == pytest.approx([always, always, always + plan["student_flops"]], rel=1e-9)
    assert not any("mfu" in line for line in lines)  # a CPU has no rate to compare with


def test_a_ramp_counts_in_the_plan_and_in_the_log_as_the_iterations_compute(fastwan, tmp_path):
    write_recipe(tmp_path, {**FINETUNE, "attention": "vsa"}, steps=4, every=4)
    ramp = ["--training.vsa.sparsity=0.5", "--training.vsa.VSA_decay_rate=0.25", "--training.vsa.VSA_decay_interval_steps=1",
            "--training.data.num_height=64", "--training.data.num_width=64",  # four tiles
            "--training.model.enable_gradient_checkpointing_type=none"]
    plan = json.loads(fastwan("train", "--config", "recipe.yaml", "--dry-run", "--json", *ramp, cwd=tmp_path).out)
    assert plan["tiles"] == 4
    assert train(fastwan, tmp_path, *ramp).status == 0
    lines = metrics(tmp_path)
    assert [line["vsa_sparsity"] for line in lines] == [0, 0.25, 0.5, 0.5]
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    work = [line["flops_per_second"] * line["step_time"] for line in logged]
    assert work[0] > work[1] > work[2] == pytest.approx(work[3]), "each with the tiles that it kept"
    assert sum(work) / 4 == pytest.approx(plan["flops"], rel=1e-9)


def test_processes_that_hold_one_state_train_the_same_step_of_the_student(fastwan, tmp_path):
    """With scope `group`; each would run as many forwards as the others, or wait for them for ever."""
    drawn = {}
    for shard in (1, 2):
        folder = tmp_path / str(shard)
        write_recipe(folder, DISTILL, steps=8, every=8)
        run = train(fastwan, folder, "--method.k_scope=group", "--training.distributed.num_gpus=2",
                    f"--training.distributed.hsdp_shard_dim={shard}", "--method.generator_update_interval=1",
                    "--training.loop.gradient_accumulation_steps=1")
        assert run.status == 0, run
        drawn[shard] = [line["generator_timestep"] for line in metrics(folder)]
    # A mean of both processes' draws.
    assert set(drawn[2]) <= {1000, 757, 522} and len(set(drawn[2])) > 1, drawn
    assert not set(drawn[1]) <= {1000, 757, 522}, drawn


def test_diffusers_loads_the_export_with_the_trained_weights(finetuned):
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file
    folder = finetuned / "run" / "export" / "transformer"
    model = WanTransformer3DModel.from_pretrained(folder)
    stored = load_file(folder / "diffusion_pytorch_model.safetensors")
    loaded = model.state_dict()
    assert set(stored) == set(loaded)
    assert all((loaded[name] == value).all() for name, value in stored.items())


def test_ckpt_consolidates_and_compares(fastwan, finetuned, tmp_path):
    run = finetuned / "run"
    made = fastwan("ckpt", "consolidate", run / "checkpoint-20", "-o", "out")
    assert made.status == 0, made
    for name in ("transformer/diffusion_pytorch_model.safetensors", "transformer/config.json", "model_index.json"):
        assert (tmp_path / "out" / name).read_bytes() == (run / "export" / name).read_bytes(), name
    raw = fastwan("ckpt", "consolidate", run / "checkpoint-20", "-o", "raw", "--raw", "--dtype", "bf16")
    assert raw.status == 0, raw
    assert ((tmp_path / "raw/transformer/diffusion_pytorch_model.safetensors").stat().st_size
            < (run / "export/transformer/diffusion_pytorch_model.safetensors").stat().st_size)
    same = fastwan("ckpt", "diff", run / "checkpoint-20", run / "checkpoint-20")
    assert same.status == 0 and same.out == "", same
    other = fastwan("ckpt", "diff", run / "checkpoint-20", run / "checkpoint-16")
    assert other.status == 1 and "student/" in other.out, other


def test_ckpt_tells_its_commands(fastwan):
    told = fastwan("ckpt", "--help")
    assert told.status == 0 and "consolidate" in told.out and "diff" in told.out and not told.err, told
    assert fastwan("ckpt").status == 2


def test_ckpt_consolidates_adapters_as_the_run_exports_them(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, init="pretrained", steps=3)
    made = train(fastwan, tmp_path, "--models.student.lora.enable=true", "--models.student.lora.rank=4",
                 "--models.student.lora.alpha=8")
    assert made.status == 0, made
    checkpoint, exported = tmp_path / "run" / "checkpoint-3", tmp_path / "run" / "export"
    name = "pytorch_lora_weights.safetensors"
    assert fastwan("ckpt", "consolidate", checkpoint, "-o", "out").status == 0
    assert (tmp_path / "out" / name).read_bytes() == (exported / name).read_bytes()
    raw = fastwan("ckpt", "consolidate", checkpoint, "-o", "raw", "--raw")
    assert raw.status == 0 and (tmp_path / "raw" / name).read_bytes() != (exported / name).read_bytes(), raw
    again = fastwan("ckpt", "consolidate", checkpoint, "-o", "out")
    assert again.status == 8 and "error[exists]" in again.err, again
    whole = fastwan("ckpt", "consolidate", checkpoint, "-o", "bf16", "--dtype", "bf16")
    assert whole.status == 2 and "error[conflict]" in whole.err, whole


def test_adapters_on_one_base_train_as_if_each_network_had_its_own(fastwan, tmp_path):
    from safetensors import safe_open
    lora = [f"--models.{role}.lora.{setting}" for role in ("student", "critic")
            for setting in ("enable=true", "rank=2", "target_modules=attn1.to_q,ffn")]
    for name, extra in (("own", []), ("shared", ["--models.student.lora.shared_base=true"])):
        write_recipe(tmp_path / name, DISTILL, steps=3)
        run = train(fastwan, tmp_path / name, *lora, *extra)
        assert run.status == 0, run
    assert metrics(tmp_path / "own") == metrics(tmp_path / "shared")
    files = [tmp_path / name / "run" / "export" / "pytorch_lora_weights.safetensors" for name in ("own", "shared")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with safe_open(files[0], "np") as adapters:
        layers = {key.split(".", 2)[2].split(".lora_")[0] for key in adapters.keys() if ".lora_" in key}
    assert layers == {"attn1.to_q", "ffn.net.0.proj", "ffn.net.2"}
    write_recipe(tmp_path / "typo", DISTILL)
    run = train(fastwan, tmp_path / "typo", "--models.student.lora.enable=true", "--models.student.lora.target_modules=to_w")
    assert run.status == 2 and "to_w" in run.err and "to_out" in run.err, run


def test_gates_that_were_trained_beside_adapters_are_what_generate_shows(fastwan, tmp_path):
    from safetensors.numpy import load_file, save_file
    lora = [f"--models.{role}.lora.{setting}" for role in ("student", "critic") for setting in ("enable=true", "rank=2")]
    write_recipe(tmp_path, DISTILL, steps=3)
    assert train(fastwan, tmp_path, *lora, "--training.optimizer.learning_rate=0.05").status == 0
    export = tmp_path / "run" / "export" / "pytorch_lora_weights.safetensors"
    weights = load_file(export)
    gates = [name for name in weights if "to_gate_compress" in name]
    assert len(gates) == 6 and all(abs(weights[name]).max() > 0 for name in gates)
    save_file({name: value for name, value in weights.items() if name not in gates}, tmp_path / "without.safetensors")

    # A base that has no gates of its own, as the published dense models.
    base = tmp_path / "base"
    shutil.copytree(MODEL, base)
    for file in (base / "transformer").glob("*.safetensors"):
        save_file({name: value for name, value in load_file(file).items() if "to_gate_compress" not in name}, file)
    latents = {}
    for model in (MODEL, base):
        for adapters in (tmp_path / "run" / "export", tmp_path / "without.safetensors"):
            made = fastwan("generate", "-m", model, "-p", PROMPT, "--seed", "7", "--lora", adapters, "--attention-backend", "vsa",
                           "-o", "video.png", "--overwrite", "--json")
            assert made.status == 0 and "fit nothing" not in made.err, made
            is_ungated = model == base and adapters.name == "without.safetensors"
            assert ("no coarse term" in made.err) == is_ungated, made
            latents[model.name, adapters.name] = json.loads(made.out)["results"][0]["latents_sha256"]
    assert latents[MODEL.name, "export"] == latents["base", "export"], "the gates are the file's"
    assert latents["base", "export"] != latents["base", "without.safetensors"]


def test_adapters_of_a_few_step_student_say_how_it_is_sampled(fastwan, tmp_path):
    from safetensors import safe_open
    from safetensors.numpy import load_file, save_file
    lora = [f"--models.{role}.lora.{setting}" for role in ("student", "critic") for setting in ("enable=true", "rank=2")]
    write_recipe(tmp_path, DISTILL, steps=2)
    assert train(fastwan, tmp_path, *lora).status == 0
    export = tmp_path / "run" / "export"
    with safe_open(export / "pytorch_lora_weights.safetensors", "np") as file:
        said = json.loads(file.metadata()["fastwan_sampling"])
    assert said["class_name"] == "WanDMDPipeline" and said["preset"]["dmd_denoising_steps"] == [1000, 757, 522], said
    whole = fastwan("ckpt", "consolidate", tmp_path / "run" / "checkpoint-2", "-o", tmp_path / "consolidated")
    assert whole.status == 0, whole
    with safe_open(tmp_path / "consolidated" / "pytorch_lora_weights.safetensors", "np") as file:
        assert json.loads(file.metadata()["fastwan_sampling"]) == said

    # A base of many steps.
    base = tmp_path / "base"
    shutil.copytree(MODEL, base)
    (base / "fastwan.json").write_text(json.dumps({
        **{k: v for k, v in json.loads((base / "fastwan.json").read_text()).items()
           if k not in ("dmd_denoising_steps", "warp_denoising_step", "VSA_sparsity", "sampler")},
        "num_inference_steps": 9, "guidance_scale": 4.0, "sampler": "unipc"}))
    index = json.loads((base / "model_index.json").read_text())
    (base / "model_index.json").write_text(json.dumps({**index, "_class_name": "WanPipeline"}))
    save_file(load_file(export / "pytorch_lora_weights.safetensors"), tmp_path / "silent.safetensors")

    def sampled(*words):
        made = fastwan("generate", "-m", base, "-p", PROMPT, "-o", "video.png", "--overwrite", "--json", *words)
        assert made.status == 0, made
        settings = json.loads(made.out)["settings"]
        return [settings.get(f"--{name}") for name in ("sampler", "steps", "guidance-scale", "dmd-denoising-steps", "VSA-sparsity")]
    assert sampled() == ["unipc", "9", "4", None, None] == sampled("--lora", tmp_path / "silent.safetensors")
    assert sampled("--lora", export) == ["dmd", "3", "1", "1000,757,522", "0.5"]
    mine = sampled("--lora", export, "--VSA-sparsity", "0.75", "--dmd-denoising-steps", "1000,500")
    assert mine == ["dmd", "2", "1", "1000,500", "0.75"], "the user's words count more"
    save_file(load_file(tmp_path / "silent.safetensors"), tmp_path / "bad.safetensors",
              metadata={"fastwan_sampling": json.dumps({"class_name": "", "preset": {"stepz": 3}})})
    bad = fastwan("generate", "-m", base, "-p", PROMPT, "--lora", tmp_path / "bad.safetensors")
    assert bad.status == 2 and "bad.safetensors, metadata fastwan_sampling" in bad.err and "stepz" in bad.err, bad


def add_snapshot(cache, commit):
    """models/tiny-shapes as the hub's client stores org/tiny: files are links to blobs; main names the new commit."""
    repository = cache / "models--org--tiny"
    for file in MODEL.rglob("*"):
        if file.is_file():
            link = repository / "snapshots" / commit / file.relative_to(MODEL)
            blob = repository / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, blob)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(commit)


def test_a_run_from_hub_ids_is_the_one_from_folders(fastwan, distilled, tmp_path):
    cache = tmp_path / "cache"
    add_snapshot(cache, "1111aaaa")
    env = {"HF_HUB_CACHE": str(cache)}
    of_hub = {**DISTILL, "model": "org/tiny", "more_models": DISTILL["more_models"].replace(str(MODEL), "org/tiny")}
    write_recipe(tmp_path, of_hub)
    absent = train(fastwan, tmp_path, "--models.critic.init_from=org/absent", env=env)
    assert absent.status == 4 and "error[not_found]: models.critic.init_from org/absent" in absent.err, absent
    assert str(cache) in absent.err and "hf download org/absent" in absent.err, absent
    planned = train(fastwan, tmp_path, "--dry-run", "--training.model_path=org/absent", env=env)
    assert planned.status == 4 and "training.model_path org/absent" in planned.err and str(cache) in planned.err, planned
    assert train(fastwan, tmp_path, "--dry-run", env=env).status == 0
    first = train(fastwan, tmp_path, "--training.loop.max_train_steps=6", env=env)
    assert first.status == 0, first
    assert manifest(tmp_path, 6)["snapshots"] == {
        key: "1111aaaa" for key in ("models.student.init_from", "models.teacher.init_from", "models.critic.init_from",
                                    "training.model_path")}
    # Another revision has the same names and shapes: only its commit tells.
    add_snapshot(cache, "2222bbbb")
    refused = train(fastwan, tmp_path, env=env)
    assert refused.status == 8 and "error[changed_run]" in refused.err, refused
    assert "the model of models.teacher.init_from was snapshot 1111aaaa of the hub cache, is snapshot 2222bbbb" in refused.err
    # The cache may move.
    (cache / "models--org--tiny" / "refs" / "main").write_text("1111aaaa")
    cache.rename(tmp_path / "moved")
    env = {"HF_HUB_CACHE": str(tmp_path / "moved")}
    last = train(fastwan, tmp_path, env=env)
    assert last.status == 0 and "step 6" in last.err, last
    assert state_digests(tmp_path, 12) == state_digests(distilled, 12)
    export = tmp_path / "run" / "export"
    assert not any(path.is_symlink() for path in export.rglob("*"))
    # The base is the run's snapshot, whatever main is now.
    (tmp_path / "moved" / "models--org--tiny" / "refs" / "main").write_text("2222bbbb")
    (tmp_path / "moved" / "models--org--tiny" / "snapshots" / "2222bbbb" / "fastwan.json").unlink()
    made = fastwan("ckpt", "consolidate", tmp_path / "run" / "checkpoint-12", "-o", "out", env=env)
    assert made.status == 0, made
    assert (tmp_path / "out" / "fastwan.json").read_bytes() == (export / "fastwan.json").read_bytes()
    gone = fastwan("ckpt", "consolidate", tmp_path / "run" / "checkpoint-12", "-o", "gone", env={"HF_HUB_CACHE": "/nowhere"})
    assert gone.status == 4 and "hf download org/tiny --revision 1111aaaa" in gone.err, gone


def test_a_teacher_that_was_trained_on_is_not_the_runs(fastwan, tmp_path):
    teacher = tmp_path / "teacher"
    shutil.copytree(MODEL, teacher)
    write_recipe(tmp_path, DISTILL, steps=3, more_models=DISTILL["more_models"].replace(f"teacher: {{_target_: wan, init_from: {MODEL}",
                                                                                        f"teacher: {{_target_: wan, init_from: {teacher}"))
    assert train(fastwan, tmp_path).status == 0
    more = "--training.loop.max_train_steps=4"
    weights = next((teacher / "transformer").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-3] ^= 1  # the same names and shapes
    weights.write_bytes(data)
    refused = train(fastwan, tmp_path, more)
    assert refused.status == 8 and "frozen weights of teacher are others" in refused.err, refused
    data[-3] ^= 1
    weights.write_bytes(data)
    # An earlier program's checkpoint tells of names and shapes alone.
    told = tmp_path / "run" / "checkpoint-3" / "manifest.json"
    text = re.sub(r"\+[0-9a-f]{64}", "", told.read_text())
    assert text != told.read_text()
    digest = json.loads(text)["sha256"]
    told.write_text(text.replace(digest, hashlib.sha256(text.replace(digest, "0" * 64).encode()).hexdigest()))
    assert train(fastwan, tmp_path, more).status == 0


def test_a_stop_while_it_loads_is_one_to_go_on_from(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, steps=2)
    words = [str(binary()), "train", "--config", "recipe.yaml", "--device", "cpu", "--threads", "1"]
    many = "--training.data.shapes.count=30000"  # clips that are encoded before the first step: a minute
    for asked, status in ((signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)):
        process = subprocess.Popen([*words, many], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (tmp_path / "run" / ".lock").exists():
            time.sleep(0.01)
        process.send_signal(asked)
        said = process.communicate(timeout=60)[1]
        assert process.returncode == status and "the same command goes on" in said, said
        (tmp_path / "run" / ".lock").unlink()
    assert train(fastwan, tmp_path).status == 0


def test_a_validation_and_an_export_that_a_stop_cut_short_are_made_up(fastwan, finetuned, tmp_path):
    shutil.copytree(finetuned / "run", tmp_path / "run")
    write_recipe(tmp_path, FINETUNE, steps=STEPS)
    wanted = ["--callbacks.validation.every_steps=20", f"--callbacks.validation.prompts={PROMPT}",
              "--callbacks.validation.sampling_steps=2", "--training.checkpoint.weight_only_checkpointing_steps=20"]
    made = train(fastwan, tmp_path, *wanted)
    assert made.status == 0, made
    listed = tmp_path / "run" / "validation" / f"step_{STEPS}" / "videos.json"
    weights = tmp_path / "run" / f"weights-{STEPS}" / "transformer"
    assert "no iteration is left" in made.err and listed.exists() and weights.exists(), made
    assert [line["step"] for line in metrics(tmp_path)].count(STEPS) == 2, "the step's, and the validation's"
    before = listed.stat().st_mtime_ns, weights.stat().st_mtime_ns
    assert train(fastwan, tmp_path, *wanted).status == 0
    assert (listed.stat().st_mtime_ns, weights.stat().st_mtime_ns) == before, "made once"
    assert state_digests(tmp_path, STEPS) == state_digests(finetuned, STEPS)


def test_the_plan_of_adapters_counts_what_the_checkpoint_holds(fastwan, tmp_path):
    write_recipe(tmp_path, DISTILL, steps=1)
    lora = [f"--models.{role}.lora.{setting}" for role in ("student", "critic") for setting in ("enable=true", "rank=2")]
    plan = json.loads(fastwan("train", "--config", "recipe.yaml", "--dry-run", "--json", *lora, cwd=tmp_path).out)
    assert train(fastwan, tmp_path, *lora).status == 0
    held = {}
    for unit in manifest(tmp_path, 1)["units"]:
        held[unit["role"]] = held.get(unit["role"], 0) + unit["numel"]
    assert held == {network["role"]: network["trained"] for network in plan["networks"] if network["trained"]}


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(fastwan, tmp_path):
    write_recipe(tmp_path, FINETUNE, steps=8)
    assert train(fastwan, tmp_path).status == 0
    broken = tmp_path / "run" / "checkpoint-8" / "state-0-0.safetensors"
    with open(broken, "r+b") as file:
        file.seek(broken.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    refused = train(fastwan, tmp_path, "--resume", "run/checkpoint-8")
    assert refused.status == 3 and "error[bad_checkpoint]" in refused.err and "state-0-0" in refused.err, refused
    again = train(fastwan, tmp_path)
    assert again.status == 0 and "passed over" in again.err and "checkpoint-4" in again.err, again
