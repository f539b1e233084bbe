"""`fastwan eval experiment`: rows of models on procedural clips, gates, report, driven as a user does."""
import json
import shutil

import numpy
import pytest
from safetensors.numpy import save_file

from conftest import MODEL, ROOT

EVALUATION = """
model: {model}
features: features.safetensors
thresholds: {root}/recipes/tiny-shapes/thresholds.yaml
figures: figures.json
output_dir: out
num_frames: 9
num_height: 64
num_width: 64
samples: 12
prompts: 2
samples_per_prompt: 3
batch: 5
rows:
  real: {{title: real clips, clips: rendered}}
  teacher: {{title: "a teacher <3", model: {model}, sampler: euler, steps: 1, guidance_scale: 2.0}}
  student: {{title: student, model: {model}, sampler: dmd, flow_shift: 5.0, attention_backend: vsa}}
  dense: {{title: dense, model: nowhere/export, sampler: dmd}}
"""


def write_features(file):
    """A feature net of random weights: distances of what it sees are distances, if of little meaning."""
    rng = numpy.random.default_rng(0)
    channels = (3, 16, 32, 64, 64)
    tensors = {}
    for i in range(4):
        tensors[f"conv.{i}.weight"] = rng.normal(0, 0.1, (channels[i + 1], channels[i], 3, 3, 3))
        tensors[f"conv.{i}.bias"] = numpy.zeros(channels[i + 1])
    for name, classes in dict(colour=8, shape=4, direction=8, size=2, speed=2, background=4).items():
        tensors[f"heads.{name}.weight"] = rng.normal(0, 0.1, (classes, 64))
        tensors[f"heads.{name}.bias"] = numpy.zeros(classes)
    save_file({name: tensor.astype(numpy.float32) for name, tensor in tensors.items()}, file)


def evaluate(fastwan, *words):
    return fastwan("eval", "experiment", "--config", "evaluation.yaml", "--device", "cpu", *words)


@pytest.fixture
def evaluation(tmp_path):
    write_features(tmp_path / "features.safetensors")
    (tmp_path / "figures.json").write_text('{"student.cpu_seconds": 4.5}')
    (tmp_path / "evaluation.yaml").write_text(EVALUATION.format(model=MODEL, root=ROOT))
    return tmp_path


def test_evaluation_makes_rows_judges_gates_and_says_what_was_not_run(fastwan, evaluation):
    late = evaluate(fastwan, "--max-seconds", "0.000001")
    assert late.status == 75, late
    assert "not made yet" in (evaluation / "out" / "report.html").read_text()

    run = evaluate(fastwan, "--json")
    assert run.status == 0, run
    document = json.loads(run.out)
    rows = {row["name"]: row for row in document["rows"]}
    assert [row["status"] for row in rows.values()] == ["done", "done", "done", "not_run"]
    assert "nowhere/export" in rows["dense"]["reason"]
    assert "rows.dense.model nowhere/export is neither" in run.err and "hf download nowhere/export" in run.err
    # Real clips are what they were asked to be, and show the whole law; random networks do not.
    assert rows["real"]["seen"]["all_correct"]["value"] >= 0.9 > rows["teacher"]["seen"]["all_correct"]["value"]
    assert rows["real"]["distances"]["frechet"]["value"] < rows["student"]["distances"]["frechet"]["value"]
    assert rows["real"]["evaluations"] == 0 and rows["teacher"]["evaluations"] == 2 and rows["student"]["evaluations"] == 3
    assert rows["teacher"]["agreement"] <= 1 and "detected" not in rows["real"]

    gates = {gate["id"]: gate for gate in document["gates"]}
    assert list(gates)[:3] == ["Q0", "Q1", "Q2"]
    assert gates["Q15"]["verdict"] == "pass" and gates["Q15"]["conditions"][0]["value"] == 4.5
    assert gates["Q4"]["verdict"] == "too few" and gates["Q4"]["kind"] == "fail"
    assert (gates["Q4"]["samples"], gates["Q4"]["wanted_samples"], gates["Q15"]["samples"]) == (12, 2048, None)
    assert gates["Q12"]["verdict"] == "not run" and gates["Q7"]["verdict"] == "not read"
    assert all(row["device"].startswith("cpu") for row in document["rows"] if row["status"] == "done")
    assert document["figures"]["detector.rendered.worst_attribute"] > 0.9

    page = (evaluation / "out" / "report.html").read_text()
    assert "<td>12, wanted 2048</td><td>too few</td>" in page
    assert "<td>at least not run, teacher.held_out.all_right - 0.08</td>" not in page  # it was run
    assert ", teacher.held_out.all_right - 0.08</td>" in page and "<td>above not run, teacher_3_euler.seen.all_right</td>" in page
    assert "<th>made on</th>" in page and page.count(f"<td>{rows['real']['device']}</td>") == 3
    assert "a teacher &lt;3" in page and "nowhere/export does not exist" in page and page.count("data:image/png") == 3
    assert json.loads((evaluation / "out" / "report.json").read_text())["gates"] == document["gates"]


def test_evaluation_keeps_rows_until_their_weights_or_settings_change(fastwan, evaluation):
    assert evaluate(fastwan, "--rows", "real,student").status == 75
    kept = {name: (evaluation / "out/rows" / f"{name}.json").read_bytes() for name in ("real", "student")}
    assert not (evaluation / "out/rows/teacher.json").exists()
    text = (evaluation / "evaluation.yaml").read_text()
    (evaluation / "evaluation.yaml").write_text(text.replace("flow_shift: 5.0", "flow_shift: 4.0"))
    assert evaluate(fastwan, "--rows", "student").status == 75
    assert (evaluation / "out/rows/real.json").read_bytes() == kept["real"]
    assert (evaluation / "out/rows/student.json").read_bytes() != kept["student"]
    (evaluation / "out/sheets/real.png").unlink()  # figures alone were brought from another machine
    assert evaluate(fastwan, "--rows", "student").status == 75
    assert (evaluation / "out/rows/real.json").read_bytes() == kept["real"]
    assert "sheets/real.png is missing" in (evaluation / "out/report.html").read_text()


def test_a_quick_look_throws_no_row_away(fastwan, evaluation):
    """Rows, sheets and the feature net's shares of other settings are kept aside and found again."""
    folder = evaluation / "out"
    whole = evaluate(fastwan, "--rows", "real", "--json")
    assert whole.status == 75, whole
    row, sheet = (folder / "rows/real.json").read_bytes(), (folder / "sheets/real.png").read_bytes()
    quick = json.loads(evaluate(fastwan, "--rows", "real", "--samples", "9", "--json").out)
    assert quick["rows"][0]["seen"]["clips"] == 9
    assert (folder / "rows/real.json").read_bytes() != row
    aside = sorted(file.name for file in (folder / "rows").iterdir())
    start = json.loads(row)["fingerprint"][:12]
    assert aside == [f"real.{start}.json", f"real.{start}.png", "real.json"]
    again = json.loads(evaluate(fastwan, "--rows", "teacher", "--max-seconds", "0.000001", "--json").out)
    assert again["rows"][0]["seen"]["clips"] == 12 and again["features"] == json.loads(whole.out)["features"]
    assert (folder / "rows/real.json").read_bytes() == row and (folder / "sheets/real.png").read_bytes() == sheet


def test_a_row_is_made_again_where_a_config_changed(fastwan, evaluation):
    """The mean and deviation of latents stand in the VAE's config.json alone, the pieces of captions in tokenizer.json."""
    model = evaluation / "model"
    shutil.copytree(MODEL, model)
    text = (evaluation / "evaluation.yaml").read_text()
    (evaluation / "evaluation.yaml").write_text(text.replace(str(MODEL), str(model)))

    def fingerprints():
        rows = json.loads(evaluate(fastwan, "--rows", "real,student", "--samples", "8", "--json").out)["rows"]
        return rows[0]["fingerprint"], rows[2]["fingerprint"]

    before = fingerprints()
    for part in ("vae/config.json", "text_encoder/config.json", "tokenizer/tokenizer.json"):
        text = (model / part).read_text()
        (model / part).write_text(text + " ")
        changed = fingerprints()
        assert changed[0] != before[0] and changed[1] != before[1], part
        (model / part).write_text(text)
    config = json.loads((model / "transformer/config.json").read_text())
    (model / "transformer/config.json").write_text(json.dumps({**config, "eps": 1e-5}))
    changed = fingerprints()
    assert changed[0] == before[0] and changed[1] != before[1]


def test_a_row_may_name_a_hub_id_and_base_timesteps(fastwan, evaluation):
    repository = evaluation / "cache" / "models--nowhere--export"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "snapshots" / "abc").symlink_to(MODEL)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")

    def dense():
        run = fastwan("eval", "experiment", "--config", "evaluation.yaml", "--device", "cpu", "--rows", "dense", "--json",
                      env={"HF_HUB_CACHE": str(evaluation / "cache")})
        assert "neither a folder" not in run.err, run
        row = json.loads(run.out)["rows"][3]
        assert row["status"] == "done", row
        return row["distances"]["frechet"]["value"]

    verbatim = dense()
    text = (evaluation / "evaluation.yaml").read_text()
    (evaluation / "evaluation.yaml").write_text(text.replace("nowhere/export,", "nowhere/export, warp_denoising_step: true,"))
    assert dense() != verbatim


def test_evaluation_does_not_depend_on_the_batch(fastwan, evaluation):
    def without_clocks(document):
        return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in document["rows"]]

    whole = json.loads(evaluate(fastwan, "--json", "--batch", "12", "--rows", "student", "-o", "whole").out)
    parts = json.loads(evaluate(fastwan, "--json", "--batch", "5", "--rows", "student", "-o", "parts").out)
    a, b = (without_clocks(document)[2] for document in (whole, parts))
    assert a["seen"]["attributes"] == b["seen"]["attributes"] and a["seen"]["found"] == b["seen"]["found"]
    assert abs(a["distances"]["frechet"]["value"] - b["distances"]["frechet"]["value"]) <= 1e-3 * a["distances"]["frechet"]["value"]


def test_mistakes_of_an_evaluation_have_codes(fastwan, evaluation):
    for words, message in ((["--rows", "pupil"], "pupil"), (["--samples", "3"], "--samples"), (["--batch", "-1"], "--batch"),
                           (["--rows", ","], "--rows names no row"), (["--max-seconds", "nan"], "--max-seconds")):
        run = evaluate(fastwan, *words)
        assert run.status == 2 and message in run.err and run.err.startswith("error["), run
    run = fastwan("eval", "experiment")
    assert run.status == 2 and "--config" in run.err


def test_a_folder_that_cannot_be_written_is_said_before_any_row_is_made(fastwan, evaluation):
    (evaluation / "file").write_text("")
    (evaluation / "out2").mkdir()
    (evaluation / "out2" / "rows").write_text("")
    for folder in ("file", "file/deeper", "out2"):
        run = evaluate(fastwan, "--rows", "real", "-o", folder)
        assert run.status == 4 and run.err.startswith("error[not_found]") and folder in run.err, run
    run = evaluate(fastwan, "--rows", "real", "-o", "some/way/down")
    assert run.status == 75 and (evaluation / "some/way/down/report.html").exists(), run


def test_rows_that_are_not_run_say_why_once(fastwan, evaluation):
    change(evaluation, f"model: {MODEL}\nfeatures", "model: /nowhere\nfeatures")
    run = evaluate(fastwan)
    assert run.err.count("not run: ") == 1 and "not run: real, teacher, student, dense: /nowhere does not exist" in run.err, run


def change(evaluation, old, new):
    text = (evaluation / "evaluation.yaml").read_text()
    assert old in text
    (evaluation / "evaluation.yaml").write_text(text.replace(old, new))


def test_what_every_row_would_stumble_over_is_said_before_any_is_made(fastwan, evaluation):
    def refused(status, *messages):
        run = evaluate(fastwan)
        assert run.status == status and run.err.count("error[") == 1, run
        assert all(message in run.err for message in messages), run
        assert not (evaluation / "out/rows").exists() or not list((evaluation / "out/rows").iterdir())

    change(evaluation, "num_height: 64", "num_height: 97")
    refused(2, "num_height", "multiple of 8", "97", "96, 104")
    change(evaluation, "num_height: 97", "num_height: 64")
    change(evaluation, "num_frames: 9", "num_frames: 10")
    refused(2, "num_frames", "4k+1", "got 10")
    change(evaluation, "num_frames: 10", "num_frames: 9")
    whole = (evaluation / "features.safetensors").read_bytes()
    (evaluation / "features.safetensors").write_bytes(b"12345")
    refused(3, "features.safetensors")
    (evaluation / "features.safetensors").write_bytes(whole)
    (evaluation / "figures.json").write_text('{"student.cpu_seconds": 4.5')
    refused(3, "figures.json")
    (evaluation / "figures.json").write_text("[4.5]")
    refused(3, "figures.json", "object")
    (evaluation / "figures.json").write_text("{}")
    (evaluation / "thresholds.yaml").write_text("gates: {Q0: {quantity: nothing}}")
    change(evaluation, f"{ROOT}/recipes/tiny-shapes/thresholds.yaml", "thresholds.yaml")
    refused(2, "Q0")


def test_a_row_that_fails_fails_the_evaluation(fastwan, evaluation):
    broken = evaluation / "broken"
    shutil.copytree(MODEL, broken)
    file = next((broken / "transformer").glob("*.safetensors"))
    file.write_bytes(b"12345")
    change(evaluation, "student, model: " + str(MODEL), "student, model: " + str(broken))
    run = evaluate(fastwan, "--json")
    assert run.status == 3, run
    rows = {row["name"]: row for row in json.loads(run.out)["rows"]}
    assert rows["student"]["status"] == "failed" and file.name in rows["student"]["reason"]
    assert rows["real"]["status"] == rows["teacher"]["status"] == "done"
    # Who does not ask for it is told, and not failed.
    change(evaluation, "dense: {title: dense, model: nowhere/export, sampler: dmd}", "")
    assert evaluate(fastwan, "--rows", "real").status == 75
    shutil.rmtree(broken / "transformer")
    run = evaluate(fastwan, "--rows", "student")
    assert run.status == 3 and "transformer" in run.err, run
