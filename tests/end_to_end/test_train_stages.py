"""The stages that make a tiny model from nothing: text encoder, VAE and feature net on procedural clips."""
import json
import pathlib

import pytest

from conftest import ROOT, Mp4

RECIPES = ROOT / "recipes" / "tiny-shapes" / "ci"
START = ROOT / "recipes" / "tiny-shapes" / "model-ci"


def train(fastwan, stage, start, run, **changes):
    settings = {
        "models.student.init_from": start, "training.checkpoint.output_dir": run,
        "training.checkpoint.export_path": f"{run}/export", "training.data.num_frames": 9,
        "training.data.num_height": 32, "training.data.num_width": 32,
        **{name.replace("__", "."): value for name, value in changes.items()}}
    return fastwan("train", "--config", RECIPES / f"{stage}.yaml", "--device", "cpu", "--threads", "2",
                   *[f"--{name}={value}" for name, value in settings.items()])


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def train_vae(fastwan, start, run, steps):
    return train(fastwan, "vae", start, run, method__statistics_clips=8, training__data__shapes__crop_frames=5,
                 training__loop__max_train_steps=steps, training__optimizer__lr_scheduler="constant")


@pytest.fixture(scope="module")
def text(fastwan_in, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stages")
    run = train(fastwan_in(folder), "text", START, "text", training__loop__max_train_steps=40,
                training__data__train_batch_size=32)
    assert run.status == 0, run
    return folder


@pytest.fixture(scope="module")
def vae(fastwan_in, text):
    run = train_vae(fastwan_in(text), "text/export", "vae", 12)
    assert run.status == 0, run
    return text


def test_the_text_encoder_learns_and_transformers_loads_it(text):
    import torch
    from safetensors.torch import load_file
    from transformers import UMT5EncoderModel

    rows = metrics(text / "text")
    assert rows[-1]["train_loss"] < 0.8 * rows[0]["train_loss"]
    assert rows[-1]["accuracy"] > rows[0]["accuracy"]
    model, report = UMT5EncoderModel.from_pretrained(text / "text/export/text_encoder", output_loading_info=True)
    assert not report["unexpected_keys"]
    stored = load_file(text / "text/export/text_encoder/model.safetensors")
    assert not any("heads" in name for name in stored)
    assert torch.equal(model.shared.weight, stored["shared.weight"])


def test_the_vae_learns_and_diffusers_loads_it_with_its_latents_statistics(vae):
    import torch
    from diffusers import AutoencoderKLWan

    rows = metrics(vae / "vae")
    assert rows[-1]["vae_l1"] < rows[0]["vae_l1"]
    assert {"train_loss", "vae_kl", "vae_psnr"} <= rows[-1].keys()
    model, report = AutoencoderKLWan.from_pretrained(vae / "vae/export/vae", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    mean, std = model.config.latents_mean, model.config.latents_std
    assert len(mean) == len(std) == 8 and any(m != 0 for m in mean) and all(s > 0 and s != 1 for s in std)
    # Of the eight clips the statistics were taken from nothing is known here; those of a grey clip lie near.
    with torch.no_grad():
        grey = model.encode(torch.zeros(1, 3, 9, 32, 32)).latent_dist.mean.mean(dim=(0, 2, 3, 4))
    assert all(abs(g - m) < 20 * s for g, m, s in zip(grey.tolist(), mean, std))
    assert (vae / "vae/export/text_encoder/model.safetensors").is_file(), "the earlier stage's weights stay"


def test_a_stopped_vae_run_goes_on_as_if_it_had_not_stopped(fastwan_in, vae):
    fastwan = fastwan_in(vae)
    assert train_vae(fastwan, "text/export", "cut", 5).status == 0
    assert train_vae(fastwan, "text/export", "cut", 12).status == 0
    file = pathlib.Path("vae/diffusion_pytorch_model.safetensors")
    assert (vae / "cut/export" / file).read_bytes() == (vae / "vae/export" / file).read_bytes()
    assert (vae / "cut/export/vae/config.json").read_text() == (vae / "vae/export/vae/config.json").read_text()


def test_a_decoder_trained_alone_leaves_the_latents_as_they_are(fastwan_in, vae):
    from safetensors.torch import load_file

    settings = {"models__student__init": "pretrained", "method__train_encoder": "false", "method__kl_weight": 0,
                "training__data__shapes__crop_frames": 5, "training__loop__max_train_steps": 3}
    refused = train(fastwan_in(vae), "vae", "vae/export", "decoder", **settings)
    assert refused.status != 0 and "weight_decay" in refused.err, refused
    run = train(fastwan_in(vae), "vae", "vae/export", "decoder", **settings, training__optimizer__weight_decay=0)
    assert run.status == 0, run
    assert (vae / "decoder/export/vae/config.json").read_text() == (vae / "vae/export/vae/config.json").read_text()
    before, after = (load_file(vae / name / "export/vae/diffusion_pytorch_model.safetensors") for name in ("vae", "decoder"))
    assert before.keys() == after.keys()
    for name, weight in before.items():
        is_kept = name.startswith(("encoder.", "quant_conv."))
        assert bool((weight == after[name]).all()) == is_kept, name


def test_the_feature_net_learns_and_is_one_file(fastwan_in, text):
    from safetensors.torch import load_file

    run = train(fastwan_in(text), "features", START, "features", training__loop__max_train_steps=30)
    assert run.status == 0, run
    rows = metrics(text / "features")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    weights = load_file(text / "features/export/model.safetensors")
    assert sum(w.numel() for w in weights.values()) == 183_004


@pytest.mark.parametrize("stage,last", [("text", 40), ("vae", 12)])
def test_a_checkpoint_of_a_component_consolidates_to_what_the_run_exported(fastwan_in, vae, tmp_path, stage, last):
    made = fastwan_in(vae)("ckpt", "consolidate", f"{stage}/checkpoint-{last}", "-o", tmp_path / "out")
    assert made.status == 0, made
    exported = vae / stage / "export"
    names = sorted(p.relative_to(exported) for p in exported.rglob("*") if p.is_file())
    assert names == sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*") if p.is_file())
    for name in names:
        assert (tmp_path / "out" / name).read_bytes() == (exported / name).read_bytes(), name


def test_a_checkpoint_of_the_feature_net_consolidates_to_its_file(fastwan_in, text, tmp_path):
    fastwan = fastwan_in(text)
    run = train(fastwan, "features", START, "net", training__loop__max_train_steps=3, training__data__train_batch_size=4)
    assert run.status == 0, run
    made = fastwan("ckpt", "consolidate", "net/checkpoint-3", "-o", tmp_path / "out")
    assert made.status == 0, made
    name = "model.safetensors"
    assert (tmp_path / "out" / name).read_bytes() == (text / "net/export" / name).read_bytes()
    refused = fastwan("ckpt", "consolidate", "net/checkpoint-3", "-o", tmp_path / "other", "--dtype", "bf16")
    assert refused.status == 2 and "error[conflict]" in refused.err and "feature net" in refused.err, refused


def test_a_teacher_starts_from_the_vae_and_its_export_makes_a_video(fastwan_in, vae):
    fastwan = fastwan_in(vae)
    run = train(fastwan, "teacher", "vae/export", "teacher", training__model_path="vae/export",
                training__loop__max_train_steps=2, training__optimizer__lr_warmup_steps=0,
                training__data__train_batch_size=2,
                training__data__shapes__count=8)
    assert run.status == 0, run
    made = fastwan("generate", "-m", "teacher/export", "-p", "a small red circle", "--steps", "2", "-o", "out.mp4",
                   "--num-frames", "9")
    assert made.status == 0, made
    assert Mp4(vae / "out.mp4").frames == 9


def test_weights_that_do_not_exist_are_named(fastwan_in, text):
    run = train(fastwan_in(text), "vae", START, "again", models__student__init="pretrained",
                training__data__shapes__crop_frames=5)
    assert run.status == 4 and "error[not_found]" in run.err and "vae" in run.err, run
