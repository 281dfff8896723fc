"""One holder at a time, whoever asks, dies or falls silent."""

from __future__ import annotations

import os
import subprocess
import sys
import threading

import pytest

from spectokenizer.experiments import claims
from spectokenizer.experiments.claims import Claim, holder


def test_one_at_a_time_and_nothing_left(tmp_path):
    assert holder(tmp_path) is None
    claim = Claim.take(tmp_path)
    assert claim is not None and claim.held()
    assert f"process {os.getpid()}" in holder(tmp_path)
    assert Claim.take(tmp_path) is None
    claim.release()
    assert holder(tmp_path) is None and not list(tmp_path.iterdir())
    with Claim.take(tmp_path) as again:
        assert again.held()


def test_a_dead_process_holds_nothing(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "claim-1").write_text(f"{claims._here()}\n{dead.pid}\n")
    assert holder(tmp_path) is None
    with Claim.take(tmp_path) as claim:
        assert claim.path.name == "claim-2"
    assert not list(tmp_path.glob("claim-*"))


def test_another_machine_holds_until_it_falls_silent(tmp_path):
    path = tmp_path / "claim-7"
    path.write_text("elsewhere\n1\n")
    assert holder(tmp_path) == "elsewhere, process 1"
    assert Claim.take(tmp_path) is None
    old = path.stat().st_mtime - claims.STALE - 1
    os.utime(path, (old, old))
    with Claim.take(tmp_path) as claim:
        assert claim.path.name == "claim-8"


@pytest.mark.parametrize("text", ["", "x", "\n\n"])
def test_a_claim_half_written_counts(tmp_path, text):
    (tmp_path / "claim-1").write_text(text)
    assert holder(tmp_path)
    assert Claim.take(tmp_path) is None


def test_of_many_at_once_one_gets_it(tmp_path):
    dead = tmp_path / "claim-1"
    dead.write_text("elsewhere\n1\n")
    os.utime(dead, (0, 0))
    start, got = threading.Barrier(12), []

    def ask():
        start.wait()
        got.append(Claim.take(tmp_path))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [claim for claim in got if claim is not None]
    assert len(winners) == 1
    winners[0].release()


def test_the_holder_beats_and_hears_of_a_loss(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    lost = threading.Event()
    claim = Claim.take(tmp_path, lost.set)
    os.utime(claim.path, (0, 0))
    while claim.path.stat().st_mtime < 1:
        pass
    (tmp_path / "claim-2").write_text("elsewhere\n1\n")
    assert lost.wait(10)
    claim.release()
    assert (tmp_path / "claim-2").exists()  # another's is left alone


def test_a_number_that_comes_again_is_another_claim(tmp_path):
    silent = Claim.take(tmp_path)
    (tmp_path / "claim-1").unlink()  # taken over and given up by another meanwhile
    with Claim.take(tmp_path) as claim:
        assert claim.path == silent.path and claim.held() and not silent.held()
        silent.release()
        assert claim.held()


def test_a_file_system_may_be_away_for_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    folder, lost = tmp_path / "trial", threading.Event()
    folder.mkdir()
    claim = Claim.take(folder, lost.set)
    real, seen = claims._claims, []

    def broken(folder):
        seen.append(len(seen))
        if len(seen) == 2:
            raise OSError("stale file handle")
        return [] if len(seen) == 4 else real(folder)

    monkeypatch.setattr(claims, "_claims", broken)
    while len(seen) < 12:
        pass
    assert not lost.is_set()
    for path in folder.iterdir():
        path.unlink()
    assert lost.wait(10)
    claim.release()
