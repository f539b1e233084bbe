"""Kinds of models and of weights: first frame, two transformers, LoRA, shards, stored types."""
import json
import shutil
import struct

import numpy
import pytest
from conftest import MODEL, PROMPT, Mp4, decode, leftovers, small
from safetensors.numpy import load_file, save_file

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def model_copy(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    return folder


def change_json(file, change):
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def as_base_model(model, **index):
    """The tiny model as if it were not distilled."""
    change_json(model / "model_index.json", lambda d: d.update({"_class_name": "WanPipeline", **index}))

    def forget_few_steps(preset):
        for key in ("dmd_denoising_steps", "sampler", "flow_shift", "VSA_sparsity"):
            preset.pop(key, None)

    change_json(model / "fastwan.json", forget_few_steps)


def latents(path):
    return load_file(path)["latents"]


def run_latents(fastwan, folder, model, name, *extra):
    run = fastwan("generate", "-m", model, "-p", PROMPT, "--seed", "7", "-o", f"{name}.safetensors", "--save-latents",
                  f"{name}_latents.safetensors", *extra)
    assert run.status == 0, run
    return latents(folder / f"{name}_latents.safetensors")


def write_png(path, width, height):
    import zlib
    y, x = numpy.mgrid[0:height, 0:width]
    rgb = numpy.stack([x * 3 % 256, y * 3 % 256, 0 * x + 90], -1).astype(numpy.uint8)
    rows = b"".join(b"\0" + rgb[i].tobytes() for i in range(height))

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("distilled", [False, True])
def test_a_first_frame_shapes_the_whole_video(fastwan, model_copy, tmp_path, distilled):
    if distilled:
        change_json(model_copy / "model_index.json", lambda d: d.update(expand_timesteps=True))
    else:
        as_base_model(model_copy, expand_timesteps=True)
    steps = [] if distilled else ["--steps", "3"]
    write_png(tmp_path / "first.png", 64, 64)
    write_png(tmp_path / "other.png", 80, 64)
    words = ["generate", "-m", "model", "-p", PROMPT, "--seed", "7", "-W", "64", "-H", "64", *steps]
    results = []
    for name, image in (("a", "first.png"), ("b", "first.png"), ("c", "other.png")):
        run = fastwan(*words, "-o", f"{name}.mp4", "-i", image, "--save-latents", f"{name}.safetensors")
        assert run.status == 0, run
        results.append(latents(tmp_path / f"{name}.safetensors"))
    a, b, c = results
    numpy.testing.assert_array_equal(a, b)
    assert not numpy.array_equal(a[:, :, 0], c[:, :, 0]), "the first latent frame is the image"
    assert not numpy.array_equal(a[:, :, 1:], c[:, :, 1:]), "the image is seen by the others"
    # Another seed keeps the first frame and changes the rest.
    assert fastwan(*[("8" if w == "7" else w) for w in words], "-o", "d.mp4", "-i", "first.png", "--save-latents",
                   "d.safetensors").status == 0
    d = latents(tmp_path / "d.safetensors")
    numpy.testing.assert_array_equal(a[:, :, 0], d[:, :, 0])
    assert not numpy.array_equal(a[:, :, 1:], d[:, :, 1:])


def test_an_image_that_is_none_is_refused(fastwan, model_copy, tmp_path):
    as_base_model(model_copy, expand_timesteps=True)
    (tmp_path / "first.png").write_bytes(b"not a picture at all")
    run = fastwan("generate", "-m", "model", "-p", PROMPT, "-i", "first.png", "-W", "64", "-H", "64", "-o", "a.mp4")
    assert run.status == 3 and "error[bad_image]" in run.err, run
    assert leftovers(tmp_path) == ["first.png", "model"]


def test_two_transformers_share_the_noise_levels(fastwan, model_copy, tmp_path):
    as_base_model(model_copy, transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.875)
    shutil.copytree(model_copy / "transformer", model_copy / "transformer_2")
    second = model_copy / "transformer_2" / "diffusion_pytorch_model.safetensors"
    steps = ["--steps", "4", "--guidance-scale", "2"]
    same = run_latents(fastwan, tmp_path, "model", "same", *steps)
    tensors = load_file(second)
    save_file({name: value * numpy.float32(0.9) for name, value in tensors.items()}, second)
    other = run_latents(fastwan, tmp_path, "model", "other", *steps)
    assert not numpy.array_equal(same, other), "the second transformer takes part"
    only_first = run_latents(fastwan, tmp_path, "model", "first", *steps, "--boundary-ratio", "0")
    numpy.testing.assert_array_equal(same, only_first)
    turns = run_latents(fastwan, tmp_path, "model", "turns", *steps, "--offload", "stage")
    numpy.testing.assert_array_equal(other, turns)
    assert not numpy.array_equal(other, run_latents(fastwan, tmp_path, "model", "scale", *steps, "--guidance-scale-2", "5"))


def lora_of(tensors, rank=2):
    generator = numpy.random.default_rng(1)
    out = {}
    for layer in ("blocks.0.attn1.to_q", "blocks.1.ffn.net.2"):
        rows, columns = tensors[f"{layer}.weight"].shape
        out[f"transformer.{layer}.lora_A.weight"] = generator.standard_normal((rank, columns)).astype(numpy.float32)
        out[f"transformer.{layer}.lora_B.weight"] = generator.standard_normal((rows, rank)).astype(numpy.float32) * 0.1
    return out


def test_lora_is_the_model_with_the_product_added(fastwan, model_copy, tmp_path):
    tensors = load_file(model_copy / TRANSFORMER)
    lora = lora_of(tensors)
    save_file({**lora, "transformer.nothing.lora_A.weight": numpy.zeros((2, 2), numpy.float32),
               "transformer.nothing.lora_B.weight": numpy.zeros((2, 2), numpy.float32)}, tmp_path / "style.safetensors")
    plain = run_latents(fastwan, tmp_path, MODEL, "plain")
    with_lora = run_latents(fastwan, tmp_path, MODEL, "lora", "--lora", "style.safetensors:0.5")
    off = run_latents(fastwan, tmp_path, MODEL, "off", "--lora", "style.safetensors:0")
    numpy.testing.assert_array_equal(plain, off)
    for name in {key.rsplit(".lora_", 1)[0] for key in lora}:
        weight = name.removeprefix("transformer.") + ".weight"
        tensors[weight] = tensors[weight] + numpy.float32(0.5) * (lora[f"{name}.lora_B.weight"] @ lora[f"{name}.lora_A.weight"])
    save_file(tensors, model_copy / TRANSFORMER)
    merged = run_latents(fastwan, tmp_path, "model", "merged")
    assert not numpy.array_equal(plain, with_lora)
    numpy.testing.assert_allclose(with_lora, merged, atol=1e-4 * numpy.ptp(merged), rtol=0)


def test_a_lora_of_another_model_is_refused(fastwan, tmp_path):
    save_file({"transformer.blocks.99.attn1.to_q.lora_A.weight": numpy.zeros((2, 8), numpy.float32),
               "transformer.blocks.99.attn1.to_q.lora_B.weight": numpy.zeros((8, 2), numpy.float32)},
              tmp_path / "style.safetensors")
    run = fastwan(*small("--lora", "style.safetensors", "-o", "a.mp4"))
    assert run.status == 3 and "error[lora_mismatch]" in run.err, run
    assert leftovers(tmp_path) == ["style.safetensors"]


def test_shards_and_a_single_file_are_one_model(fastwan, model_copy, tmp_path):
    tensors = load_file(model_copy / TRANSFORMER)
    (model_copy / TRANSFORMER).unlink()
    names = sorted(tensors)
    where = {}
    for number, part in enumerate((names[::3], names[1::3], names[2::3]), 1):
        file = f"diffusion_pytorch_model-0000{number}-of-00003.safetensors"
        save_file({name: tensors[name] for name in part}, model_copy / "transformer" / file)
        where.update({name: file for name in part})
    (model_copy / TRANSFORMER).with_suffix(".safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}))
    numpy.testing.assert_array_equal(run_latents(fastwan, tmp_path, MODEL, "single"),
                                     run_latents(fastwan, tmp_path, "model", "shards"))


def write_bf16(file, tensors):
    """safetensors by hand: numpy has no bf16."""
    header, data = {}, b""
    for name, value in tensors.items():
        raw = (value.view(numpy.uint32) >> 16).astype(numpy.uint16).tobytes()
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_weights_that_bf16_can_hold_give_the_same_result_in_either_type(fastwan, model_copy, tmp_path):
    for file in (TRANSFORMER, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        short = {name: (value.view(numpy.uint32) & numpy.uint32(0xFFFF0000)).view(numpy.float32)
                 for name, value in load_file(model_copy / file).items()}
        save_file(short, model_copy / file)
    wide = run_latents(fastwan, tmp_path, "model", "wide")
    for file in (TRANSFORMER, "vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        write_bf16(model_copy / file, load_file(model_copy / file))
    numpy.testing.assert_array_equal(wide, run_latents(fastwan, tmp_path, "model", "narrow"))
    numpy.testing.assert_array_equal(load_file(tmp_path / "wide.safetensors")["frames"],
                                     load_file(tmp_path / "narrow.safetensors")["frames"])


def test_weights_that_overflow_are_reported_with_the_step(fastwan, model_copy, tmp_path):
    tensors = load_file(model_copy / TRANSFORMER)
    tensors["proj_out.weight"] = tensors["proj_out.weight"] * numpy.float32(1e38)
    save_file(tensors, model_copy / TRANSFORMER)
    run = fastwan("generate", "-m", "model", "-p", PROMPT, "-o", "a.mp4")
    assert run.status == 6 and "error[non_finite]: denoising step 1 of 3" in run.err, run
    assert leftovers(tmp_path) == ["model"]


@pytest.mark.parametrize("name,files", [("clip.png", 5), ("clip.safetensors", 1)])
def test_frames_leave_without_ffmpeg(fastwan, tmp_path, name, files):
    run = fastwan(*small("-o", name, "--num-frames", "5"), env={"FASTWAN_FFMPEG_BIN": "/no/such/ffmpeg"})
    assert run.status == 0, run
    assert leftovers(tmp_path) == run.out.split() and len(leftovers(tmp_path)) == files
    again = fastwan(*small("-o", name, "--num-frames", "5"))
    assert again.status == 8 and run.out.split()[0] in again.err and "--overwrite" in again.err, again
    if name.endswith(".safetensors"):
        assert load_file(tmp_path / name)["frames"].shape[0] == 5


@pytest.mark.parametrize("name", ["clip.webm", "clip.gif", "clip.webp"])
def test_other_containers_hold_the_asked_frames(fastwan, tmp_path, name):
    run = fastwan(*small("-o", name, "--num-frames", "5"))
    assert run.status == 0, run
    if name != "clip.webp":  # ffmpeg writes animated WebP and does not read it
        assert len(decode(tmp_path / name, 64, 64)) == 5
    metadata = json.loads(fastwan("inspect", name, "--json").out)["metadata"]
    assert metadata["prompt"] == PROMPT and metadata["seed"] == 7


def test_samplers_schedules_and_generators_differ_and_repeat(fastwan, tmp_path, model_copy):
    as_base_model(model_copy)
    base = ["--steps", "3"]
    seen = {}
    for name, extra in {"unipc": [], "euler": ["--sampler", "euler"], "fastvideo": ["--sigma-schedule", "fastvideo"],
                        "wan": ["--sigma-schedule", "wan"], "torch": ["--rng", "torch"], "shift": ["--flow-shift", "3"],
                        "negative": ["-n", "a big circle"], "dense": ["--attention-backend", "dense"],
                        "scale": ["--guidance-scale", "2"], "rescale": ["--guidance-rescale", "0.7"],
                        "unguided": ["--guidance-scale", "1"]}.items():
        seen[name] = run_latents(fastwan, tmp_path, "model", name, *base, *extra).tobytes()
    assert len(set(seen.values())) == len(seen)


def test_progress_as_json_names_the_stages_in_order(fastwan, tmp_path):
    run = fastwan(*small("-o", "clip.mp4", "--progress", "json"))
    assert run.status == 0, run
    events = [json.loads(line) for line in run.err.splitlines() if line.startswith("{")]
    stages = [event["stage"] for event in events if event["event"] == "progress" and event["stage"] != "load"]
    order = list(dict.fromkeys(stages))
    assert order == ["text", "denoise", "decode", "encode"]
    steps = [event["step"] for event in events if event.get("stage") == "denoise"]
    assert steps == sorted(steps) and steps[-1] == 3


def test_sizes_beyond_the_preset_are_refused_and_others_made(fastwan, tmp_path):
    run = fastwan(*small("-o", "clip.mp4", "-W", "96", "-H", "48", "--num-frames", "9"))
    assert run.status == 0, run
    mp4 = Mp4(tmp_path / "clip.mp4")
    assert (mp4.width, mp4.height, mp4.frames) == (96, 48, 9)
    assert fastwan(*small("-o", "other.mp4", "-W", "1024")).status == 2


def test_words_beyond_the_vocabulary_are_named_with_those_it_knows(fastwan, tmp_path):
    run = fastwan("generate", "-m", MODEL, "-p", "a small red kite, moves slowly", "--num-frames", "1", "-o", "a.png", "--json")
    assert run.status == 0, run
    notes = [note for note in json.loads(run.out)["warnings"] if "has not learned" in note]
    assert len(notes) == 1 and "kite" in notes[0].split("It knows")[0] and "circle" in notes[0].split("It knows")[1]
    known = fastwan("generate", "-m", MODEL, "-p", PROMPT, "--num-frames", "1", "-o", "b.png", "--json")
    assert not any("has not learned" in note for note in json.loads(known.out)["warnings"])
