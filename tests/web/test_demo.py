"""`spectok demo`: what it needs is named when it is missing, what it serves is the page and forbids it other hosts."""

from __future__ import annotations

import os
import shutil
import threading
import urllib.error
import urllib.request
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from spectokenizer import Codec
from spectokenizer.cli import demo
from spectokenizer.errors import ModelError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "cache"))
    monkeypatch.setattr("sys.platform", "linux")
    return tmp_path / "cache"


def test_a_folder_for_any_static_host(codec: Codec, cache: Path, node: str, packages: Path, tmp_path: Path) -> None:
    """With the packages at hand nothing is fetched; the model is the one that was asked for, and the folder is complete."""
    lock = (demo.SOURCES[1] / "package-lock.json").read_bytes()
    work = demo.cache_folder() / "web" / f"build-{demo.hashlib.sha256(lock).hexdigest()[:12]}"
    ort = work / "node_modules" / "onnxruntime-web" / "dist"
    ort.mkdir(parents=True)
    for name in demo.USED:
        shutil.copyfile(packages / "onnxruntime-web" / "dist" / name, ort / name)
    (work / "installed").touch()
    arguments = ["--out", str(tmp_path / "page"), "--model", str(codec.network.folder)]
    done = CliRunner().invoke(demo.demo, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    page = tmp_path / "page"
    assert (page / "model" / "weights.bin").read_bytes() == (codec.network.folder / "weights.bin").read_bytes()
    assert {"index.html", "sw.js", "files.json", "example.flac"} <= set(os.listdir(page))
    assert (page / "ort" / "ort.wasm.gz").read_bytes()[:2] == b"\x1f\x8b"
    again = CliRunner().invoke(demo.demo, arguments, catch_exceptions=False)  # over itself is fine
    assert again.exit_code == 0, again.output


def test_other_files_are_not_overwritten(codec: Codec, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = CliRunner().invoke(demo.demo, ["--out", str(tmp_path), "--model", str(codec.network.folder)])
    assert done.exit_code == 1 and "holds other files" in done.output
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_what_is_missing_is_named(codec: Codec, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match=r"Node.js 20 or newer"):
        demo.build(codec.network.folder, tmp_path / "page")
    monkeypatch.setattr(demo, "SOURCES", (tmp_path,))
    with pytest.raises(ModelError, match="install from a wheel or a checkout"):
        demo.build(codec.network.folder, tmp_path / "page")


def test_a_failing_tool_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such thing"):
        demo.run(["/bin/sh", "-c", "echo no such thing >&2; exit 3"], tmp_path)


def test_the_server_forbids_other_hosts(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(demo.Handler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/a.js") as response:
            assert response.headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert response.headers["Content-Type"] == "text/javascript"
        for host, allowed in (("localhost:1", True), ("[::1]", True), ("attacker.example:8421", False), ("", False)):
            request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}/a.js", headers={"Host": host})
            try:
                with urllib.request.urlopen(request) as response:
                    assert allowed and response.status == 200
            except urllib.error.HTTPError as refused:
                assert not allowed and refused.code == 403
    finally:
        server.shutdown()
        server.server_close()


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), demo.Handler) as taken, pytest.raises(demo.click.ClickException, match="--port"):
        demo.serve(tmp_path, taken.server_port, show=False)
