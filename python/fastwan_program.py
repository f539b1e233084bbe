"""The command `fastwan` of the wheel: becomes the program that the wheel carries.

A module of its own: one inside the package would import torch first, and `fastwan --help` answers at once.
"""
import os
import pathlib
import shutil
import sys


def environment():
    """The program cannot see Python's packages: an ffmpeg that came as a wheel is named to it."""
    found = dict(os.environ)
    if "FASTWAN_FFMPEG_BIN" not in found and shutil.which("ffmpeg") is None:
        try:
            import imageio_ffmpeg
            found["FASTWAN_FFMPEG_BIN"] = imageio_ffmpeg.get_ffmpeg_exe()
        except (ImportError, RuntimeError):
            pass  # frames leave as PNG or safetensors; the program says so
    return found


def main():
    program = pathlib.Path(__file__).parent / "fastwan" / "bin" / "fastwan"
    os.execve(program, [str(program), *sys.argv[1:]], environment())
