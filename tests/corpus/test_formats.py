"""Tokens written and read back: by us, and as the documents show with pyarrow, numpy and datasets."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectokenizer import ConfigError, FormatError, disk
from spectokenizer.corpus import Row, formats, read
from spectokenizer.corpus.sources import Item

KINDS = list(formats.FORMATS)
numbers = st.floats(allow_nan=False, allow_subnormal=False)  # onnxruntime was told to flush them, which lasts
value = st.one_of(st.none(), st.text(max_size=8), st.integers(-(2**40), 2**40), numbers, st.booleans(), st.lists(st.integers(0, 9)))


def row(name: str, frames: int, num_codebooks: int = 3, columns: dict[str, Any] | None = None) -> Row:
    codes = np.random.default_rng(frames).integers(0, 1024, (num_codebooks, frames)).astype(np.int16)
    return Row(name, codes, num_codebooks, 50.0, max(0, frames * 320 - 160), 8000, "ab" * 32, "0123456789abcdef", columns or {})


def assert_same(found: Row, wanted: Row, columns: bool = True) -> None:
    np.testing.assert_array_equal(found.codes, wanted.codes)
    assert found.codes.dtype == np.int16 and found.codes.shape == wanted.codes.shape
    left, right = found.about(), wanted.about()
    if not columns:
        left, right = ({name: about[name] for name in formats.OWN if name != "codes"} for about in (left, right))
    assert left == right


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10)
@given(
    frames=st.lists(st.integers(0, 60), max_size=6),
    columns=st.lists(st.dictionaries(st.sampled_from(["text", "n", "x"]), value), min_size=6),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, kind: str, frames: list[int], columns: list[dict[str, Any]]
) -> None:
    out = tmp_path_factory.mktemp("corpus")
    rows = [row(f"spk {i}/ü.{i}", count, columns=columns[i]) for i, count in enumerate(frames)]
    items = [Item(r.id, "", 0, columns=r.columns) for r in rows]
    formats.write(kind, out, "train-00000-of-00001", rows, formats.column_types(items) if kind == "parquet" else None)
    found = list(read(out))
    assert [r.id for r in found] == [r.id for r in rows]
    for one, wanted in zip(found, rows, strict=True):
        assert_same(one, wanted, columns=kind != "parquet")
        for name, own in wanted.columns.items():  # in Parquet, a column has one type: mixed ones are JSON
            assert one.columns[name] in (own, json.dumps(own, ensure_ascii=False)) or one.columns[name] == pytest.approx(own)
    assert not list(out.rglob("*.part"))


def test_two_lines_with_pyarrow(tmp_path: Path) -> None:
    wanted = [row("a", 7), row("b", 0), row("c", 40)]
    formats.write("parquet", tmp_path, "train-00000-of-00001", wanted)
    parquet = pytest.importorskip("pyarrow.parquet")

    table = parquet.read_table(tmp_path / "data")
    codes = np.stack(table["codes"][2].values.to_numpy(zero_copy_only=False))

    np.testing.assert_array_equal(codes, wanted[2].codes)
    assert codes.dtype == np.int16 and table.column_names[:2] == ["id", "codes"]


def test_two_lines_with_numpy(tmp_path: Path) -> None:
    wanted = [row("spk/a", 7)]
    formats.write("npy", tmp_path, "train-00000-of-00001", wanted)

    codes = np.load(tmp_path / "codes" / "spk/a_c0.npy")[0]

    np.testing.assert_array_equal(codes, wanted[0].codes)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_two_lines_with_datasets(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    wanted = [row("a", 7, columns={"text": "x"}), row("b.c", 9, columns={"text": "y"})]
    for i, one in enumerate(wanted):
        formats.write(
            kind, tmp_path / "tokens", f"train-{i:05d}-of-00002", [one], formats.column_types([Item("", "", 0, columns={"text": "x"})])
        )
    (tmp_path / "tokens" / "dataset.json").write_text("{}")
    (tmp_path / "tokens" / "errors.jsonl").write_text('{"id": "broken"}\n')

    dataset = datasets.load_dataset(str(tmp_path / "tokens"), split="train", cache_dir=str(tmp_path / "cache")).with_format("numpy")
    codes = dataset[1]["codes" if kind == "parquet" else "npy"]

    np.testing.assert_array_equal(np.stack(list(codes)), wanted[1].codes)
    assert len(dataset) == 2
    about = dataset[1] if kind == "parquet" else dataset[1]["json"]
    assert (str(about["id"]), str(about["text"])) == ("b.c", "y")


def test_names_in_a_tar_are_webdataset_s(tmp_path: Path) -> None:
    formats.write("webdataset", tmp_path, "train-00000-of-00001", [row("a/b.c", 1), row("a/b_c", 1), row("a/b", 1)])
    with tarfile.open(tmp_path / "data" / "train-00000-of-00001.tar") as file:
        names = file.getnames()
    assert len({name.partition(".")[0] for name in names}) == 3 and all(name.count(".") == 1 for name in names)


def test_own_columns_win() -> None:
    assert formats.carried({"codes": 1, "sha256": "x", "text": "t"}) == {"manifest_codes": 1, "manifest_sha256": "x", "text": "t"}


def test_rows_are_grouped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(formats, "GROUP_FRAMES", 20)
    wanted = [row(str(i), 8) for i in range(7)]
    formats.write("parquet", tmp_path, "train-00000-of-00001", wanted)
    assert parquet.ParquetFile(tmp_path / "data" / "train-00000-of-00001.parquet").num_row_groups == 3
    for one, other in zip(read(tmp_path), wanted, strict=True):
        assert_same(one, other)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), disk.replacing(tmp_path / "new" / "file") as file:
        file.write(b"half")
        raise RuntimeError
    assert not any((tmp_path / "new").iterdir())


def test_what_is_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="no shards of tokens"):
        list(read(tmp_path))
    for name in ("a.parquet", "b.tar", "c.jsonl"):
        (tmp_path / name).write_text("{nothing")
        with pytest.raises(FormatError, match="not a shard of tokens"):
            list(read(tmp_path / name))


@pytest.mark.parametrize("kind", ["parquet"])
def test_without_pyarrow(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install \"spectokenizer\[corpus\]\""):
        formats.need_pyarrow()


@pytest.mark.parametrize("value", [{}, {"tags": {}}, [{}], [{"a": [{"b": {}}]}]])
def test_columns_that_hold_nothing(tmp_path: Path, value: Any) -> None:
    """Parquet has no struct without fields, however deep it lies."""
    items = [Item("a", "a.wav", 1, columns={"meta": value}), Item("b", "b.wav", 1, columns={"meta": value})]
    rows = [row(item.id, 5, columns=item.columns) for item in items]
    formats.write("parquet", tmp_path, "x", rows, formats.column_types(items))
    assert [json.loads(found.columns["meta"]) for found in formats.read(tmp_path)] == [value, value]


@pytest.mark.parametrize("line", ["[]", "3", '"text"', '{"id": 5}', '{"num_codebooks": "x"}', "[" * 100000])
def test_a_line_that_is_no_row(tmp_path: Path, line: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "c.jsonl").write_text(line)
    with pytest.raises(FormatError, match="not a shard of tokens"):
        list(read(tmp_path))


def test_columns_with_names_that_nothing_can_write() -> None:
    assert formats.carried({"\ud800": 1, "id": 2, "text": 3}) == {"\\ud800": 1, "manifest_id": 2, "text": 3}
