#!/usr/bin/env python3
"""Training on a GPU against training on the CPU: the same recipe, clips and noise in fp32, losses and gradient norms of
each step side by side. It covers what the operators' own checks cannot see: the functions of models with their
gradients, as the trainer calls them.
Usage: check_training.py FASTWAN [CPU_DEVICE GPU_DEVICE]        devices default to cpu cuda"""
import json
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/models/random-shapes"
STEPS = 6
# fp32 sums in another order: 1e-6 relative a step at first, and steps that differ by so much lead apart.
LIMIT = 1e-3
# Muon's polynomial runs in bf16 on a GPU: 2^-8 of each direction, five times over.
MUON_LIMIT = 3e-2

TEACHER = ["--config", ROOT / "recipes/tiny-shapes/teacher.yaml", "--training.compute_dtype=fp32"]
RUNS = {
    "finetune": ([*TEACHER, "--training.optimizer.name=adamw", "--training.optimizer.learning_rate=1.5e-3"], LIMIT),
    "muon": (TEACHER, MUON_LIMIT),
    "vsa": (["--config", ROOT / "recipes/tiny-shapes/vsa.yaml", "--training.compute_dtype=fp32"], LIMIT),
}


def metrics(fastwan, device, words, folder):
    words = [fastwan, "train", "--device", device, "--progress", "none", "--resume", "none", *words,
             "--models.student.init=pretrained", f"--models.student.init_from={MODEL}", f"--training.model_path={MODEL}",
             "--training.data.shapes.count=16", "--training.data.train_batch_size=4", "--training.data.num_frames=9",
             "--training.data.num_height=64", "--training.data.num_width=64", f"--training.loop.max_train_steps={STEPS}",
             "--training.optimizer.lr_warmup_steps=0", "--callbacks.validation.every_steps=0", "--training.tracker.trackers=jsonl",
             f"--training.checkpoint.output_dir={folder}", f"--training.checkpoint.export_path={folder}/export"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{device}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()]


def main():
    if len(sys.argv) not in (2, 4):
        sys.exit(__doc__)
    devices = sys.argv[2:] or ["cpu", "cuda"]
    failed = False
    for name, (words, limit) in RUNS.items():
        with tempfile.TemporaryDirectory() as work:
            one, other = (metrics(sys.argv[1], device, words, f"{work}/{i}") for i, device in enumerate(devices))
        for a, b in zip(one, other, strict=True):
            for key in ("train_loss", "grad_norm"):
                apart = abs(a[key] - b[key]) / abs(a[key])
                failed |= not apart < limit
                print(f"{'ok  ' if apart < limit else 'FAIL'} {name} step {a['step']} {key}: {a[key]:.6f} {b[key]:.6f}")
    print("training on", " and ".join(devices), "FAILED" if failed else "agrees")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
