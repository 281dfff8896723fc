"""Tokenising on Ray, in a process of its own with a time limit: the known trap is that it hangs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from spectokenizer import Codec, ConfigError
from spectokenizer.corpus.cluster import Ray, check_cores


@pytest.mark.parametrize(
    ("total", "free", "workers", "remedy"), [(8, 8, 8, "--workers 7"), (8, 3, 4, "--workers 2"), (1, 1, 1, "--engine local")]
)
def test_reserving_every_core_is_refused(total: float, free: float, workers: int, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy):
        check_cores(total, free, workers)
    check_cores(total, workers + 1, workers)


def test_without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray\[data\]"):
        next(Ray()(lambda task, told: task, [1], 1, lambda size, seconds: None))


SCRIPT = """
import sys
from pathlib import Path
from spectokenizer import ConfigError
from spectokenizer.corpus import tokenize
from spectokenizer.corpus.cluster import Ray

def main():
    import ray
    clips, out, model = sys.argv[1:]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    options = dict(model=model, bitrate=None, kind="npy", shard_clips=3)
    try:
        tokenize([clips], out, engine=Ray(), workers=2, **options)  # every core, which would hang
    except ConfigError as error:
        assert "--workers 1" in str(error), error
    else:
        raise AssertionError("not refused")
    report = tokenize([clips], out, engine=Ray(), workers=1, **options).report
    assert (report.clips, len(report.errors)) == (6, 1), report
    try:
        tokenize([clips], out + "-strict", engine=Ray(), strict=True, **options)
    except Exception as error:
        assert "AudioError" in type(error).__name__ and "broken.wav" in str(error), error
    else:
        raise AssertionError("not strict")

if __name__ == "__main__":
    main()
"""


def test_the_same_codes_on_ray(codec: Codec, tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    pytest.importorskip("ray.data", exc_type=ImportError)
    clips = tmp_path / "clips"
    clips.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        soundfile.write(clips / f"{i}.wav", 0.1 * rng.standard_normal(3000 * i), 8000)
    (clips / "broken.wav").write_text("no audio")
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**subprocess_environment, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(tmp_path / "script.py"), str(clips), str(tmp_path / "ray"), str(codec.network.folder)]
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr.decode()[-3000:]

    from spectokenizer.corpus import read, tokenize

    from .test_job import here

    tokenize([clips], tmp_path / "here", str(codec.network.folder), None, "npy", engine=here, shard_clips=3)
    for one, other in zip(read(tmp_path / "ray"), read(tmp_path / "here"), strict=True):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one.about() == other.about()
