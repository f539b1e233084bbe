"""Shared pieces of the end-to-end tests: the binary, a small model, an mp4 box reader of our own."""
import json
import os
import pathlib
import struct
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "models" / "random-shapes"
PROMPT = "a small red circle moves slowly to the upper left on a plain background"


def binary() -> pathlib.Path:
    found = pathlib.Path(os.environ.get("FASTWAN_BIN", ROOT / "build" / "release" / "bin" / "fastwan"))
    assert found.exists(), f"{found} is not built; run `make build`"
    return found


class Run:
    """One finished run of the program."""

    def __init__(self, completed):
        self.status = completed.returncode
        self.out = completed.stdout
        self.err = completed.stderr

    def __repr__(self):
        return f"status {self.status}\nstdout: {self.out}\nstderr: {self.err}"


@pytest.fixture(scope="session")
def fastwan_in():
    """Of a folder: what runs the program inside it."""

    def at(folder):
        def run(*arguments, env=None, cwd=None, preexec_fn=None, timeout=120):
            words = [str(binary()), *[str(a) for a in arguments]]
            completed = subprocess.run(
                words, cwd=cwd or folder, env={**os.environ, "CI": "1", **(env or {})}, capture_output=True,
                text=True, timeout=timeout, preexec_fn=preexec_fn, stdin=subprocess.DEVNULL)
            return Run(completed)

        return run

    return at


@pytest.fixture
def fastwan(fastwan_in, tmp_path):
    """Runs the program inside an empty folder."""
    return fastwan_in(tmp_path)


def small(*extra):
    """Arguments of the smallest useful video."""
    return ["generate", "-m", MODEL, "-p", PROMPT, "--seed", "7", *extra]


def boxes(data: bytes, start=0, end=None):
    """(type, payload) of the boxes in data[start:end], from ISO/IEC 14496-12."""
    end = len(data) if end is None else end
    found = []
    while start + 8 <= end:
        size, kind = struct.unpack(">I4s", data[start:start + 8])
        header = 8
        if size == 1:
            size = struct.unpack(">Q", data[start + 8:start + 16])[0]
            header = 16
        elif size == 0:
            size = end - start
        assert header <= size <= end - start, f"box {kind} of {size} bytes does not fit"
        found.append((kind.decode("latin-1"), data[start + header:start + size]))
        start += size
    return found


def child(data: bytes, *path):
    for name in path:
        matching = [payload for kind, payload in boxes(data) if kind == name]
        assert matching, f"no box {name}"
        data = matching[0]
    return data


class Mp4:
    """Size, frames and rate of the first track."""

    def __init__(self, path):
        data = pathlib.Path(path).read_bytes()
        self.kinds = [kind for kind, _ in boxes(data)]
        track = child(data, "moov", "trak")
        header = child(track, "tkhd")
        self.width, self.height = (value >> 16 for value in struct.unpack(">II", header[-8:]))
        media = child(track, "mdia")
        media_header = child(media, "mdhd")
        self.timescale, self.duration = struct.unpack(">II", media_header[12:20])
        table = child(media, "minf", "stbl")
        self.frames = struct.unpack(">I", child(table, "stsz")[8:12])[0]
        self.codec = child(table, "stsd")[12:16].decode()
        self.fps = self.frames * self.timescale / self.duration


def ffmpeg() -> str:
    import imageio_ffmpeg
    return imageio_ffmpeg.get_ffmpeg_exe()


def decode(path, width, height):
    """Frames as a [F, H, W, 3] uint8 array."""
    import numpy
    raw = subprocess.run(
        [ffmpeg(), "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
        capture_output=True, check=True).stdout
    return numpy.frombuffer(raw, numpy.uint8).reshape(-1, height, width, 3)


def preset_of_model():
    return json.loads((MODEL / "fastwan.json").read_text())


def leftovers(folder):
    """Names in a folder, hidden ones too."""
    return sorted(p.name for p in pathlib.Path(folder).iterdir())
