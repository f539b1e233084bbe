"""Training rows in Parquet files, between pyarrow and the program's own reader and writer."""
import resource
import signal
import subprocess

import numpy
import pyarrow
import pyarrow.parquet
import pytest
from conftest import binary

FIELDS = {
    "t2v": ["id", "vae_latent*", "text_embedding*", "file_name", "caption", "media_type", "width#", "height#",
            "num_frames#", "duration_sec~", "fps~"],
    "i2v": ["id", "vae_latent*", "text_embedding*", "clip_feature*", "first_frame_latent*", "pil_image*", "file_name",
            "caption", "media_type", "width#", "height#", "num_frames#", "duration_sec~", "fps~"],
    "text_only": ["id", "text_embedding*", "caption"],
    "ode_trajectory_text_only": ["id", "text_embedding*", "trajectory_latents*", "trajectory_timesteps*", "file_name",
                                 "caption", "media_type"],
}


def schema_of(name):
    """The schema as FastVideo spells it: * tensor, # integer, ~ real."""
    fields = []
    for field in FIELDS[name]:
        plain = field.rstrip("*#~")
        if field.endswith("*"):
            fields += [pyarrow.field(f"{plain}_bytes", pyarrow.binary()),
                       pyarrow.field(f"{plain}_shape", pyarrow.list_(pyarrow.int64())),
                       pyarrow.field(f"{plain}_dtype", pyarrow.string())]
        else:
            kind = {"#": pyarrow.int64(), "~": pyarrow.float64()}.get(field[-1], pyarrow.string())
            fields.append(pyarrow.field(plain, kind))
    return pyarrow.schema(fields)


def put(row, name, array):
    row[f"{name}_bytes"] = array.tobytes()
    row[f"{name}_shape"] = list(array.shape)
    row[f"{name}_dtype"] = str(array.dtype)


def rows_of(name, count):
    random = numpy.random.default_rng(7)
    rows = []
    for i in range(count):
        row = {}
        for field in schema_of(name):
            if field.type == pyarrow.string() and not field.name.endswith("_dtype"):
                row[field.name] = f"{field.name} {i} äöü" if i % 5 else ""
            elif field.type == pyarrow.int64():
                row[field.name] = int(random.integers(0, 2**40))
            elif field.type == pyarrow.float64():
                row[field.name] = float(random.normal())
        for field in FIELDS[name]:
            if not field.endswith("*"):
                continue
            plain = field[:-1]
            if plain == "clip_feature":  # empty in rows of the 5B model
                row.update({"clip_feature_bytes": b"", "clip_feature_shape": [], "clip_feature_dtype": ""})
            elif plain == "pil_image":
                put(row, plain, random.integers(0, 256, (8, 6, 3)).astype(numpy.uint8))
            elif plain == "text_embedding":
                put(row, plain, random.normal(size=(1 + i % 4, 16)).astype(numpy.float32))
            else:
                put(row, plain, random.normal(size=(4, 3, 5, 7)).astype(numpy.float32))
        rows.append(row)
    return rows


def write(path, name, rows, **options):
    table = pyarrow.Table.from_pylist(rows, schema=schema_of(name))
    pyarrow.parquet.write_table(table, path, **options)


def copy(name, source, target, group_rows=8, cache_bytes=1 << 30):
    return subprocess.run([binary().parent / "parquet_copy", name, source, target, str(group_rows), str(cache_bytes)],
                          capture_output=True, text=True)


def check_copy(name, tmp_path, rows, **options):
    copied = copy(name, tmp_path / "a.parquet", tmp_path / "b.parquet", **options)
    assert copied.returncode == 0, copied.stderr
    table = pyarrow.parquet.read_table(tmp_path / "b.parquet")
    assert table.schema.equals(schema_of(name), check_metadata=False)
    assert table.to_pylist() == rows


def encodings_in(path, column):
    metadata = pyarrow.parquet.read_metadata(path)
    chunks = [metadata.row_group(g).column(c) for g in range(metadata.num_row_groups)
              for c in range(metadata.num_columns)]
    return {e for chunk in chunks if chunk.path_in_schema == column for e in chunk.encodings}


@pytest.mark.parametrize("name", FIELDS)
def test_every_schema_comes_back_as_pyarrow_wrote_it(name, tmp_path):
    rows = rows_of(name, 11)
    write(tmp_path / "a.parquet", name, rows)
    check_copy(name, tmp_path, rows, group_rows=4)


@pytest.mark.parametrize("codec", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("group_rows", [1, 3, 64])
@pytest.mark.parametrize("dictionary", [True, False])
@pytest.mark.parametrize("cache_bytes", [0, 1 << 30])
def test_codecs_groups_and_encodings(codec, group_rows, dictionary, cache_bytes, tmp_path):
    rows = rows_of("t2v", 10)
    write(tmp_path / "a.parquet", "t2v", rows, compression=codec, row_group_size=group_rows, use_dictionary=dictionary)
    assert ("RLE_DICTIONARY" in encodings_in(tmp_path / "a.parquet", "caption")) == dictionary
    check_copy("t2v", tmp_path, rows, cache_bytes=cache_bytes)


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compliant", [True, False])
def test_page_versions_and_both_names_of_a_list_leaf(version, compliant, tmp_path):
    rows = rows_of("t2v", 5)
    write(tmp_path / "a.parquet", "t2v", rows, data_page_version=version, use_compliant_nested_type=compliant)
    metadata = pyarrow.parquet.read_metadata(tmp_path / "a.parquet")
    paths = {metadata.row_group(0).column(c).path_in_schema for c in range(metadata.num_columns)}
    assert ("vae_latent_shape.list.element" in paths) == compliant
    check_copy("t2v", tmp_path, rows)


def test_a_column_that_starts_with_a_dictionary_and_goes_on_plain(tmp_path):
    """The dictionary overflows in the middle of a column: pages of both kinds in one chunk."""
    rows = rows_of("t2v", 12)
    for i, row in enumerate(rows):
        put(row, "vae_latent", numpy.full((1, 1, 50, 50), i // 2, numpy.float32))
    write(tmp_path / "a.parquet", "t2v", rows, dictionary_pagesize_limit=30_000, data_page_size=8, write_batch_size=1)
    assert {"RLE_DICTIONARY", "PLAIN"} <= encodings_in(tmp_path / "a.parquet", "vae_latent_bytes")
    for cache_bytes in (0, 1 << 30):
        check_copy("t2v", tmp_path, rows, cache_bytes=cache_bytes)


def test_nulls_stay_apart_from_empty_texts(tmp_path):
    rows = rows_of("t2v", 3)
    rows[1].update({"caption": None, "width": None, "fps": None})
    rows[2]["caption"] = ""
    write(tmp_path / "a.parquet", "t2v", rows)
    check_copy("t2v", tmp_path, rows)


@pytest.mark.parametrize("word,dtype", [("float32", "float32"), ("torch.float32", "float32"), ("float16", "float16"),
                                        ("bfloat16", "uint16"), ("", "float32"), ("complex stuff", "float32")])
def test_the_dtype_column_is_honoured(word, dtype, tmp_path, fastwan):
    rows = rows_of("t2v", 1)
    put(rows[0], "vae_latent", numpy.ones((2, 3, 4, 5)).astype(dtype))
    rows[0]["vae_latent_dtype"] = word
    write(tmp_path / "a.parquet", "t2v", rows)
    copied = copy("t2v", tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert copied.returncode == 0, copied.stderr
    row = pyarrow.parquet.read_table(tmp_path / "b.parquet").to_pylist()[0]
    expected = {"float16": "float16", "bfloat16": "bfloat16"}.get(word, "float32")
    assert row["vae_latent_dtype"] == expected
    assert row["vae_latent_bytes"] == rows[0]["vae_latent_bytes"]
    shown = fastwan("preprocess", "inspect", tmp_path / "a.parquet")
    assert shown.status == 0 and f"{expected} [2, 3, 4, 5]" in shown.out, shown


@pytest.mark.parametrize("word,dtype", [("float16", "float32"), ("float32", "float16"), ("", "float16"),
                                        ("bfloat16", "uint8")])
def test_a_dtype_that_contradicts_the_bytes_is_refused(word, dtype, tmp_path):
    rows = rows_of("t2v", 2)
    put(rows[1], "vae_latent", numpy.ones((2, 3, 4, 5)).astype(dtype))
    rows[1]["vae_latent_dtype"] = word
    write(tmp_path / "a.parquet", "t2v", rows)
    copied = copy("t2v", tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert copied.returncode == 3
    for part in ("a.parquet", "vae_latent", "row 1", "120"):
        assert part in copied.stderr
    assert not (tmp_path / "b.parquet").exists()


def test_another_codec_is_refused_by_name_of_the_column(tmp_path):
    write(tmp_path / "a.parquet", "t2v", rows_of("t2v", 2), compression="gzip")
    copied = copy("t2v", tmp_path / "a.parquet", tmp_path / "b.parquet")
    assert copied.returncode == 3 and "codec" in copied.stderr and "zstd" in copied.stderr


def test_what_we_write_has_plain_pages_zstd_and_no_statistics_on_tensors(tmp_path):
    write(tmp_path / "a.parquet", "t2v", rows_of("t2v", 10))
    assert copy("t2v", tmp_path / "a.parquet", tmp_path / "b.parquet", group_rows=4).returncode == 0
    metadata = pyarrow.parquet.read_metadata(tmp_path / "b.parquet")
    assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [4, 4, 2]
    for c in range(metadata.num_columns):
        chunk = metadata.row_group(0).column(c)
        assert chunk.compression == "ZSTD"
        assert not chunk.has_dictionary_page
        if chunk.path_in_schema.endswith("_bytes"):
            assert not chunk.is_stats_set


def test_verify_tells_what_is_wrong(tmp_path, fastwan):
    rows = rows_of("t2v", 6)
    for i, row in enumerate(rows):
        row["id"] = f"clip-{i}"
    (tmp_path / "good").mkdir()
    write(tmp_path / "good" / "a.parquet", "t2v", rows)
    whole = fastwan("preprocess", "verify", "good")
    assert whole.status == 0 and "6 rows in 1 files are whole" in whole.out, whole
    rows[1]["id"] = "clip-0"
    bad = numpy.ones((4, 3, 5, 7), numpy.float32)
    bad[0, 0, 0, 0] = numpy.nan
    put(rows[2], "vae_latent", bad)
    put(rows[3], "vae_latent", numpy.ones((4, 3, 5, 6), numpy.float32))
    (tmp_path / "bad").mkdir()
    write(tmp_path / "bad" / "a.parquet", "t2v", rows)
    broken = fastwan("preprocess", "verify", "bad")
    assert broken.status == 3, broken
    for part in ("3 problems", "clip-0", "NaN", "[4, 3, 5, 6]"):
        assert part in broken.err, broken


def test_verify_finds_what_training_would_stop_at(tmp_path, fastwan):
    rows = rows_of("t2v", 5)
    for i, row in enumerate(rows):
        row["id"] = f"clip-{i}"
    put(rows[1], "vae_latent", numpy.ones((4, 3, 35), numpy.float32))
    put(rows[2], "vae_latent", numpy.ones((4, 3, 5, 7), numpy.int64))
    put(rows[3], "text_embedding", numpy.ones((2, 8), numpy.float32))
    put(rows[4], "text_embedding", numpy.ones(16, numpy.float32))
    write(tmp_path / "a.parquet", "t2v", rows)
    run = fastwan("preprocess", "verify", "a.parquet")
    assert run.status == 3, run
    for part in ("4 problems", "row 1: vae_latent must have 4 dimensions, its shape is [4, 3, 35]",
                 "row 2: vae_latent holds int64, wanted float32", "row 3: text_embedding is of width [8], the first is [16]",
                 "row 4: text_embedding must have 2 dimensions"):
        assert part in run.err, run
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet").slice(0, 1)
    pyarrow.parquet.write_table(table.drop(["text_embedding_bytes"]), tmp_path / "b.parquet")
    run = fastwan("preprocess", "verify", "b.parquet")
    assert run.status == 3 and "row 0: its file has no column text_embedding_bytes" in run.err, run


def test_a_disk_that_is_full_is_said_to_be_full(tmp_path):
    write(tmp_path / "a.parquet", "t2v", rows_of("t2v", 64))

    def limit():  # a write beyond it fails as one to a full disk does, but for the number of the error
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    run = subprocess.run([binary().parent / "parquet_copy", "t2v", tmp_path / "a.parquet", tmp_path / "b.parquet", "8", "1"],
                         capture_output=True, text=True, preexec_fn=limit)
    assert run.returncode == 3 and "b.parquet: File too large. Raise `ulimit -f`" in run.stderr, run
    assert not list(tmp_path.glob("*b.parquet*"))
