from __future__ import annotations

import io
import json
import sys
import tarfile

import numpy as np
import pytest
import soundfile

pytest.importorskip("rich")

from spectokenizer.errors import ConfigError
from spectokenizer.training import data


def write_tar(path, members):
    """A tar file of (name, bytes or None for a link) in the order given."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def same(a, b):
    np.testing.assert_array_equal(a.samples, b.samples)
    np.testing.assert_array_equal(a.starts, b.starts)


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "audio"
    (source / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    soundfile.write(source / "a.wav", 0.1 * rng.standard_normal(16000), 16000)
    soundfile.write(source / "deep" / "b.flac", 0.1 * rng.standard_normal((44100, 2)), 44100)
    soundfile.write(source / "short.wav", 0.1 * rng.standard_normal(800), 16000)
    (source / "broken.wav").write_bytes(b"RIFF nothing")
    (source / "notes.txt").write_text("no audio")
    return source


def test_folder_is_decoded_once_and_broken_files_are_skipped(folder, tmp_path, capsys):
    clips = data.Clips.open(folder, 16000, tmp_path / "cache")
    assert len(clips) == 3
    assert "broken.wav" in capsys.readouterr().out
    assert clips.seconds == pytest.approx(1 + 1 + 0.05, abs=0.001)
    stamp = next((tmp_path / "cache").glob("*.i16")).stat().st_mtime_ns
    data.Clips.open(folder, 16000, tmp_path / "cache")
    assert next((tmp_path / "cache").glob("*.i16")).stat().st_mtime_ns == stamp


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_wrong_with_which_file(folder, tmp_path, capsys, packed):
    """Values that are no numbers, and rates that are none: one file of a corpus must not end the training."""
    samples = np.zeros(3000, np.float32)
    soundfile.write(folder / "nan.wav", np.where(np.arange(3000) == 5, np.nan, samples), 16000, subtype="FLOAT")
    for name, rate in (("slow.wav", 7), ("fast.wav", 2**31 - 1)):
        soundfile.write(folder / name, samples, 16000)
        header = bytearray((folder / name).read_bytes())
        header[24:28] = rate.to_bytes(4, "little")
        (folder / name).write_bytes(header)
    names = ["nan.wav", "slow.wav", "fast.wav", "broken.wav"]
    if packed:
        write_tar(tmp_path / "s.tar", [(name, (folder / name).read_bytes()) for name in [*names, "a.wav"]])
    clips = data.Clips.open(tmp_path / "s.tar" if packed else folder, 16000, tmp_path / "cache")
    assert len(clips) == (1 if packed else 3)
    said = " ".join(capsys.readouterr().out.split())
    reasons = ("holds nan at sample 5", "sample rate 7 Hz", "sample rate 2147483647 Hz", "not audio")
    for name, reason in zip(names, reasons, strict=True):
        (line,) = [part for part in said.split("skipped ") if name in part]
        assert reason in line and line.count(name) == 1, line


def test_formats_that_are_read(tmp_path):
    """All those that `spectok tokenize` takes."""
    for suffix in (".oga", ".snd", ".sph", ".aifc", ".rf64", ".caf"):
        (tmp_path / f"a{suffix}").write_bytes(b"")
    assert len(data.find(tmp_path)) == 6


def test_manifests(folder, tmp_path):
    lines = [json.dumps({"path": "audio/a.wav"}), "", "audio/deep/b.flac"]
    manifest = tmp_path / "list.jsonl"
    manifest.write_text("\n".join(lines))
    assert [p.name for p in data.find_audio(manifest)] == ["a.wav", "b.flac"]
    manifest.write_text('{"file": "audio/a.wav"}')
    assert [p.name for p in data.find_audio(manifest)] == ["a.wav"]
    manifest.write_text('{"speaker": 3}')
    with pytest.raises(ConfigError, match="row 1: no column path"):
        data.find_audio(manifest)
    table = tmp_path / "list.csv"
    table.write_text('path,txt\naudio/a.wav,hello\naudio/deep/b.flac,"yes, you"\n')
    assert [p.name for p in data.find_audio(table)] == ["a.wav", "b.flac"]
    for wrong in (b'{"path": 3}', b"\xff\xfe\x00"):
        manifest.write_bytes(wrong)
        with pytest.raises(ConfigError, match="jsonl"):
            data.find_audio(manifest)


def test_parquet(folder, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    manifest = tmp_path / "list.parquet"
    paths = ["audio/a.wav", "audio/broken.wav", "audio/deep/b.flac", "audio/short.wav"]
    parquet.write_table(pyarrow.table({"path": paths, "speaker": [1, 2, 3, 4]}), manifest)
    same(data.Clips.open(manifest, 16000, tmp_path / "one"), data.Clips.open(folder, 16000, tmp_path / "two"))
    for table, message in [({"speaker": paths}, "no column path"), ({"path": ["a.wav", None]}, "row 2"), ({"path": [1]}, "row 1")]:
        parquet.write_table(pyarrow.table(table), manifest)
        with pytest.raises(ConfigError, match=message):
            data.find(manifest)
    manifest.write_bytes(b"PAR1 nothing")
    with pytest.raises(ConfigError, match="not a Parquet file"):
        data.find(manifest)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "list.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match="pip install"):
        data.find(tmp_path / "list.parquet")


def test_tar_shards_hold_the_same_clips(folder, tmp_path):
    """Cut into two shards in the folder's order, named by folder, pattern, braces, manifest: always the same clips."""
    read = [(p.relative_to(folder).as_posix(), p.read_bytes()) for p in data.find_audio(folder)]
    shards = tmp_path / "shards"
    shards.mkdir()
    write_tar(shards / "s-00.tar", [*read[:2], ("a.txt", b"what a says")])
    write_tar(shards / "s-01.tar", [("s", None), *read[2:], ("s.json", b"{}")])
    (tmp_path / "list.txt").write_text("shards/s-00.tar\nshards/s-01.tar")
    plain = data.Clips.open(folder, 16000, tmp_path / "plain")
    for source in (shards, shards / "*.tar", shards / "s-{00..01}.tar", shards / "s-0{0,1}.tar", tmp_path / "list.txt"):
        assert data.files(data.find(source)) == [shards / "s-00.tar", shards / "s-01.tar"]
        same(data.Clips.open(source, 16000, tmp_path / "cache"), plain)
    assert len(list((tmp_path / "cache").glob("*.i16"))) == 1
    (shards / "loose.wav").write_bytes(read[0][1])
    assert len(data.Clips.open(shards, 16000, tmp_path / "cache")) == 4
    write_tar(shards / "s-01.tar", read[2:3])
    assert len(data.Clips.open(shards / "*.tar", 16000, tmp_path / "cache")) < len(plain)
    with pytest.raises(ConfigError, match="tar shards alone"):
        data.find_audio(tmp_path / "list.txt")


def test_hostile_members_are_named_skipped_and_harmless(folder, tmp_path, capsys):
    good = (folder / "a.wav").read_bytes()
    names = ["../../escaped.wav", "/escaped.wav", "C:\\x.wav", "[/red].wav", "\x1b[2J\udcff.wav", "d/" * 100 + "x.WAV"]
    shard = tmp_path / "shard.tar"
    write_tar(shard, [(name, good) for name in names] + [(name, b"no") for name in names] + [("link.wav", None), ("last.wav", good)])
    before = set(tmp_path.rglob("*"))
    clips = data.Clips.open(shard, 16000, tmp_path / "cache")
    assert len(clips) == len(names) + 1
    printed = capsys.readouterr().out
    assert printed.count("skipped") == len(names)
    assert "[/red].wav" in printed
    assert "\x1b[2J" not in printed
    assert {p.suffix for p in set(tmp_path.rglob("*")) - before} == {"", ".json", ".i16"}


@pytest.mark.parametrize("damage", ["cut in data", "cut in header", "garbage header", "sparse", "no tar", "missing"])
def test_broken_shards_give_what_is_left(folder, tmp_path, capsys, damage):
    good = (folder / "a.wav").read_bytes()
    (tmp_path / "shards").mkdir()
    shard = tmp_path / "shards" / "0.tar"
    write_tar(shard, [("1.wav", good), ("2.wav", good)])
    whole, second = shard.read_bytes(), 512 + -(-len(good) // 512) * 512
    huge = tarfile.TarInfo("huge.wav")
    huge.size, huge.pax_headers = 0, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(10**13)}
    write_tar(tmp_path / "other.tar", [("3.wav", good)])
    content = {
        "cut in data": whole[: second + 1000],
        "cut in header": whole[: second + 100],
        "garbage header": whole[:second] + b"?" * 512 + whole[second + 512 :],
        "sparse": whole[:second] + huge.tobuf(tarfile.PAX_FORMAT) + whole[second:],
        "no tar": b"?" * 5000,
        "missing": None,
    }[damage]
    if content is None:
        shard.unlink()
    else:
        shard.write_bytes(content)
    clips = data.Clips.open(str(tmp_path / "{shards/0,other}.tar"), 16000, tmp_path / "cache")
    assert len(clips) == (1 if damage in ("no tar", "missing") else 2)
    printed = "".join(capsys.readouterr().out.split())
    assert "skipped" in printed
    assert f"0.tar:{'Nosuchfile' if damage == 'missing' else 'thetarfilecannotberead'}" in printed


def test_decoding_keeps_few_clips_in_memory():
    """Items are taken as results are asked for, and results come in order."""
    taken = []
    with data.ThreadPoolExecutor(2) as pool:
        results = data._ordered(pool, lambda i: -i, (taken.append(i) or i for i in range(1000)))
        assert [next(results) for _ in range(3)] == [0, -1, -2]
        assert len(taken) <= data.AHEAD + 4
        results.close()


def test_formats_in_a_tar(tmp_path):
    samples = 0.1 * np.random.default_rng(0).standard_normal(16000)
    members = []
    for suffix, kind in {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3", "aiff": "AIFF", "w64": "W64", "caf": "CAF"}.items():
        file = io.BytesIO()
        soundfile.write(file, samples, 16000, format=kind)
        members.append((f"clip.{suffix}", file.getvalue()))
    write_tar(tmp_path / "all.tar", members)
    assert len(data.Clips.open(tmp_path / "all.tar", 16000, tmp_path / "cache")) == len(members)


def test_nothing_found(tmp_path):
    with pytest.raises(ConfigError, match="no audio in"):
        data.find_audio(tmp_path)
    with pytest.raises(ConfigError, match="no such folder or file"):
        data.find_audio(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no file fits the pattern"):
        data.find(tmp_path / "*.tar")


def test_batches_are_a_function_of_the_seed(folder, tmp_path):
    clips = data.Clips.open(folder, 16000, tmp_path / "cache")
    a, b = (clips.batch(16, 3200, np.random.default_rng([1, 2, 3])) for _ in range(2))
    assert a.shape == (16, 3200)
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - clips.batch(16, 3200, np.random.default_rng([1, 2, 4]))).max() > 0


def test_short_clips_sit_in_silence(tmp_path):
    clips = data.Clips(np.full(800, 1000, np.int16), np.array([0]), np.array([800]), 16000)
    batch = clips.batch(4, 3200, np.random.default_rng(0))
    assert ((batch != 0).sum(1) == 800).all()


def test_split_is_disjoint_and_covers(tmp_path):
    clips = data.Clips(np.zeros(1000, np.int16), np.arange(100) * 10, np.arange(100) * 10 + 10, 16000)
    for share, few in ((0.05, 8), (0.2, 20), (0.01, 8)):
        rest, held = clips.split(share)
        assert (len(rest), len(held)) == (100 - few, few)
        assert sorted([*rest.starts, *held.starts]) == list(clips.starts)
