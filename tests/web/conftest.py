"""What the tests of the page need: Node.js, the npm packages of web/, Chromium. Whatever is missing skips its tests, saying so."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WEB = ROOT / "web"
ORT = WEB / "node_modules" / "onnxruntime-web" / "dist"
PRELUDE = f"""
import {{ readFileSync }} from "node:fs";
import * as spectok from {json.dumps((WEB / "src/index.js").as_uri())};
const given = JSON.parse(readFileSync(0, "utf8"));
const bytes = (hex) => Uint8Array.from(Buffer.from(hex, "hex"));
const hex = (data) => Buffer.from(data).toString("hex");
const floats = (path) => new Float32Array(new Uint8Array(readFileSync(path)).buffer);
async function codec() {{
  const ort = await import({json.dumps((ORT / "ort.wasm.bundle.min.mjs").as_uri())});
  ort.env.wasm.wasmBinary = readFileSync({json.dumps(str(ORT / "ort-wasm-simd-threaded.wasm"))});
  return spectok.load(async (name) => new Uint8Array(readFileSync(given.model + "/" + name)), {{ ort }});
}}
const answer = (value) => process.stdout.write(JSON.stringify(value));
"""


@pytest.fixture(scope="session")
def node() -> str:
    found = shutil.which("node")
    if found is None:
        pytest.skip("no node here; install Node.js 20 or newer")
    return found


@pytest.fixture(scope="session")
def packages() -> Path:
    if not (ORT / "ort-wasm-simd-threaded.wasm").is_file():
        pytest.skip("onnxruntime-web is not there; run 'npm ci' in web/")
    return WEB / "node_modules"


@pytest.fixture(scope="session")
def javascript(node: str) -> Callable[..., Any]:
    """Run JavaScript with our library: javascript("answer(given.x + 1)", x=1) == 2."""

    def run(script: str, **given: Any) -> Any:
        done = subprocess.run(
            [node, "--input-type=module", "--eval", PRELUDE + script], input=json.dumps(given), capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def page(node: str, packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page, built."""
    out = tmp_path_factory.mktemp("page")
    done = subprocess.run([node, WEB / "build.mjs", "--out", out], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], tuple[str, ThreadingHTTPServer]]]:
    """A plain static server of a folder, as any host is: no headers of ours."""
    from http.server import SimpleHTTPRequestHandler

    class Handler(SimpleHTTPRequestHandler):
        extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript", ".mjs": "text/javascript"}  # noqa: RUF012

        def log_message(self, format: str, *args: Any) -> None:
            pass

    servers: list[ThreadingHTTPServer] = []

    def start(folder: Path) -> tuple[str, ThreadingHTTPServer]:
        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/", server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
