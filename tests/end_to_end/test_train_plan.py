"""`fastwan train --dry-run` and `--print-recipe`: no weights, no tensor library, promised codes and messages."""
import json

import pytest
from conftest import ROOT
from test_faults import expect

RECIPES = ROOT / "recipes"
DISTILL = RECIPES / "wan2.1-1.3b-distill-vsa-64gpu.yaml"
TINY = RECIPES / "tiny-shapes" / "model"


def test_a_plan_names_memory_work_and_hours(fastwan):
    run = fastwan("train", "--config", DISTILL, "--dry-run", "--tflops", "400", "--gpu-memory", "80")
    assert run.status == 0, run
    for word in ["29120 (20 x 28 x 52), 455 tiles", "91 key tiles of 455", "student", "teacher", "critic", "fits",
                 "hours at 400 TFLOP/s"]:
        assert word in run.out, run
    assert "sizes of the published model are taken" in run.err


def test_the_document_holds_the_same(fastwan):
    run = fastwan("distill", "--config", DISTILL, "--dry-run", "--json", "--training.distributed.hsdp_shard_dim=64",
                  "--training.distributed.hsdp_replicate_dim=1")
    plan = json.loads(run.out)
    assert plan["tokens"] == 29120 and plan["tiles"] == 455 and plan["global_batch"] == 64
    student = next(network for network in plan["networks"] if network["role"] == "student")
    assert student["topk"] == 91
    # fp32 masters of 1.490e9 weights over 64 processes, padding included
    assert student["master_bytes"] == pytest.approx(4 * 1.490e9 / 64, rel=1e-3)


def test_the_printed_recipe_is_complete_and_stays_itself(fastwan, tmp_path):
    first = fastwan("train", "--config", DISTILL, "--print-recipe", "--training.optimizer.learning_rate=1e-5")
    assert first.status == 0 and "learning_rate: 1e-05" in first.out, first
    again = tmp_path / "again.yaml"
    again.write_text(first.out)
    second = fastwan("train", "--config", again, "--print-recipe")
    assert second.out == first.out, second


def test_flat_flags_alone_are_a_run(fastwan):
    flags = (ROOT / "tests/data/fastvideo/distill_1.3b_vsa_480p.flags").read_text().split()
    run = fastwan("train", *flags, "--dry-run", "--json")
    assert run.status == 0, run
    assert "--real-score-guidance-scale 3.5 is 4.5 on the standard scale" in run.err
    assert json.loads(run.out)["tokens"] == 21 * 30 * 52


def test_tiny_stages_plan_from_their_start_folder(fastwan):
    model = [f"--models.{role}.init_from={TINY}" for role in ("student", "teacher", "critic")]
    run = fastwan("train", "--config", RECIPES / "tiny-shapes" / "distill.yaml", *model,
                  f"--training.model_path={TINY}", "--dry-run", "--json")
    assert run.status == 0, run
    plan = json.loads(run.out)
    assert plan["tokens"] == 1152 and plan["tiles"] == 18
    assert "below about 10,000 sparse attention saves little" in run.err


def test_a_recipe_of_an_image_model_is_read_and_no_run_of_it_starts(fastwan):
    flags = (ROOT / "tests/data/fastvideo/finetune_i2v_14b_vsa_720p.flags").read_text().split()
    printed = fastwan("train", *flags, "--print-recipe")
    assert printed.status == 0 and "Wan2.1-I2V-14B-720P-Diffusers" in printed.out, printed
    told = "models.student.init_from Wan-AI/Wan2.1-I2V-14B-720P-Diffusers, so this recipe will not run"
    assert told in printed.err, printed
    for arguments in (["train", *flags, "--dry-run"], ["train", *flags],
                      ["generate", "-p", "a", "-m", "Wan-AI/Wan2.1-FLF2V-14B-720P-diffusers"]):
        refused = fastwan(*arguments)
        expect(refused, 3, "unsupported_model", "CLIP image features", "Wan2.2-TI2V-5B")
        assert "hf download" not in refused.err, "a download would not help"
    other = fastwan("train", "--config", DISTILL, "--print-recipe")
    assert other.status == 0 and "will not run" not in other.err, other


@pytest.mark.parametrize("arguments, status, code, words", [
    ([], 2, "usage", ["--config FILE"]),
    (["--config", "absent.yaml"], 4, "not_found", ["absent.yaml"]),
    (["--config", DISTILL, "--dry-rum"], 2, "unknown_option", ["Did you mean --dry-run?"]),
    (["--config", DISTILL, "--training.optimizer.learnig_rate=1"], 2, "unknown_key", ["learning_rate"]),
    (["--config", DISTILL, "--request.seed=1"], 2, "unknown_key", ["--request.seed"]),
    (["--config", DISTILL, "--method", "finetune"], 2, "conflict", ["recipe of method distill"]),
    (["--config", DISTILL, "--method", "sft"], 2, "bad_value", ["--method"]),
    (["--config", DISTILL, "--hsdp_shard_dim", "3"], 2, "conflict", ["hsdp_replicate_dim x hsdp_shard_dim"]),
    (["--config", DISTILL, "--method.dmd_denoising_steps=500,1000"], 2, "conflict", ["must fall"]),
    (["--config", DISTILL, "--dry-run", "--models.critic.init_from=no/such"], 4, "not_found", ["models.critic"]),
    (["--method._target_=fastvideo.x.SelfForcingMethod"], 2, "unsupported_method", ["SelfForcingMethod"]),
])
def test_mistakes_have_their_code(fastwan, arguments, status, code, words):
    expect(fastwan("train", *arguments), status, code, *words)
