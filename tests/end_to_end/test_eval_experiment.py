"""`fastwan eval experiment`: rows of models on procedural clips, gates, report, driven as a user does."""
import json

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
    assert gates["Q4"]["verdict"] == "fail" and gates["Q4"]["kind"] == "fail"
    assert gates["Q12"]["verdict"] == "not run" and gates["Q7"]["verdict"] == "not read"
    assert document["figures"]["detector.rendered.worst_attribute"] > 0.9

    page = (evaluation / "out" / "report.html").read_text()
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
    for words, message in ((["--rows", "pupil"], "pupil"), (["--samples", "3"], "--samples"), (["--batch", "-1"], "--batch")):
        run = evaluate(fastwan, *words)
        assert run.status == 2 and message in run.err and run.err.startswith("error["), run
    run = fastwan("eval", "experiment")
    assert run.status == 2 and "--config" in run.err
