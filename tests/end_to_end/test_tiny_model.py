"""The model of the repository shows what it is asked: measured by the detector, on fixed prompts and seeds."""
import json

import numpy
from safetensors.numpy import load_file, save_file

from conftest import MODEL

COLOURS = ["red", "orange", "lime", "green", "cyan", "blue", "purple", "pink"]
SHAPES = ["circle", "square", "triangle", "plus"]
DIRECTIONS = ["right", "upper right", "top", "upper left", "left", "lower left", "bottom", "lower right"]
BACKGROUNDS = ["plain", "striped", "checkered", "gradient"]

# (colour, shape, direction, large, fast, background)
CLIPS = [
    ("red", "circle", "upper left", 0, 0, "plain"),
    ("blue", "square", "right", 1, 1, "checkered"),
    ("green", "triangle", "bottom", 0, 0, "striped"),
    ("pink", "plus", "lower right", 1, 1, "gradient"),
    ("orange", "circle", "left", 1, 0, "gradient"),
    ("cyan", "square", "top", 0, 1, "plain"),
    ("purple", "triangle", "upper right", 1, 0, "checkered"),
    ("lime", "plus", "lower left", 0, 1, "striped"),
    ("blue", "circle", "bottom", 1, 1, "plain"),
    ("red", "square", "left", 0, 0, "checkered"),
]
LEAST_RIGHT = 0.8


def prompt(colour, shape, direction, large, fast, background):
    return (f"a {'large' if large else 'small'} {colour} {shape} moves {'quickly' if fast else 'slowly'} to the {direction} "
            f"on a {background} background")


def code(colour, shape, direction, large, fast, background):
    """The detector's number of a combination: mixed radix, background fastest."""
    digits = ((COLOURS.index(colour), 8), (SHAPES.index(shape), 4), (DIRECTIONS.index(direction), 8), (large, 2), (fast, 2),
              (BACKGROUNDS.index(background), 4))
    number = 0
    for digit, radix in digits:
        number = number * radix + digit
    return number


def test_eight_of_ten_prompts_come_out_right_in_every_attribute(fastwan, tmp_path):
    frames = []
    for seed, clip in enumerate(CLIPS):
        run = fastwan("generate", "-m", MODEL, "-p", prompt(*clip), "--seed", seed, "--device", "cpu", "-o", "clip.safetensors",
                      "--overwrite")
        assert run.status == 0, run
        frames.append(load_file(tmp_path / "clip.safetensors")["frames"])
    save_file({"frames": numpy.stack(frames), "codes": numpy.array([code(*clip) for clip in CLIPS], dtype=numpy.int64)},
              tmp_path / "clips.safetensors")
    run = fastwan("eval", "run", "--videos", "clips.safetensors", "--metrics", "attributes", "--json")
    assert run.status == 0, run
    assert json.loads(run.out)["metrics"]["attributes"]["all_correct"]["value"] >= LEAST_RIGHT, run
