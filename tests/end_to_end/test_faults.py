"""Bad input gives the promised code, exit status and message; faults and Ctrl-C leave nothing behind."""
import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess

import pytest
from conftest import MODEL, PROMPT, binary, leftovers, small


def expect(run, status, code, *words):
    assert run.status == status, run
    assert run.out == "", run
    line = [text for text in run.err.splitlines() if text.startswith("error[")]
    assert len(line) == 1, run
    assert line[0].startswith(f"error[{code}]: "), run
    for word in words:
        assert word in line[0], run
    assert "terminate called" not in run.err and "what():" not in run.err


BAD_USAGE = [
    (["generat"], 2, "usage", ["Did you mean generate?"]),
    (["generate", "--widht", "64"], 2, "unknown_option", ["--widht", "Did you mean --width?"]),
    (["generate", "-p", "a"], 2, "usage", ["--model-path"]),
    (["generate", "-m", MODEL], 2, "usage", ["--prompt"]),
    (["generate", "-m", "no/such/folder", "-p", "a"], 4, "not_found", ["no/such/folder"]),
    (["generate", "-m", "org/absent-model", "-p", "a"], 4, "not_found", ["org/absent-model", "download"]),
    (small("--width", "832.5"), 2, "bad_value", ["--width", "832.5"]),
    (small("--width", "0x40"), 2, "bad_value", ["--width"]),
    (small("--width", "99999999999999999999"), 2, "bad_value", ["--width"]),
    (small("--num-frames", "8"), 2, "bad_value", ["--num-frames", "Nearest"]),
    (small("--height", "33"), 2, "bad_value", ["--height", "Nearest"]),
    (small("--seed", "1"), 2, "conflict", ["--seed"]),
    (small("--steps", "7"), 2, "conflict", ["--steps 7", "--dmd-denoising-steps"]),
    (small("--guidance-scale", "5"), 2, "conflict", ["--guidance-scale"]),
    (small("--sampler", "ddim"), 2, "bad_value", ["--sampler", "unipc"]),
    (small("--preset", "wan_t2v_1_3"), 2, "bad_value", ["wan_t2v_1_3b"]),
    (small("--image", "no.png"), 3, "unsupported_model", ["--image"]),
    (small("--prompt-file", "x.txt"), 2, "conflict", ["--prompt"]),
    (small("-o", "clip.avi"), 2, "bad_value", [".mp4"]),
    (small("-o", "x" * 300 + ".mp4"), 2, "bad_value", ["235 bytes", "304"]),
    (small("-o", "no/such/folder/clip.mp4"), 4, "not_found", ["no/such/folder"]),
    (small("--lora", "no.safetensors"), 4, "not_found", ["no.safetensors"]),
    (small("--noise", "no.safetensors"), 4, "not_found", ["no.safetensors"]),
    (small("--config", "no.yaml"), 4, "not_found", ["no.yaml"]),
    (small("--device", "cuda:77"), 5, "no_gpu", ["cuda:77"]),
    (small("--device", "tpu"), 2, "bad_value", ["--device", "tpu"]),
    (small("--contact-sheet", "big"), 2, "bad_value", ["--contact-sheet"]),
    (small("--request.sampling.sed=5"), 2, "unknown_key", ["request.sampling.seed"]),
    (["inspect", "no-such-file.mp4"], 4, "not_found", ["no-such-file.mp4: no such file"]),
    (["inspect", "folder/no-such-file.mp4"], 4, "not_found", ["folder/no-such-file.mp4: no such file"]),
]


@pytest.mark.parametrize("words,status,code,parts", BAD_USAGE, ids=[" ".join(str(w) for w in c[0])[-60:] for c in BAD_USAGE])
def test_bad_usage(fastwan, tmp_path, words, status, code, parts):
    expect(fastwan(*words), status, code, *parts)
    assert leftovers(tmp_path) == []


def test_errors_as_json_on_request(fastwan):
    run = fastwan("generate", "--error-format", "json", "--widht", "64")
    assert json.loads(run.err)["error"]["code"] == "unknown_option"
    assert run.status == 2


def test_an_existing_file_needs_overwrite(fastwan, tmp_path):
    (tmp_path / "clip.mp4").write_text("precious")
    expect(fastwan(*small("-o", "clip.mp4")), 8, "exists", "clip.mp4", "--overwrite")
    assert (tmp_path / "clip.mp4").read_text() == "precious"
    assert fastwan(*small("-o", "clip.mp4", "--overwrite")).status == 0


@pytest.fixture
def model_copy(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    return folder


def weights(model, component="transformer"):
    return next((model / component).glob("*.safetensors"))


def damage_truncate(model):
    file = weights(model)
    file.write_bytes(file.read_bytes()[:-1000])
    return 3, "bad_offsets", file.name


def damage_header(model):
    file = weights(model)
    file.write_bytes(b"\xff" * 8 + file.read_bytes()[8:])
    return 3, "bad_header", file.name


def damage_lfs(model):
    file = weights(model)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    return 3, "lfs_pointer", file.name


def damage_missing_weight(model):
    from safetensors.numpy import load_file, save_file
    file = weights(model)
    tensors = load_file(file)
    del tensors["blocks.0.attn1.to_q.weight"]
    save_file(tensors, file)
    return 3, "missing_weights", "blocks.0.attn1.to_q.weight"


def damage_nan(model):
    import numpy
    from safetensors.numpy import load_file, save_file
    file = weights(model)
    tensors = load_file(file)
    tensors["blocks.0.attn1.to_q.weight"][0, 0] = numpy.nan
    save_file(tensors, file)
    return 3, "non_finite_weights", "blocks.0.attn1.to_q.weight"


def damage_config(model):
    file = model / "transformer" / "config.json"
    file.write_text(file.read_text()[:-20])
    return 3, "bad_json", "config.json"


def damage_no_index(model):
    (model / "model_index.json").unlink()
    return None, None, "model_index.json"


def damage_pickle(model):
    file = weights(model)
    file.rename(file.with_name("diffusion_pytorch_model.bin"))
    return 3, "unsafe_format", ".bin"


def damage_tokenizer(model):
    file = model / "tokenizer" / "tokenizer.json"
    data = json.loads(file.read_text())
    data["model"]["type"] = "BPE"
    file.write_text(json.dumps(data))
    return 3, "bad_tokenizer", "BPE"


@pytest.mark.parametrize("damage", [damage_truncate, damage_header, damage_lfs, damage_missing_weight, damage_nan,
                                    damage_config, damage_no_index, damage_pickle, damage_tokenizer])
def test_a_damaged_model_is_named(fastwan, model_copy, tmp_path, damage):
    status, code, word = damage(model_copy)
    run = fastwan("generate", "-m", "model", "-p", PROMPT, "-o", "clip.mp4")
    if code is None:
        assert run.status in (3, 4) and word in run.err, run
    else:
        expect(run, status, code, word)
    assert leftovers(tmp_path) == ["model"]


@pytest.mark.parametrize("extension", ["mp4", "webm", "gif", "png", "jpg", "safetensors"])
@pytest.mark.parametrize("most_bytes", [0, 2000])
def test_a_file_that_may_not_grow_is_a_full_disk_and_leaves_nothing(fastwan, tmp_path, extension, most_bytes):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    run = fastwan(*small("-o", f"clip.{extension}", "--num-frames", "9"), preexec_fn=small_files)
    expect(run, 5, "disk_full", "cannot write", "ulimit -f")
    assert leftovers(tmp_path) == []


def without_root():
    """Root may write anywhere by a capability; a program that it starts without it may not, and still reaches its files."""
    if os.geteuid() == 0:
        drop_of_bounding_set, dac_override = 24, 1  # PR_CAPBSET_DROP, CAP_DAC_OVERRIDE
        assert ctypes.CDLL(None).prctl(drop_of_bounding_set, dac_override, 0, 0, 0) == 0


def test_an_unwritable_folder_is_refused(fastwan, tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o555)
    run = fastwan(*small("-o", "locked/clip.mp4"), preexec_fn=without_root)
    expect(run, 4, "no_permission", "locked")
    assert leftovers(folder) == []


def test_a_missing_ffmpeg_names_the_remedy(fastwan, tmp_path):
    run = fastwan(*small("-o", "clip.mp4"), env={"FASTWAN_FFMPEG_BIN": "/no/such/ffmpeg"})
    expect(run, 5, "missing_program", "FASTWAN_FFMPEG_BIN", ".png")
    assert leftovers(tmp_path) == []


def fake_ffmpeg(folder, body):
    script = folder / "ffmpeg"
    script.write_text("#!/bin/sh\nif [ \"$1\" = -version ]; then echo 'ffmpeg version fake'; exit 0; fi\n" + body)
    script.chmod(0o755)
    return {"FASTWAN_FFMPEG_BIN": str(script)}


def test_an_encoder_that_dies_is_reported_and_leaves_nothing(fastwan, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    run = fastwan(*small("-o", "clip.mp4"), env=fake_ffmpeg(tools, "head -c 100 > /dev/null; kill -9 $$\n"))
    expect(run, 5, "encoder_failed")
    assert leftovers(tmp_path) == ["tools"]


def drained(pipe):
    """What a pipe holds now."""
    os.set_blocking(pipe.fileno(), False)
    held = b""
    while part := pipe.read(1 << 16):
        held += part
    os.set_blocking(pipe.fileno(), True)
    return held


@pytest.mark.parametrize("word", ["INT", "TERM", "HUP"])
def test_a_stop_signal_ends_the_run_within_a_step_and_leaves_nothing(tmp_path, word):
    number = getattr(signal, f"SIG{word}")
    # Many steps of the many-step sampler: long enough to be caught in the middle.
    process = subprocess.Popen(
        [str(binary()), "generate", "-m", str(MODEL), "-p", PROMPT, "-o", "clip.mp4", "--sampler", "unipc", "--steps", "1000",
         "--progress", "json"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0, env={**os.environ, "CI": "1"},
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))  # whoever runs the tests may ignore it
    held = b""
    while b'"denoise"' not in held and (part := process.stderr.read(1 << 16)):
        held += part
    assert b'"denoise"' in held, held
    # Frozen, so that the steps it tells of before and after the signal can be told apart.
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    drained(process.stderr)
    process.send_signal(number)
    process.send_signal(signal.SIGCONT)
    out, after = process.communicate(timeout=120)
    assert process.returncode == 130, after
    # The step at work, and one more when the signal comes just before it is looked for.
    assert after.count(b'"denoise"') <= 2, after
    assert out == b""
    assert leftovers(tmp_path) == []
