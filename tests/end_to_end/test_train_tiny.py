"""`tools/train_tiny`: the stages of the tiny experiment, run, stopped, killed and gone on with."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from conftest import MODEL, PROMPT, ROOT, binary, preset_of_model

TOOL = ROOT / "tools" / "train_tiny"
SMALL = ["training.data.num_frames=9", "training.data.num_height=32", "training.data.num_width=32",
         "training.data.train_batch_size=4"]


def tool(folder, *words, timeout_s=600):
    return subprocess.run(command(folder, *words), capture_output=True, text=True, timeout=timeout_s, env=environment())


def command(folder, *words):
    return [sys.executable, str(TOOL), "--ci", "--device", "cpu", "--work", str(folder), *map(str, words)]


def environment():
    return {**os.environ, "FASTWAN_BIN": str(binary()), "CI": "1"}


def settings(**more):
    changes = [*SMALL, *[f"{name.replace('__', '.')}={value}" for name, value in more.items()]]
    return [word for change in changes for word in ("--set", change)]


def progress(folder, stage):
    return json.loads((folder / "runs/tiny-shapes-ci" / stage / "progress.json").read_text())


def test_stages_run_once_in_order_and_say_what_they_need(tmp_path):
    run = tool(tmp_path, "--stage", "teacher")
    assert run.returncode != 0 and "needs vae first: tools/train_tiny --ci --stage vae" in run.stderr
    few = settings(training__loop__max_train_steps=3, training__loop__max_seconds=100)
    run = tool(tmp_path, "--stage", "features", "text", *few)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [["text", "done", "3/3"], ["features", "done", "3/3"]]
    assert "train_loss" in lines[0]
    assert (tmp_path / "runs/tiny-shapes-ci/text/export/text_encoder/model.safetensors").exists()
    entry = progress(tmp_path, "features")
    assert entry["status"] == "done" and entry["chunks"] == 1 and entry["metrics"]["train_loss"] > 0

    again = tool(tmp_path, "--stage", "text", "features", *few)
    assert again.returncode == 0 and again.stdout.count("(kept)") == 2
    assert progress(tmp_path, "features") == entry
    listed = tool(tmp_path, "--list")
    assert "needs vsa, synth-ode" in listed.stdout and "needs teacher, ode, synth\n" in listed.stdout and "needs teacher, ode, synth-ode\n" in listed.stdout and listed.stdout.splitlines()[0].split()[:2] == ["text", "done"]


def test_a_finished_stage_whose_recipe_has_changed_is_refused_until_it_is_accepted(tmp_path):
    words = ["--stage", "features"]
    was, now = settings(training__loop__max_train_steps=3), settings(training__loop__max_train_steps=4)
    assert tool(tmp_path, *words, *was).returncode == 0
    made = progress(tmp_path, "features")
    assert len(made["recipe_sha256"]) == 64

    changed = tool(tmp_path, *words, *now)
    assert changed.returncode == 2 and "has changed since" in changed.stderr, changed
    assert str(tmp_path / "runs/tiny-shapes-ci/features") in changed.stderr and "--keep" in changed.stderr
    assert "(kept)" not in changed.stdout and progress(tmp_path, "features") == made
    refused = tool(tmp_path, *words, "--set", "training.optimizer.learning_rat=1")
    assert refused.returncode == 2 and "learning_rat" in refused.stderr, refused

    for extra in (["--keep"], []):  # accepted once, accepted from then on
        kept = tool(tmp_path, *words, *now, *extra)
        assert kept.returncode == 0 and "(kept)" in kept.stdout, kept
    assert progress(tmp_path, "features")["recipe_sha256"] == made["recipe_sha256"]
    assert tool(tmp_path, *words, *was).returncode == 0
    assert tool(tmp_path, *words, *settings(training__loop__max_train_steps=5)).returncode == 2


def test_a_stage_finished_before_digests_were_kept_counts_as_unchanged(tmp_path):
    folder = tmp_path / "runs/tiny-shapes-ci/features"
    (folder / "export").mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"stage": "features", "status": "done", "seconds": 1, "chunks": 1}))
    run = tool(tmp_path, "--stage", "features", *settings(training__loop__max_train_steps=4))
    assert run.returncode == 0 and "(kept)" in run.stdout, run


def test_a_budget_that_is_over_starts_nothing(tmp_path):
    # A stage begins where 50 s are left: the first does, and takes more than the other 2.
    run = tool(tmp_path, "--stage", "text", "features", "--budget", "52", *settings(training__loop__max_train_steps=300))
    assert run.returncode == 75 and progress(tmp_path, "text")["status"] == "done", run
    assert not (tmp_path / "runs/tiny-shapes-ci/features").exists()
    # 75 would be asked again for ever where the whole budget is too little.
    hopeless = tool(tmp_path, "--stage", "features", "--budget", "5")
    assert hopeless.returncode == 2 and "at least 20 seconds" in hopeless.stderr, hopeless
    for stage, budget, least in (("features", "49", "say 50 or more"), ("evaluate", "79", "say 80 or more")):
        hopeless = tool(tmp_path, "--stage", stage, "--budget", budget)
        assert hopeless.returncode == 1 and f"--budget {budget} is too little" in hopeless.stderr and least in hopeless.stderr, hopeless


def test_a_stage_whose_input_was_made_anew_is_refused_until_it_is_accepted(tmp_path):
    finished(tmp_path, "text", "vae", "teacher")
    runs = tmp_path / "runs/tiny-shapes-ci"
    words = ["--stage", "vsa", *settings(training__loop__max_train_steps=1, training__data__shapes__count=4,
                                         training__optimizer__lr_warmup_steps=0)]
    made = tool(tmp_path, *words)
    assert made.returncode == 0, made.stderr
    assert list(progress(tmp_path, "vsa")["inputs"]) == ["teacher"]
    assert tool(tmp_path, *words).returncode == 0
    weights = runs / "teacher/export/transformer/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    refused = tool(tmp_path, *words)
    assert refused.returncode == 2 and "the export of teacher is another" in refused.stderr, refused
    for extra in (["--keep"], []):
        assert tool(tmp_path, *words, *extra).returncode == 0


def test_what_belongs_to_the_registered_experiment_is_not_replaced_by_smoke(tmp_path):
    finished(tmp_path, *SHIPPED)
    for words, said in ((["--ship"], "wants a FOLDER"), (["--publish"], "registered"), (["--samples", "8", "--publish"], "registered"),
                        (["--ship", ""], "empty name")):
        run = tool(tmp_path, *words)
        assert run.returncode == 2 and said in run.stderr, run


def test_unpacking_takes_nothing_it_does_not_know_and_replaces_nothing(tmp_path):
    nothing = tool(tmp_path, "--unpack", tmp_path)
    assert nothing.returncode == 1 and "tiny-shapes-ci-1.tar" in nothing.stderr, nothing
    finished(tmp_path, "text")
    packed = tool(tmp_path, "--stage", "pack")
    assert packed.returncode == 0, packed.stderr
    again = tool(tmp_path, "--unpack", tmp_path / "runs/tiny-shapes-ci/leaving")
    assert again.returncode == 1 and "error[exists]" in again.stderr and "text" in again.stderr, again


def test_a_second_driver_is_refused_while_one_works(tmp_path):
    import fcntl
    runs = tmp_path / "runs/tiny-shapes-ci"
    runs.mkdir(parents=True)
    with open(runs / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run = tool(tmp_path, "--stage", "text")
    assert run.returncode == 1 and "error[locked]" in run.stderr, run
    broken = runs / "text"
    broken.mkdir()
    (broken / "progress.json").write_text("{")
    run = tool(tmp_path, "--list")
    assert run.returncode == 1 and "error[bad_file]" in run.stderr and "progress.json" in run.stderr, run


def test_a_killed_driver_takes_its_child_along_and_the_next_call_goes_on(tmp_path):
    words = ["--stage", "features",
             *settings(training__loop__max_train_steps=30, training__checkpoint__training_state_checkpointing_steps=2)]
    first = subprocess.Popen(command(tmp_path, *words), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run_folder = tmp_path / "runs/tiny-shapes-ci/features"
    deadline = time.monotonic() + 120
    while not list(run_folder.glob("checkpoint-*/manifest.json")):
        assert first.poll() is None and time.monotonic() < deadline, "no checkpoint came"
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = tool(tmp_path, *words)
    assert second.returncode == 0, second.stderr
    assert "30/30" in second.stdout
    steps = [json.loads(line)["step"] for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 31)), "the second call did not go on where the first was"
    assert progress(tmp_path, "features")["status"] == "done"


def test_ctrl_c_at_a_terminal_reaches_the_child_once(tmp_path):
    """A terminal signals the whole group, and the driver hands its signal on; two would end the child without a checkpoint."""
    words = ["--stage", "features",
             *settings(training__loop__max_train_steps=100000, training__checkpoint__training_state_checkpointing_steps=100000)]
    run_folder = tmp_path / "runs/tiny-shapes-ci/features"
    for begun in (0, 1, 2):  # one in two was lost before
        run = subprocess.Popen(command(tmp_path, *words), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
        deadline = time.monotonic() + 120
        steps = begun_with = len((run_folder / "metrics.jsonl").read_text().splitlines()) if begun else 0
        while steps < begun_with + 3:
            assert run.poll() is None and time.monotonic() < deadline, "no step came"
            time.sleep(0.02)
            steps = len((run_folder / "metrics.jsonl").read_text().splitlines()) if (run_folder / "metrics.jsonl").exists() else 0
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(120) == 75
        assert progress(tmp_path, "features")["status"] == "stopped"
        assert len(list(run_folder.glob("checkpoint-*/manifest.json"))) >= 1, "stopped without a checkpoint"
        assert f"stopped after iteration {progress(tmp_path, 'features')['step']}" in (run_folder / "train.log").read_text()


def test_latency_is_stopped_by_a_signal(tmp_path):
    finished(tmp_path, "distill")
    program = tmp_path / "program"
    program.write_text(f"#!{sys.executable}\nimport pathlib, time\npathlib.Path('begun').write_text('')\ntime.sleep(60)\n")
    program.chmod(0o755)
    run = subprocess.Popen(command(tmp_path, "--stage", "latency"), env={**environment(), "FASTWAN_BIN": str(program)})
    begun = tmp_path / "runs/tiny-shapes-ci/latency/begun"
    deadline = time.monotonic() + 60
    while not begun.exists():
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    assert run.wait(30) == 75


def test_files_of_another_kind_are_named(tmp_path):
    runs = tmp_path / "runs/tiny-shapes-ci"
    (runs / "text").mkdir(parents=True)
    (runs / "text/progress.json").write_text("[]")
    run = tool(tmp_path, "--list")
    assert run.returncode == 1 and "error[bad_file]" in run.stderr and "progress.json" in run.stderr, run
    (runs / "text/progress.json").write_text('{"status": "stopped"}')
    assert tool(tmp_path, "--list").stdout.splitlines()[0].split()[:3] == ["text", "stopped", "0.0"]
    few = tool(tmp_path, "--samples", "7")
    assert few.returncode == 2 and "--samples wants at least 8" in few.stderr, few
    assert "--budget wants" in tool(tmp_path, "--budget", "nan").stderr
    twice = tool(tmp_path, "--set", "training.data.seed=1", "--set", "training.data.seed=2")
    assert twice.returncode == 2 and "--set training.data.seed is given twice" in twice.stderr, twice


def test_what_fails_is_told_with_the_programs_words(tmp_path):
    run = tool(tmp_path, "--stage", "text", "--set", "training.optimizer.learning_rat=1")
    assert run.returncode not in (0, 75) and "learning_rat" in run.stderr and "train.log" in run.stderr


def test_ten_prompts_are_judged_by_their_codes(tmp_path):
    run = tool(tmp_path, "--judge", MODEL, "--device", "cpu")
    assert run.returncode in (0, 1), run.stderr
    right = int(run.stdout.split()[0])
    assert (right >= 8) == (run.returncode == 0) and "of 10 prompts right in everything" in run.stdout, run
    missing = tool(tmp_path, "--judge", tmp_path / "nothing", "--device", "cpu")
    assert missing.returncode == 1 and "error[" in missing.stderr, missing


SHIPPED = ["text", "features", "vae", "teacher", "distill"]


def finished(folder, *stages):
    """Stages whose exports are what the small model of the tests holds."""
    for stage in stages:
        export = folder / "runs/tiny-shapes-ci" / stage / "export"
        if stage == "features":
            export.mkdir(parents=True)
            shutil.copy(MODEL / "text_encoder/model.safetensors", export)
        else:
            shutil.copytree(MODEL, export)
        (export.parent / "progress.json").write_text(json.dumps({"stage": stage, "status": "done", "seconds": 1, "chunks": 1, "step": 7}))
    if "teacher" in stages:
        preset = {**preset_of_model(), "num_inference_steps": 2, "guidance_scale": 3.5, "flow_shift": 3.0, "sampler": "unipc"}
        for name in ("dmd_denoising_steps", "VSA_sparsity"):
            del preset[name]
        teacher = folder / "runs/tiny-shapes-ci/teacher/export"
        (teacher / "fastwan.json").write_text(json.dumps(preset))
        index = json.loads((teacher / "model_index.json").read_text())
        (teacher / "model_index.json").write_text(json.dumps({**index, "_class_name": "WanPipeline"}))


def types_of(file):
    from safetensors import safe_open
    with safe_open(file, "pt") as tensors:
        return {str(tensors.get_tensor(name).dtype) for name in tensors.keys()}


def test_a_finished_student_becomes_a_checkpoint_with_its_teacher(tmp_path, fastwan):
    finished(tmp_path, *SHIPPED)
    runs, model = tmp_path / "runs/tiny-shapes-ci", tmp_path / "models/mine"
    rates = {stage: {"value": rate, "low": rate - 0.01, "high": rate + 0.01} for stage, rate in (("seen", 0.9375), ("held_out", 0.875))}
    row = {"name": "student", "title": "sparse student", "status": "done", "distances": {"frechet": {"value": 12.34}, "coverage": 0.5},
           **{stage: {"clips": 2048, "all_correct": rate} for stage, rate in rates.items()}}
    (runs / "evaluation").mkdir()
    (runs / "evaluation/report.json").write_text(json.dumps({"rows": [row, {"name": "teacher", "status": "not_run", "reason": "none"}]}))
    run = tool(tmp_path, "--ship", model)
    assert run.returncode == 0, run.stderr
    shown = {line.split()[0]: line for line in run.stdout.splitlines()}
    assert {"transformer", "vae", "text_encoder", "features", "teacher/transformer", "all"} <= set(shown)
    assert float(shown["all"].split(" MB")[0].split()[-1]) == pytest.approx(
        sum(f.stat().st_size for f in model.rglob("*") if f.is_file() and not any(p.is_symlink() for p in (f, f.parent))) / 1e6, abs=0.01)
    assert os.listdir(model.parent) == ["mine"]

    weights = "diffusion_pytorch_model.safetensors"
    assert types_of(model / "transformer" / weights) == types_of(model / "teacher/transformer" / weights) == {"torch.bfloat16"}
    for part, file in (("vae", weights), ("text_encoder", "model.safetensors")):
        assert types_of(model / part / file) <= {"torch.float16", "torch.bfloat16"}, part
    from safetensors.torch import load_file
    ours, theirs = load_file(model / "transformer" / weights), load_file(MODEL / "transformer" / weights)
    assert ours.keys() == theirs.keys()
    assert all((ours[name] == theirs[name].bfloat16()).all() for name in theirs), "not rounded as torch rounds"
    assert all((model / "teacher" / part).is_symlink() and (model / "teacher" / part / "..").exists()
               and not pathlib.PurePath(os.readlink(model / "teacher" / part)).is_absolute() for part in ("vae", "text_encoder", "tokenizer"))
    readme = (model / "README.md").read_text()
    assert "2048 prompts" in readme and "0.938 (0.927 to 0.948)" in readme and "12.3" in readme and "7 steps, seed 1000" in readme, readme

    moved = tmp_path / "elsewhere"
    model.rename(moved)  # links are relative, nothing names the runs
    shutil.rmtree(runs)
    student = fastwan("generate", "-m", moved, "-p", PROMPT, "--seed", "7", "-o", "s.mp4", "--json")
    settings = json.loads(student.out)["settings"]
    assert (settings["--sampler"], settings["--dmd-denoising-steps"], settings["--flow-shift"]) == ("dmd", "1000,757,522", "8"), student
    teacher = fastwan("generate", "-m", moved / "teacher", "-p", PROMPT, "--seed", "7", "-o", "t.mp4", "--json")
    settings = json.loads(teacher.out)["settings"]
    assert (settings["--sampler"], settings["--steps"], settings["--guidance-scale"], settings["--flow-shift"]) == (
        "unipc", "2", "3.5", "3"), teacher


def test_a_checkpoint_is_refused_where_a_stage_is_missing_or_it_is_too_large(tmp_path):
    finished(tmp_path, "text", "vae", "teacher", "distill")
    runs, model = tmp_path / "runs/tiny-shapes-ci", tmp_path / "model"
    missing = tool(tmp_path, "--ship", model)
    assert missing.returncode == 1 and "needs features first" in missing.stderr and not model.exists(), missing
    finished(tmp_path, "features")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/mine.txt").write_text("mine")
    other = tool(tmp_path, "--ship", tmp_path / "notes")
    assert other.returncode == 1 and "no checkpoint" in other.stderr and os.listdir(tmp_path / "notes") == ["mine.txt"], other

    shipped = sum(1 for _ in tool(tmp_path, "--ship", model).stdout.splitlines())
    assert shipped == 7 and (model / "teacher").is_dir()
    limit = 20_000_000
    whole = sum(f.stat().st_size for f in model.rglob("*") if f.is_file() and not any(p.is_symlink() for p in (f, f.parent)))
    padding = runs / "features/export/padding.bin"
    padding.write_bytes(bytes(limit - whole + 1))
    without = tool(tmp_path, "--ship", model)
    assert without.returncode == 0 and "The teacher stays out" in without.stdout, without
    assert not (model / "teacher").exists() and "teacher/" not in (model / "README.md").read_text()
    padding.write_bytes(bytes(limit))
    before = sorted(model.rglob("*"))
    large = tool(tmp_path, "--ship", model)
    assert large.returncode == 1 and "error[too_large]" in large.stderr and sorted(model.rglob("*")) == before, large
    padding.unlink()
    weights = runs / "distill/export/transformer/diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-4:] = b"\x00\x00\x80\x7f"  # infinity
    weights.write_bytes(data)
    broken = tool(tmp_path, "--ship", model)
    assert broken.returncode == 1 and "not finite" in broken.stderr and sorted(model.rglob("*")) == before, broken


def test_trajectories_of_the_teacher_start_the_few_step_student(tmp_path):
    finished(tmp_path, "vae", "teacher", "vsa")
    sizes = ["training.data.num_frames=17", "training.data.train_batch_size=4", "training.loop.max_train_steps=3"]  # of that model
    words = [word for change in sizes for word in ("--set", change)]
    early = tool(tmp_path, "--stage", "ode", *words)
    assert early.returncode != 0 and "ode needs synth-ode first" in early.stderr, early
    run = tool(tmp_path, "--stage", "ode", "synth-ode", *words)
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["synth-ode", "done"], ["ode", "done"]] and "rows 64" in lines[0], run
    preset = json.loads((tmp_path / "runs/tiny-shapes-ci/ode/export/fastwan.json").read_text())
    assert (preset["sampler"], preset["dmd_denoising_steps"], preset["flow_shift"]) == ("dmd", [1000, 757, 522], 5.0), preset


@pytest.mark.slow
def test_the_whole_chain(tmp_path):
    run = tool(tmp_path, "--samples", "16", timeout_s=1500)  # nine minutes on two shared cores, 220 s of them the VAE
    assert run.returncode == 0, run.stdout + run.stderr
    report = json.loads((tmp_path / "runs/tiny-shapes-ci/evaluation/report.json").read_text())
    states = {row["name"]: row["status"] for row in report["rows"]}
    assert {name for name, state in states.items() if state != "done"} == {
        "ablation_none", "ablation_no_gate", "ablation_sparsity_0_9", "ablation_ratio_1", "ablation_no_guidance", "ablation_no_ode", "ablation_regression",
        "ablation_first_step", "ablation_dense"}
    verdicts = {gate["id"]: gate["verdict"] for gate in report["gates"]}
    assert verdicts["Q13"] == "pass" and verdicts["Q0"] == "too few"
    packed = list((tmp_path / "runs/tiny-shapes-ci/leaving").glob("*.tar"))
    assert packed and all(file.stat().st_size <= 16e6 for file in packed)
    unpacked = tmp_path / "elsewhere"
    unpacked.mkdir()
    assert tool(unpacked, "--unpack", packed[0].parent).returncode == 0
    made = subprocess.run(
        [str(binary()), "generate", "-m", "runs/tiny-shapes-ci/distill/export", "-p", "a small red circle", "--save-frames",
         "frames.safetensors"], cwd=unpacked, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert tool(tmp_path, "--ship", tmp_path / "model").returncode == 0
    made = subprocess.run([str(binary()), "generate", "-m", "model/teacher", "-p", "a small red circle", "-o", "teacher.mp4"],
                          cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr


PROGRAM = """#!{python}
# Trains nothing: exports are empty, the evaluation says what `verdicts` holds.
import json, pathlib, sys
words = sys.argv[1:]
if words[0] == "train" and "--print-recipe" not in words:
    stage = pathlib.Path(words[words.index("--config") + 1]).stem
    for part in (".", "text_encoder", "vae", "transformer"):
        (pathlib.Path("runs/tiny-shapes") / stage / "export" / part).mkdir(parents=True, exist_ok=True)
if words[:2] == ["preprocess", "synth"]:
    (pathlib.Path(words[words.index("--out") + 1]) / "combined_parquet_dataset").mkdir(parents=True)
if words[:2] == ["eval", "experiment"]:
    names = words[words.index("--rows") + 1].split(",") if "--rows" in words else []
    with open("asked", "a") as asked:
        asked.write(",".join(names) + "\\n")
    condition = dict(figure="a.b", value=0.5, comparison="at least", bound=0.9, holds=False)
    gates = [dict(id=name, quantity="quantity of " + name, kind=kind, verdict=verdict, conditions=[condition])
             for name, (kind, verdict) in json.loads(pathlib.Path("verdicts").read_text()).items()]
    rows = [dict(name=name, status="done", seen=dict(all_correct=dict(value=0.5))) for name in names]
    pathlib.Path("runs/tiny-shapes/evaluation").mkdir(exist_ok=True)
    pathlib.Path("runs/tiny-shapes/evaluation/report.json").write_text(json.dumps(dict(rows=rows, gates=gates)))
"""


def test_a_gate_that_fails_stops_what_comes_after_it(tmp_path):
    program = tmp_path / "program"
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)

    def whole(*words, **verdicts):
        (tmp_path / "verdicts").write_text(json.dumps({"Q1": ("fail", "pass"), "Q4": ("fail", "pass"), **verdicts}))
        (tmp_path / "asked").write_text("")
        run = subprocess.run([sys.executable, str(TOOL), "--device", "cpu", "--work", str(tmp_path), *words], capture_output=True,
                             text=True, env={**os.environ, "FASTWAN_BIN": str(program)})
        return run, (tmp_path / "asked").read_text().splitlines()

    first, asked = whole(Q4=("fail", "fail"), Q6=("fail", "fail"))
    assert first.returncode == 3, first
    assert "error[gate]: Q4, quantity of Q4: a.b is 0.5, wanted at least 0.9" in first.stderr and "--past-gates" in first.stderr
    assert "Q6" not in first.stderr, "read behind distill alone"
    assert asked == ["real,vae", "teacher"] and not (tmp_path / "runs/tiny-shapes/vsa").exists()

    again, asked = whole(Q4=("fail", "fail"))  # a finished stage is held to its gates too
    assert again.returncode == 3 and asked == ["real,vae", "teacher"] and "teacher" in again.stdout
    alone, asked = whole("--stage", "vsa", Q4=("fail", "fail"))  # a stage by name is meant
    assert alone.returncode == 0 and asked == [], alone
    on, asked = whole("--past-gates", Q4=("fail", "fail"), Q5=("report", "fail"))
    assert on.returncode == 0 and "error[gate]: Q4" in on.stderr and "Q5" not in on.stderr, on
    assert len(asked) == 4 and asked[2].endswith(",student") and asked[3] == "", "distill's gates, then the whole evaluation"
