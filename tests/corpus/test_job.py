"""Whole jobs: killed, resumed, refused, with broken files, on a full disk."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from spectokenizer import AudioError, Codec, ConfigError
from spectokenizer.corpus import formats, job, read
from spectokenizer.corpus.engine import Told
from spectokenizer.corpus.shard import Job, Report, Shard, finished, tokenize_shard
from spectokenizer.corpus.sources import Item
from spectokenizer.runtime import audio

RUN = "from spectokenizer.cli.corpus import tokenize; tokenize()"


def here(work: Callable[[Any, Told], Report], tasks: Sequence[Any], workers: int | None, moving: Any) -> Iterator[Report]:
    """The simplest engine: this process."""
    for task in tasks:
        yield work(task, lambda size, seconds: None)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Twelve clips from 0 samples to one second, two of them broken."""
    folder = tmp_path / "clips"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        soundfile.write(folder / f"{i:02d}.wav", 0.1 * rng.standard_normal(i * 1400), 8000 if i % 3 else 16000)
    (folder / "05.wav").write_text("no audio")
    (folder / "07.wav").write_bytes(b"")
    return folder


def tokenize(folder: Path, out: Path, codec: Codec, **options: Any) -> job.Summary:
    model = str(codec.network.folder)
    return job.tokenize([folder], out, model, codec.info.bitrates[-1], **{"engine": here, "shard_clips": 3, "kind": "npy", **options})


def assert_right(out: Path, folder: Path, codec: Codec, bitrate: float | None) -> None:
    """Every good clip is there once, in order, with the codes of `codec.encode` on the file alone."""
    rows = list(read(out))
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()] if (out / "errors.jsonl").exists() else []
    assert sorted([row.id for row in rows] + [error["id"] for error in errors]) == sorted(path.stem for path in folder.iterdir())
    assert [row.id for row in rows] == sorted(row.id for row in rows)
    for row in rows:
        samples, rate = audio.read(folder / f"{row.id}.wav")
        np.testing.assert_array_equal(row.codes, codec.encode(samples, rate, bitrate).array)
        assert row.sample_rate_in == rate and row.model_hash == codec.info.model_hash
    assert not list(out.rglob("*.part"))


@pytest.mark.parametrize("kind", list(formats.FORMATS))
def test_a_corpus_with_broken_files(clips: Path, tmp_path: Path, codec: Codec, kind: str) -> None:
    seen: list[job.Progress] = []
    summary = tokenize(clips, tmp_path / "out", codec, kind=kind, show=seen.append)
    assert_right(tmp_path / "out", clips, codec, codec.info.bitrates[-1])
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [error["id"] for error in errors] == ["05", "07"] and all(error["reason"] and error["path"] for error in errors)
    card = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (card["clips"], card["errors"], card["shards"], card["inputs"]) == (10, 2, 4, ["clips"])
    assert card["tokens"] == sum(row.codes.size for row in read(tmp_path / "out")) == summary.tokens
    assert card["hours"] == round(sum(row.samples for row in read(tmp_path / "out")) / 16000 / 3600, 4)
    assert str(tmp_path) not in json.dumps(card)
    assert seen[-1].share == 1 and seen[-1].errors == 2 and [p.share for p in seen] == sorted(p.share for p in seen)
    again = tokenize(clips, tmp_path / "out", codec, kind=kind)
    assert again.resumed == again.shards == 4 and again.report.clips == 10


def test_statistics(clips: Path, tmp_path: Path, codec: Codec) -> None:
    summary = tokenize(clips, tmp_path / "out", codec)
    codes = np.concatenate([row.codes for row in read(tmp_path / "out")], 1)
    for k, book in enumerate(codes):
        _, counts = np.unique(book, return_counts=True)
        share = counts / counts.sum()
        assert summary.report.utilisation[k] == pytest.approx(len(counts) / codec.info.codebook_size)
        assert summary.report.entropy[k] == pytest.approx(-(share * np.log2(share)).sum())


def test_strict_stops(clips: Path, tmp_path: Path, codec: Codec) -> None:
    with pytest.raises(AudioError, match=r"05\.wav"):
        tokenize(clips, tmp_path / "out", codec, strict=True)
    assert [row.id for row in read(tmp_path / "out")] == ["00", "01", "02"]  # the shard before is kept
    assert tokenize(clips, tmp_path / "out", codec).resumed == 1
    with pytest.raises(AudioError, match=r"05\.wav: .*: 2 clips of shards from before"):  # which were made without it
        tokenize(clips, tmp_path / "out", codec, strict=True)


def test_only_unfinished_shards_are_done_again(clips: Path, tmp_path: Path, codec: Codec) -> None:
    out = tmp_path / "out"
    tokenize(clips, out, codec)
    data = {path: path.read_bytes() for path in sorted((out / "data").iterdir())}
    (out / ".spectok" / "00002.json").unlink()  # as if killed between the shard's data and its report
    (out / ".spectok" / "00001.json").write_text('{"clips"')  # as if the machine had stopped
    (out / "data" / ".train.x.part").write_bytes(b"half")
    done = []

    def noting(work: Any, tasks: Sequence[Shard], *rest: Any) -> Iterator[Report]:
        done.extend(task.number for task in tasks)
        yield from here(work, tasks, *rest)

    tokenize(clips, out, codec, engine=noting)
    assert done == [1, 2]
    assert {path: path.read_bytes() for path in sorted((out / "data").iterdir())} == data


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bitrate": 500}, "bitrate"),
        ({"kind": "webdataset"}, "format npy then, webdataset now"),
        ({"shard_clips": 2}, "clips per shard"),
    ],
)
def test_another_job_is_refused(clips: Path, tmp_path: Path, codec: Codec, change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"bitrate": 1000, "engine": here, "shard_clips": 3, "kind": "npy"}
    job.tokenize([clips], tmp_path / "out", **options)
    with pytest.raises(ConfigError, match=message):
        job.tokenize([clips], tmp_path / "out", **{**options, **change})


def test_other_inputs_are_refused(clips: Path, tmp_path: Path, codec: Codec) -> None:
    tokenize(clips, tmp_path / "out", codec)
    (clips / "00.wav").write_bytes((clips / "01.wav").read_bytes())
    with pytest.raises(ConfigError, match="the files or what the manifest says"):
        tokenize(clips, tmp_path / "out", codec)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    with pytest.raises(ConfigError, match="of something else"):
        tokenize(clips, tmp_path / "mine", codec)
    with pytest.raises(ConfigError, match="is a file"):
        tokenize(clips, clips / "00.wav", codec)


def test_two_at_once_are_refused(clips: Path, tmp_path: Path, codec: Codec) -> None:
    def another(*_: Any) -> Iterator[Report]:
        with pytest.raises(ConfigError, match="another 'spectok tokenize'"):
            tokenize(clips, tmp_path / "out", codec)
        yield from here(*_)

    assert tokenize(clips, tmp_path / "out", codec, engine=another).report.clips == 10


def test_a_machine_with_another_model_is_told(clips: Path, tmp_path: Path, codec: Codec) -> None:
    wrong = Job(str(tmp_path), str(codec.network.folder), "0" * 16, None, "npy", 1)
    with pytest.raises(Exception, match="install the same everywhere"):
        tokenize_shard(Shard(wrong, 0, [Item("a", str(clips / "01.wav"), 1)]))
    assert finished(wrong, 0) is None


@given(st.lists(st.integers(0, 3 * 2**26), max_size=300), st.integers(1, 50))
def test_shards_hold_all_in_order(sizes: list[int], most: int) -> None:
    items = [Item(str(i), "", size) for i, size in enumerate(sizes)]
    groups = job.cut(items, most)
    assert [item for group in groups for item in group] == items
    assert all(1 <= len(group) <= most for group in groups)
    assert all(sum(i.size for i in group) <= job.SHARD_BYTES for group in groups if len(group) > 1)


def start(folder: Path, out: Path, codec: Codec, environment: dict[str, str], *options: str) -> subprocess.Popen[bytes]:
    words = [str(folder), "--out", str(out), "-m", str(codec.network.folder), "-b", str(codec.info.bitrates[0] / 1000), *options]
    command = [sys.executable, "-c", RUN, *words]
    return subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_killed_twice(tmp_path: Path, codec: Codec, subprocess_environment: dict[str, str]) -> None:
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        soundfile.write(clips / f"{i:02d}.wav", 0.1 * rng.standard_normal(12000 + 500 * i), 16000)
    options = ["--workers", "2", "--shard-clips", "1", "--format", "npy"]
    kept: dict[Path, int] = {}
    for wanted in (3, 12):
        process = start(clips, out, codec, subprocess_environment, *options)
        deadline = time.monotonic() + 60
        while len(list((out / ".spectok").glob("0*.json"))) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        process.communicate()
        while time.monotonic() < deadline:  # the workers must not outlive it
            try:
                os.killpg(process.pid, 0)
                time.sleep(0.02)
            except ProcessLookupError:
                break
        else:
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail("workers of a killed parent go on")
        reports = sorted((out / ".spectok").glob("0*.json"))
        assert wanted <= len(reports) < 40
        assert all(path.stat().st_mtime_ns == kept[path] for path in reports if path in kept)  # not done again
        kept = {path: path.stat().st_mtime_ns for path in reports}
    process = start(clips, out, codec, subprocess_environment, *options)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and f"{len(kept)} of them from before" in output.decode()
    assert all(path.stat().st_mtime_ns == before for path, before in kept.items())
    assert_right(out, clips, codec, codec.info.bitrates[0])


def test_a_full_disk(clips: Path, tmp_path: Path, codec: Codec, subprocess_environment: dict[str, str]) -> None:
    """Simulated by a limit on the size of files."""
    resource = pytest.importorskip("resource")
    words = [str(clips), "--out", str(tmp_path / "out"), "-m", str(codec.network.folder), "-b", "6", "--shard-clips", "12", "-w", "1"]
    script = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4200, 4200))\n" + RUN
    done = subprocess.run([sys.executable, "-c", script, *words], env=subprocess_environment, capture_output=True, check=False, timeout=60)
    assert done.returncode == 1 and b"File too large" in done.stderr and b".parquet" in done.stderr
    assert not list((tmp_path / "out").rglob("*.part")) and not list((tmp_path / "out").rglob("*.parquet"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4200
    summary = job.tokenize([clips], tmp_path / "out", str(codec.network.folder), 6000, engine=here, shard_clips=12)
    assert summary.report.clips == 10


def test_the_same_names_and_sizes_in_another_noise(clips: Path, tmp_path: Path, codec: Codec) -> None:
    tokenize(clips, tmp_path / "out", codec)
    noisy = shutil.copytree(clips, tmp_path / "noisy" / clips.name)
    samples, rate = soundfile.read(noisy / "00.wav")
    for path in noisy.glob("*.wav"):
        if path.stat().st_size > 1000:
            samples, rate = soundfile.read(path)
            soundfile.write(path, samples[::-1], rate)
    with pytest.raises(ConfigError, match="the files or what the manifest says"):
        tokenize(noisy, tmp_path / "out", codec)
    tokenize(clips, tmp_path / "out", codec)


@pytest.mark.parametrize("kind", list(formats.FORMATS))
def test_a_shard_that_was_lost_is_made_again(clips: Path, tmp_path: Path, codec: Codec, kind: str) -> None:
    tokenize(clips, tmp_path / "out", codec, kind=kind)
    sorted((tmp_path / "out" / formats.DATA).iterdir())[1].unlink()
    tokenize(clips, tmp_path / "out", codec, kind=kind)
    assert_right(tmp_path / "out", clips, codec, codec.info.bitrates[-1])
