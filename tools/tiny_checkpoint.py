"""The checkpoint that leaves the tiny experiment: what `tools/train_tiny --ship FOLDER` writes.

FOLDER is the sparse student as a complete Diffusers folder, with the feature net of the evaluation in features/ and the teacher
as a second complete folder in teacher/, whose VAE, text encoder and tokenizer are links to the student's. Python's own library
and the program are enough.

Transformers are rounded to bf16: they compute in it wherever there is a GPU. The VAE and the text encoder may compute in fp32,
so they are rounded to fp16, which is as small and keeps three more bits, and only where half of the clips of the prompts below
stay the same within LEAST_PSNR. Half, because sparse attention chooses: where two tiles score nearly the same, the smallest
change takes the other one, and the clip is another of the same prompt.
"""
import array
import json
import math
import os
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile

TYPES = {"F32": "fp32", "BF16": "bf16", "F16": "fp16"}
STAGES = ["text", "features", "vae", "teacher", "distill"]
LIMIT_BYTES = 20_000_000
LEAST_PSNR = 45.0  # dB: an error of 1.4 of 255
SHARED = ["vae", "text_encoder", "tokenizer"]
FLAGS = {"vae": "--vae", "text_encoder": "--text-encoder"}
# (component, stage that trained it), as the README lists them.
TRAINED = [("transformer", "distill"), ("vae", "vae"), ("text_encoder", "text"), ("features", "features"),
           ("teacher/transformer", "teacher")]
ROWS = ["real", "vae", "teacher", "student"]  # of the report


# --- safetensors --------------------------------------------------------------------------------------------------------

def read_tensors(file):
    """(header, bytes of the tensors) of a safetensors file."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + length]), memoryview(data)[8 + length:]


def weights_of(folder):
    """(types, number of parameters) of the safetensors files of a folder."""
    types, parameters = set(), 0
    for file in sorted(folder.rglob("*.safetensors")):
        header, _ = read_tensors(file)
        for name, entry in header.items():
            if name != "__metadata__":
                types.add(TYPES.get(entry["dtype"], entry["dtype"].lower()))
                parameters += math.prod(entry["shape"])
    return types, parameters


def in_bf16(words, where):
    """Bits of the nearest bf16 values of fp32 values, given by their bits; ties to even."""
    if max((word & 0x7FFFFFFF for word in words), default=0) >= 0x7F7F8000:  # would round to infinity, is one, or no number
        sys.exit(f"error[bad_weights]: {where} holds a value that is not finite in bf16")
    return array.array("H", [(word + 0x7FFF + (word >> 16 & 1)) >> 16 for word in words]).tobytes()


def in_fp16(words, where):
    """The same in fp16."""
    values = array.array("f", words.tobytes())
    if not all(abs(value) < 65520 for value in values):  # 65520 rounds to infinity; a NaN is not less
        sys.exit(f"error[bad_weights]: {where} holds a value that is not finite in fp16")
    return struct.pack(f"<{len(values)}e", *values)


ROUNDED = {"BF16": in_bf16, "F16": in_fp16}


def copy_rounded(source, target, to):
    """A safetensors file with its fp32 tensors in another type; other types, order and metadata stay."""
    header, data = read_tensors(source)
    out, parts, position = {}, [], 0
    if "__metadata__" in header:
        out["__metadata__"] = header.pop("__metadata__")
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, end = entry["data_offsets"]
        part, dtype = bytes(data[begin:end]), entry["dtype"]
        if dtype == "F32":
            part, dtype = ROUNDED[to](array.array("I", part), f"{source}: {name}"), to
        out[name] = {"dtype": dtype, "shape": entry["shape"], "data_offsets": [position, position + len(part)]}
        parts.append(part)
        position += len(part)
    text = json.dumps(out, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    target.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def copy_component(source, target, to=None):
    """The files of a folder, links followed; weights rounded to a type of ROUNDED where one is named."""
    target.mkdir(parents=True)
    for file in sorted(file for file in source.iterdir() if not file.name.startswith(".")):  # marks of exports stay
        if to and file.suffix == ".safetensors":
            copy_rounded(file, target / file.name, to)
        else:
            shutil.copyfile(file, target / file.name)


def size_of(folder):
    """Bytes of the files below; what links point at counts where it lies."""
    files = [folder] if folder.is_file() else folder.rglob("*")
    return sum(file.lstat().st_size for file in files if file.is_file() and not file.is_symlink()
               and not any(parent.is_symlink() for parent in file.parents if folder in parent.parents))


# --- clips --------------------------------------------------------------------------------------------------------------

class Clips:
    """Clips of a few prompts, made by the program on the CPU: there everything but the stored weights is fp32."""

    def __init__(self, fastwan, environment, prompts):
        self.fastwan, self.environment, self.prompts = fastwan, environment, prompts

    def generate(self, model, *words):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder) / "clip.safetensors"
            made = subprocess.run(
                [self.fastwan, "generate", "-m", str(model), "--device", "cpu", "--progress", "none", "-o", str(file), *map(str, words)],
                cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if made.returncode != 0:
                sys.exit(f"{made.stderr}{model}: fastwan generate ended with status {made.returncode}")
            header, data = read_tensors(file)
            begin, end = header["frames"]["data_offsets"]
            return array.array("f", bytes(data[begin:end]))

    def of(self, model, *words):
        return [self.generate(model, "-p", prompt, "--seed", seed, *words) for seed, prompt in enumerate(self.prompts)]


def psnr(a, b):
    error = math.fsum((x - y) * (x - y) for x, y in zip(a, b, strict=True)) / len(a)
    return math.inf if error == 0 else -10 * math.log10(error)


# --- the folder ---------------------------------------------------------------------------------------------------------

class Checkpoint:
    def __init__(self, runs, recipes, clips, recipe_value):
        self.runs, self.recipes, self.clips, self.recipe_value = runs, recipes, clips, recipe_value
        self.wanted = None  # clips of the export itself
        self.psnr = {}  # of components that were measured: dB of the median clip

    def export(self, stage):
        return self.runs / stage / "export"

    def write(self, folder, with_teacher):
        student = self.export("distill")
        self.write_settings(student, folder)
        copy_component(student / "transformer", folder / "transformer", "BF16")
        copy_component(student / "tokenizer", folder / "tokenizer")
        for component in FLAGS:
            self.write_measured(component, student, folder)
        copy_component(self.export("features"), folder / "features")
        if with_teacher:
            teacher = folder / "teacher"
            self.write_settings(self.export("teacher"), teacher)
            copy_component(self.export("teacher") / "transformer", teacher / "transformer", "BF16")
            for part in SHARED:
                (teacher / part).symlink_to(pathlib.Path("..") / part)

    def write_settings(self, export, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("fastwan.json", "model_index.json"):
            shutil.copyfile(export / name, folder / name)
        copy_component(export / "scheduler", folder / "scheduler")

    def write_measured(self, component, student, folder):
        source, target = student / component, folder / component
        copy_component(source, target, "F16")
        if "fp32" not in weights_of(source)[0]:
            return
        if self.wanted is None:
            self.wanted = self.clips.of(student)
        found = self.clips.of(student, FLAGS[component], target)
        self.psnr[component] = statistics.median_low(map(psnr, self.wanted, found))
        if self.psnr[component] < LEAST_PSNR:
            shutil.rmtree(target)
            copy_component(source, target)

    def remark(self, component):
        if component not in self.psnr:
            return ""
        db = self.psnr[component]
        if db < LEAST_PSNR:
            return f"fp16 would change clips to {db:.1f} dB, {LEAST_PSNR:.0f} are wanted"
        return "clips as with fp32" + ("" if math.isinf(db) else f" to {db:.1f} dB, the median of {len(self.clips.prompts)}")

    def table(self, folder):
        """(component, type, parameters, bytes, remark) of each that has weights, then the rest."""
        rows, counted = [], 0
        for component, _ in TRAINED:
            if (folder / component).exists():
                types, parameters = weights_of(folder / component)
                size = size_of(folder / component)
                counted += size
                rows.append((component, "+".join(sorted(types)), parameters, size, self.remark(component)))
        return [*rows, ("tokenizer and settings", "", None, size_of(folder) - counted, "")]

    # --- what it says about itself --------------------------------------------------------------------------------------

    def training(self, stage, root):
        entry = json.loads((self.runs / stage / "progress.json").read_text())
        recipe = self.recipes / f"{stage}.yaml"
        steps = f"{entry['step']} steps, " if "step" in entry else ""
        other = "" if str(entry.get("step")) == self.recipe_value(recipe, "max_train_steps") else ", not the recipe as it stands"
        return f"`{recipe.relative_to(root)}`, {steps}seed {self.recipe_value(recipe, 'seed')}{other}"

    def figures(self):
        """Lines of the evaluation's report, if there is one with the student in it."""
        file = self.runs / "evaluation" / "report.json"
        report = json.loads(file.read_text()) if file.exists() else {"rows": []}
        rows = {row["name"]: row for row in report["rows"] if row["status"] == "done"}
        if "student" not in rows:
            return ["Not evaluated yet: `tools/train_tiny --stage evaluate` measures it."]

        def share(row, which):
            value = row[which]["all_correct"]
            return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"

        lines = [f"`fastwan eval experiment`, {rows['student']['seen']['clips']} prompts of combinations that were seen in training and as many "
                 "held out: share of clips with all six attributes right, and its 95 % interval. Spread: of start positions within a prompt, "
                 "over the training clips' law.", "",
                 "| | seen | held out | Frechet distance | coverage | spread |", "|---|---|---|---|---|---|"]
        for row in (rows[name] for name in ROWS if name in rows):
            distances = row.get("distances", {})
            frechet, coverage = distances.get("frechet", {}).get("value"), distances.get("coverage")
            spread = row.get("repeated", {}).get("position_spread")
            lines.append(f"| {row['title']} | {share(row, 'seen')} | {share(row, 'held_out')} | "
                         f"{'' if frechet is None else f'{frechet:.3g}'} | {'' if coverage is None else f'{coverage:.3f}'} | "
                         f"{'' if spread is None else f'{spread:.2f}'} |")
        return lines

    def readme(self, folder, name, shown, prompt, root):
        preset = json.loads((folder / "fastwan.json").read_text())
        steps = preset["dmd_denoising_steps"]
        lines = [
            f"# {name}", "",
            f"A trained model small enough to lie in a repository, a complete checkpoint in FastWan's layout: a student of {len(steps)} steps "
            f"with gated sparse attention (sparsity {preset['VSA_sparsity']:g}), causal VAE and UMT5 encoder. It shows one moving shape, "
            f"{preset['width']}x{preset['height']} pixels, {preset['num_frames']} frames at {preset['fps']} a second; it has seen clips of that "
            "size alone. All of it was trained from nothing on procedural clips (`src/data/shapes.h`) by `fastwan train`, and put together by "
            "`tools/train_tiny --ship`; docs/experiments/tiny-shapes tells in which runs, and what its clips lack.", "",
            "```sh", f'fastwan generate -m {shown} -p "{prompt}"', "```", "",
            "It knows the words that `fastwan.json` lists under `vocabulary`: colours, shapes, directions, sizes, speeds and backgrounds, in "
            "sentences like this one. `features/` holds the net behind the distances of `fastwan eval`."]
        if (folder / "teacher").exists():
            teacher = json.loads((folder / "teacher" / "fastwan.json").read_text())
            lines += ["", f"`teacher/` is the dense model that it was distilled from: {teacher['num_inference_steps']} steps, guidance "
                      f"{teacher['guidance_scale']:g}, shift {teacher['flow_shift']:g}. Its VAE, text encoder and tokenizer are links to "
                      "the student's."]
        lines += ["", "| | trained by | parameters | type | MB |", "|---|---|---|---|---|"]
        stages = dict(TRAINED)
        for component, types, parameters, size, remark in self.table(folder):
            if component in stages:
                note = f" ({remark})" if remark else ""
                lines.append(f"| `{component}` | {self.training(stages[component], root)} | {parameters:,} | {types}{note} | "
                             f"{size / 1e6:.2f} |")
        lines += ["", "## Figures", "", *self.figures(), ""]
        (folder / "README.md").write_text("\n".join(lines))


def is_replaceable(folder):
    return not folder.exists() or (folder.is_dir() and (not any(folder.iterdir()) or (folder / "model_index.json").exists()))


def ship(checkpoint, folder, prompt, root):
    """Writes the checkpoint to `folder`, whole or not at all, and tells what it is; exit status."""
    folder = pathlib.Path(os.path.abspath(folder))
    if not is_replaceable(folder):
        sys.exit(f"error[conflict]: {folder} is there and no checkpoint; nothing was written. Name another folder, or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.with_name(f".{folder.name}.{word}") for word in ("part", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        checkpoint.write(part, with_teacher=True)
        shown = folder.relative_to(root) if root in folder.parents else folder.name
        checkpoint.readme(part, folder.name, shown, prompt, root)
        if size_of(part) > LIMIT_BYTES:
            print(f"The teacher stays out: with it there would be {size_of(part) / 1e6:.2f} MB, {LIMIT_BYTES / 1e6:.0f} are allowed")
            shutil.rmtree(part / "teacher")
            checkpoint.readme(part, folder.name, shown, prompt, root)
        if size_of(part) > LIMIT_BYTES:
            sys.exit(f"error[too_large]: {size_of(part) / 1e6:.2f} MB without the teacher, {LIMIT_BYTES / 1e6:.0f} are allowed; "
                     "nothing was written")
        checkpoint.clips.generate(part, "-p", prompt)
        if (part / "teacher").exists():
            checkpoint.clips.generate(part / "teacher", "-p", prompt, "--steps", "1")
        for component, types, parameters, size, remark in checkpoint.table(part):
            print(f"{component:22} {types:9} {'' if parameters is None else f'{parameters:,}':>12} {size / 1e6:8.2f} MB  {remark}".rstrip())
        print(f"{'all':22} {'':9} {'':>12} {size_of(part) / 1e6:8.2f} MB  of {LIMIT_BYTES / 1e6:.0f}, in {folder}")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return 0
