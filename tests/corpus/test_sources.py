"""What is found where, under which name, and what is refused."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import ConfigError
from spectokenizer.corpus import sources
from spectokenizer.corpus.sources import Item, find, safe


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"12345")


def ids(items: list[Item]) -> list[str]:
    return [item.id for item in items]


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def test_a_folder(tmp_path: Path) -> None:
    touch(tmp_path / "b.wav", tmp_path / "sub" / "a.FLAC", tmp_path / "sub" / "notes.txt", tmp_path / "über uns" / "ein Lied.mp3")
    (tmp_path / "empty").mkdir()
    found = find([str(tmp_path)])
    assert ids(found) == ["b", "sub/a", "über uns/ein Lied"]
    assert all(item.size == 5 and item.path == str(tmp_path / item.path[len(str(tmp_path)) + 1 :]) and not item.problem for item in found)


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    touch(*(tmp_path / folder / name for folder in "xy" for name in ("a.wav", "a.flac", "A.wav")))
    found = find([str(tmp_path / "x"), str(tmp_path / "y")])
    assert len(found) == 6 and len({item.id.casefold() for item in found}) == 6
    assert ids(found)[0] == "A" and found == find([str(tmp_path / "x"), str(tmp_path / "y")])


def test_links_in_circles_end(tmp_path: Path) -> None:
    touch(tmp_path / "real" / "a.wav")
    (tmp_path / "real" / "again").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere.wav")
    found = find([str(tmp_path)])
    assert ids(found) == ["gone", "real/a"]
    assert found[0].problem == "No such file or directory"


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "zero.wav").symlink_to("/dev/zero")
    assert [item.problem for item in find([str(tmp_path)])] == ["not a regular file"] * 2


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_told(tmp_path: Path) -> None:
    touch(tmp_path / "closed" / "a.wav", tmp_path / "b.wav")
    (tmp_path / "closed").chmod(0)
    try:
        assert [item.problem for item in find([str(tmp_path)])] == ["", "the folder cannot be listed (Permission denied)"]
    finally:
        (tmp_path / "closed").chmod(0o700)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_manifests(tmp_path: Path, kind: str) -> None:
    touch(tmp_path / "clips" / "a b.wav")
    rows = [
        {"audio_filepath": "clips/a b.wav", "text": "hé, du", "speaker": "7"},
        {"audio_filepath": "clips/no.wav", "text": "", "speaker": "8"},
    ]
    path = tmp_path / f"list.{kind}"
    if kind == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.Table.from_pylist(rows), path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        mark = "," if kind == "csv" else "\t"
        quoted = [[f'"{row[name]}"' for name in rows[0]] for row in rows]
        path.write_text("\n".join(mark.join(row) for row in [list(rows[0]), *quoted]), encoding="utf-8")
    found = find([str(path)])
    assert ids(found) == ["clips/a b", "clips/no"]
    assert [item.columns for item in found] == rows
    assert [item.problem for item in found] == ["", "No such file or directory"]
    assert find([str(path)], root="/elsewhere")[0].path == "/elsewhere/clips/a b.wav"
    with pytest.raises(ConfigError, match="no column wav2 among"):
        find([str(path)], path_column="wav2")


def test_a_list_on_standard_input(tmp_path: Path) -> None:
    touch(tmp_path / "a.wav", tmp_path / "b.wav")
    lines = f'{tmp_path}/a.wav\n\n{{"path": "{tmp_path}/b.wav", "id": "second", "lang": "lg"}}\n'
    found = find(["-"], stdin=io.StringIO(lines))
    assert [(item.id.rpartition("/")[2], item.columns) for item in found] == [
        ("a", None),
        ("second", {"path": f"{tmp_path}/b.wav", "lang": "lg"}),
    ]


def test_a_tar_shard(tmp_path: Path) -> None:
    shard = tar(
        tmp_path / "s-000.tar",
        {"u1.wav": b"abc", "u1.json": b'{"speaker": 3}', "u1.txt": b"hello", "u2.flac": b"defg", "dir/u3.wav": b"", "u4.cls": b"1"},
    )
    found = find([str(shard)])
    assert ids(found) == ["s-000/u1", "s-000/u2", "s-000/dir/u3"]
    assert [item.columns for item in found] == [{"speaker": 3, "txt": "hello"}, None, None]
    data = shard.read_bytes()
    assert [data[item.offset : item.offset + item.size] for item in found] == [b"abc", b"defg", b""]
    assert find([str(tmp_path / "s-{000..000}.tar")]) == found and ids(find([str(tmp_path)])) == ids(found)


def test_a_hostile_tar_shard(tmp_path: Path) -> None:
    shard = tar(tmp_path / "x.tar", {"../../etc/evil.wav": b"1", "/abs/evil.wav": b"2", "last.wav": b"3" * 2000})
    found = find([str(shard)])
    assert ids(found) == ["x/etc/evil", "x/abs/evil", "x/last"]
    cut = tmp_path / "cut.tar"
    cut.write_bytes(shard.read_bytes()[: 2048 + 700])
    assert [bool(item.problem) for item in find([str(cut)])][:3] == [False, False, True]
    (tmp_path / "text.tar").write_text("no tar at all " * 100)
    assert "cannot be read any further" in find([str(tmp_path / "text.tar")])[0].problem
    compressed = tmp_path / "z.tar"
    with tarfile.open(compressed, "w:gz") as file:
        file.addfile(tarfile.TarInfo("a.wav"))
    assert "unpacked" in find([str(compressed)])[0].problem


def test_a_shard_that_is_not_there_is_told(tmp_path: Path) -> None:
    """Where others of the pattern are."""
    (tmp_path / "s-0.flac").touch()
    there, missing = find([str(tmp_path / "s-{0..1}.flac")])
    assert (there.id, there.problem, missing.id) == ("s-0", "", "s-1") and "No such file" in missing.problem


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no audio in"):
        find([str(tmp_path)])
    with pytest.raises(ConfigError, match="no such folder or file"):
        find([str(tmp_path / "x")])
    with pytest.raises(ConfigError, match="no file fits the pattern"):
        find([str(tmp_path / "*.wav")])
    for name, content, message in [
        ("a.jsonl", b'{"path": 3}', "row 1: the path is 3"),
        ("b.jsonl", b'{"path": "a.wav"}\n{"path"', "line 2: not a JSON object"),
        ("c.jsonl", b"\xff\xfe\x00", "not a manifest"),
        ("d.csv", b"name,age\nx,3\n", "no column path or"),
        ("e.parquet", b"PAR1", "not a Parquet file"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            find([str(tmp_path / name)])


@given(st.text(st.characters(), max_size=300))
def test_names_are_safe(name: str) -> None:
    result = safe(name)
    parts = PurePosixPath(result).parts
    assert parts and not result.startswith("/") and ".." not in parts and "\0" not in result
    assert all(len(part.encode()) <= sources.LONGEST_NAME for part in parts)
    assert safe(result) == result


def test_file_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/caf\xe9.wav"
    try:
        Path(os.fsdecode(raw)).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system wants UTF-8")
    (found,) = find([str(tmp_path)])
    assert found.size == 1 and found.id.encode() and found.id == "caf" + 3 * "\ufffd"
