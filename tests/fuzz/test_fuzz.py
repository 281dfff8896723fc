"""A little of both fuzzers; see mutate.py and parser.py for more."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_mutated_files(subprocess_environment: dict[str, str]) -> None:
    count = os.environ.get("SPECTOKENIZER_FUZZ", "500")
    command = [sys.executable, str(HERE / "mutate.py"), count]
    done = subprocess.run(command, capture_output=True, text=True, env=subprocess_environment, check=False)
    assert done.returncode == 0, done.stderr
    outcomes = {name: int(number) for number, name in re.findall(r"(\d+) ([A-Za-z]+)\n", done.stdout)}
    assert {"good", "CorruptedError", "TruncatedError", "FormatError"} <= set(outcomes)
    assert f"{count} files in" in done.stdout


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: pip install atheris")
def test_the_parser_under_atheris(tmp_path: Path, subprocess_environment: dict[str, str]) -> None:
    command = [sys.executable, str(HERE / "parser.py"), str(tmp_path / "corpus"), "-runs=300", "-max_total_time=10", "-rss_limit_mb=1024"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=subprocess_environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.search(r"Done \d+ (runs|in)", done.stderr), done.stderr[-3000:]
