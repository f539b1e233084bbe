"""A prompt becomes a video."""
import json
import os
import subprocess

import numpy
from conftest import MODEL, PROMPT, Mp4, binary, decode, leftovers, preset_of_model, small


def test_a_prompt_becomes_an_mp4_of_the_asked_size(fastwan, tmp_path):
    run = fastwan(*small("-o", "clip.mp4"))
    assert run.status == 0, run
    assert run.out == "clip.mp4\n"
    preset = preset_of_model()
    mp4 = Mp4(tmp_path / "clip.mp4")
    assert (mp4.width, mp4.height, mp4.frames) == (preset["width"], preset["height"], preset["num_frames"])
    assert abs(mp4.fps - preset["fps"]) < 1e-6
    assert mp4.codec == "avc1"
    assert mp4.kinds.index("moov") < mp4.kinds.index("mdat"), "faststart: the index comes first"
    frames = decode(tmp_path / "clip.mp4", mp4.width, mp4.height)
    assert len(frames) == mp4.frames
    assert leftovers(tmp_path) == ["clip.mp4"]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(fastwan, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        assert fastwan("generate", "-m", MODEL, "-p", PROMPT, "--seed", seed, "-o", f"{name}.mp4").status == 0
    a, b, c = ((tmp_path / f"{name}.mp4").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_json_is_one_document_with_paths_seeds_and_times(fastwan, tmp_path):
    run = fastwan(*small("-o", "clip.mp4", "--json", "--num-videos-per-prompt", "2"))
    assert run.status == 0, run
    document = json.loads(run.out)
    assert [r["path"] for r in document["results"]] == ["clip.mp4", "clip_1.mp4"]
    assert [r["seed"] for r in document["results"]] == [7, 8]
    for result in document["results"]:
        assert {"text", "denoise", "decode"} <= set(result["stage_seconds"])
        assert len(result["latents_sha256"]) == 64
    assert document["peak_memory_bytes"] > 0


def test_the_printed_command_makes_the_same_bytes_again(fastwan, tmp_path):
    import shlex
    assert fastwan(*small("-o", "clip.mp4", "--fps", "12")).status == 0
    run = fastwan("inspect", "clip.mp4", "--json")
    assert run.status == 0, run
    document = json.loads(run.out)
    assert document["metadata"]["prompt"] == PROMPT
    words = shlex.split(document["command"])
    assert words[0] == "fastwan"
    again = fastwan(*words[1:], "-o", "again.mp4")
    assert again.status == 0, again
    assert (tmp_path / "clip.mp4").read_bytes() == (tmp_path / "again.mp4").read_bytes()


def test_metadata_none_leaves_no_prompt_in_the_file(fastwan, tmp_path):
    assert fastwan(*small("-o", "full.mp4")).status == 0
    assert fastwan(*small("-o", "none.mp4", "--metadata", "none")).status == 0
    assert b"red circle" in (tmp_path / "full.mp4").read_bytes()
    assert b"red circle" not in (tmp_path / "none.mp4").read_bytes()


def test_a_prompt_file_makes_a_video_a_line(fastwan, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red circle\n\na blue square\n")
    run = fastwan("generate", "-m", MODEL, "--prompt-file", "prompts.txt", "--seed", "1", "--output-path", "videos")
    assert run.status == 0, run
    assert run.out.splitlines() == ["videos/a red circle-1.mp4", "videos/a blue square-1.mp4"]


def test_a_run_file_is_overridden_by_flags(fastwan, tmp_path):
    (tmp_path / "run.yaml").write_text(
        f"generator: {{model_path: {MODEL}}}\nrequest:\n  prompt: {PROMPT}\n  sampling: {{seed: 5}}\n")
    run = fastwan("generate", "--config", "run.yaml", "--seed", "9", "-o", "clip.mp4", "--json")
    assert run.status == 0, run
    assert json.loads(run.out)["results"][0]["seed"] == 9


def tensors(path):
    from safetensors.numpy import load_file
    return load_file(path)


def test_latents_embeddings_and_frames_leave_as_safetensors(fastwan, tmp_path):
    run = fastwan(*small("-o", "clip.mp4", "--save-latents", "l.safetensors", "--save-embeds", "e.safetensors",
                         "--save-frames", "f.safetensors"))
    assert run.status == 0, run
    preset = preset_of_model()
    latents = tensors(tmp_path / "l.safetensors")["latents"]
    assert latents.ndim == 5 and latents.shape[2] == (preset["num_frames"] - 1) // 4 + 1
    embeds = tensors(tmp_path / "e.safetensors")["prompt_embeds"]
    assert embeds.ndim == 3 and embeds.shape[0] == 1
    frames = tensors(tmp_path / "f.safetensors")["frames"]
    assert frames.shape == (preset["num_frames"], 3, preset["height"], preset["width"])
    assert frames.dtype == numpy.float32 and 0 <= frames.min() and frames.max() <= 1


def test_given_noise_and_embeddings_reproduce_the_run_without_text_encoder(fastwan, tmp_path):
    from safetensors.numpy import save_file
    assert fastwan(*small("-o", "a.mp4", "--save-latents", "a.safetensors", "--save-embeds", "e.safetensors")).status == 0
    shape = tensors(tmp_path / "a.safetensors")["latents"].shape
    noise = numpy.random.default_rng(3).standard_normal((3, *shape)).astype(numpy.float32)
    save_file({"latents": noise[0], "renoise_1": noise[1], "renoise_2": noise[2]}, tmp_path / "n.safetensors")
    for name, extra in (("b", []), ("c", ["--prompt-embeds", "e.safetensors"])):
        run = fastwan(*small("-o", f"{name}.mp4", "--noise", "n.safetensors", "--save-latents", f"{name}.safetensors", *extra))
        assert run.status == 0, run
    b, c = (tensors(tmp_path / f"{name}.safetensors")["latents"] for name in "bc")
    assert not numpy.array_equal(b, tensors(tmp_path / "a.safetensors")["latents"])
    numpy.testing.assert_array_equal(b, c)


def test_load_latents_decodes_only(fastwan, tmp_path):
    assert fastwan(*small("-o", "a.mp4", "--save-latents", "l.safetensors", "--save-frames", "a.safetensors")).status == 0
    run = fastwan("generate", "-m", MODEL, "--load-latents", "l.safetensors", "-o", "b.mp4", "--save-frames", "b.safetensors")
    assert run.status == 0, run
    numpy.testing.assert_array_equal(tensors(tmp_path / "a.safetensors")["frames"], tensors(tmp_path / "b.safetensors")["frames"])


def test_the_attention_backend_is_the_flags(fastwan, tmp_path):
    """The model has gates, so auto is vsa; each of dense, sparsity and the older name of the flag's value counts."""
    ways = {"auto": (), "vsa": ("--attention-backend", "vsa"), "old": ("--attention-backend", "VIDEO_SPARSE_ATTN"),
            "dense": ("--attention-backend", "dense"), "all": ("--attention-backend", "vsa", "--VSA-sparsity", "0"),
            "few": ("--attention-backend", "vsa", "--VSA-sparsity", "0.9")}
    latents = {}
    for name, words in ways.items():
        run = fastwan(*small("-o", f"{name}.mp4", "--save-latents", f"{name}.safetensors", *words))
        assert run.status == 0, run
        assert ("full attention on a sparse model" in run.err) == (name == "dense"), run
        latents[name] = tensors(tmp_path / f"{name}.safetensors")["latents"].tobytes()
    assert latents["auto"] == latents["vsa"] == latents["old"]
    assert len({latents[name] for name in ("vsa", "dense", "all", "few")}) == 4


def test_frames_leave_as_a_contact_sheet_too(fastwan, tmp_path):
    run = fastwan(*small("-o", "clip.mp4", "--contact-sheet", "3x2"))
    assert run.status == 0, run
    assert run.out.splitlines() == ["clip.mp4", "clip.png"]
    assert (tmp_path / "clip.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_offload_changes_memory_not_results(fastwan, tmp_path):
    for mode in ("none", "stage"):
        run = fastwan(*small("-o", f"{mode}.mp4", "--offload", mode, "--save-latents", f"{mode}.safetensors"))
        assert run.status == 0, run
    none, stage = (tensors(tmp_path / f"{mode}.safetensors")["latents"] for mode in ("none", "stage"))
    numpy.testing.assert_array_equal(none, stage)


def processor_seconds(*words):
    """What a run takes of the processor: unlike the clock, the same on a busy machine."""
    process = subprocess.Popen([str(binary()), *[str(w) for w in words]], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def test_help_version_and_inspect_answer_in_under_50_ms():
    for words in (["--help"], ["--version"], ["generate", "--help"], ["inspect", MODEL]):
        best = min(processor_seconds(*words) for _ in range(7))
        assert best < 0.05, f"{words}: {best * 1000:.0f} ms"
