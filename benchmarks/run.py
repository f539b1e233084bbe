#!/usr/bin/env python3
"""Our program against its peers, taking turns in one run; prints one JSON document."""
import argparse
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
PEERS = pathlib.Path(__file__).with_name("peers.py")
MODEL = ROOT / "tests" / "models" / "random-shapes"
CASES = ["dit_block", "vae_decode", "pipeline", "vsa_kernel", "vsa_kernel_bf16", "vsa_op", "vsa_op_all_tiles", "finetune_step", "finetune_step_recompute",
         "finetune_step_dense", "distill_step", "distill_step_recompute", "distill_step_dense"]
DEFAULT_CASES = CASES[:3]  # against diffusers; kernels and training take longer
RESULTS = pathlib.Path(__file__).with_name("results")
PROMPT = "a small red circle moves slowly to the upper left on a plain background"


class Side:
    """A process that runs one iteration a line: 'seconds cpu_seconds peak_bytes' comes back."""

    def __init__(self, command, threads):
        env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        ready = self.process.stdout.readline().strip()
        if ready != "ready":
            raise RuntimeError(f"{command} did not get ready: {ready!r}")

    def once(self):
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if len(line.split()) != 3:
            raise RuntimeError(f"{self.process.args} ended with {self.process.wait()}, its last line was {line!r}")
        seconds, cpu_seconds, peak = line.split()
        return float(seconds), float(cpu_seconds), int(peak)

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def summary(turns):
    """Of (seconds, cpu_seconds, peak_bytes) a turn. The spread is that of the middle half, over the median."""
    seconds, cpu_seconds, peaks = zip(*turns)
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return {"median_s": median, "min_s": min(seconds), "max_s": max(seconds), "spread": (high - low) / median,
            "runs": len(turns), "cpu_median_s": statistics.median(cpu_seconds), "peak_bytes": max(peaks)}


def compare(case, bench, runs, threads):
    sides = []
    try:
        for command in ([bench, "--serve", case], [sys.executable, str(PEERS), "--serve", case]):
            sides.append(Side([*command, "--threads", str(threads)], threads))
        turns = []
        for turn in range(runs + 1):
            turns.append([side.once() for side in sides])
            tell(case, turn, runs, turns[-1])
    finally:
        for side in sides:
            side.close()
    return report(case, turns[1:])  # the first turn warms up


def tell(case, turn, runs, sides):
    ours, theirs = (seconds for seconds, _, _ in sides)
    name = f"run {turn} of {runs}" if turn else "warm-up"
    print(f"{case}: {name}: ours {ours:.3f} s, theirs {theirs:.3f} s", file=sys.stderr, flush=True)


def report(case, turns):
    ours, peer = (summary(side) for side in zip(*turns))
    library = "torch 2.11.0 scaled_dot_product_attention, dense" if case.startswith("vsa") else "diffusers 0.42.1"
    return {"case": case, "peer": library, "ours": ours, "theirs": peer,
            "speed_ratio": peer["median_s"] / ours["median_s"],
            "speed_ratio_by_turn": statistics.median(p[0] / o[0] for o, p in turns),
            "cpu_ratio": peer["cpu_median_s"] / ours["cpu_median_s"],
            "memory_ratio": ours["peak_bytes"] / peer["peak_bytes"]}


def timed_process(command, threads):
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status != 0:
        raise RuntimeError(f"{command} failed: {process.stderr.read().decode()}")
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def compare_pipeline(binary, runs, threads):
    import tempfile
    with tempfile.TemporaryDirectory() as folder:
        commands = ([binary, "generate", "-m", str(MODEL), "-p", PROMPT, "--seed", "7", "--threads", str(threads), "--overwrite",
                     "-o", f"{folder}/ours.mp4"],
                    [sys.executable, str(PEERS), "--pipeline", str(MODEL), PROMPT, f"{folder}/theirs.mp4", "--threads", str(threads)])
        turns = []
        for turn in range(runs + 1):
            turns.append([timed_process(command, threads) for command in commands])
            tell("pipeline", turn, runs, turns[-1])
    return report("pipeline", turns[1:])  # the first turn warms the file cache


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", default=str(ROOT / "build" / "release" / "bin"), help="folder of fastwan and fastwan-bench")
    parser.add_argument("--case", action="append", choices=CASES, help=f"default: {' '.join(DEFAULT_CASES)}")
    parser.add_argument("--all", action="store_true", help="every case")
    parser.add_argument("--save", action="store_true", help="write the document into benchmarks/results too")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    results, load_before = [], os.getloadavg()
    for case in options.case or (CASES if options.all else DEFAULT_CASES):
        if case == "pipeline":
            results.append(compare_pipeline(f"{options.bin}/fastwan", options.runs, options.threads))
        else:
            results.append(compare(case, f"{options.bin}/fastwan-bench", options.runs, options.threads))
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    date = datetime.date.today().isoformat()
    document = {"schema": 1, "date": date, "commit": commit, "cpu": cpu_name(), "dtype": "float32 unless the case says so", "threads": options.threads,
                "load_average": [load_before[0], os.getloadavg()[0]], "results": results}
    text = json.dumps(document, indent=2) + "\n"
    print(text, end="")
    if options.save:
        (RESULTS / f"{date}-cpu-{commit}.json").write_text(text)


if __name__ == "__main__":
    main()
