"""Names of models on the Hugging Face hub, with a hub made up here: nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spectokenizer import ModelError
from spectokenizer.runtime import hub


@pytest.mark.parametrize("name", ["org/name", "a-b.c/d_e-1.0", "org/name@v1.0", "org/name@refs/pr/1"])
def test_names(name: str) -> None:
    assert hub.is_name(name)


@pytest.mark.parametrize("name", ["mini", "", "/abs/path", "./here", "../up", "a/b/c", "org/", "/name", "org/na me", "C:\\x\\y", "a//b"])
def test_what_is_no_name(name: str) -> None:
    assert not hub.is_name(name)


def test_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append((name, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert hub.download("org/name") == hub.download("org/name@v2") == tmp_path
    assert [(name, revision) for name, revision, _ in asked] == [("org/name", None), ("org/name", "v2")]
    assert not any("safetensors" in pattern or ".py" in pattern for pattern in asked[0][2])  # no foreign code comes along


def test_a_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(*_: Any, **__: Any) -> str:
        raise OSError("no route\nto host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    with pytest.raises(ModelError, match=r"cannot be had .*OSError no route.*check the name and the network") as caught:
        hub.download("org/name")
    assert "\n" not in str(caught.value)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ModelError, match=r'pip install "spectokenizer\[hf\]"'):
        hub.download("org/name")
