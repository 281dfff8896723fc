"""demo: the codec as a page in a browser.

The page's files are in `web/`, beside the package in a wheel and at the top of a checkout. It needs onnxruntime-web, which comes from
npm and is not in the package: 14 MB of WebAssembly. The first time, `npm ci` gets the version that the lock file pins, checksum
included, and `web/build.mjs` puts the page together in a folder of the user's cache. From then on nothing is fetched.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from ..disk import cache_folder
from ..errors import ModelError
from .common import load, model_option, say

PACKAGE = Path(__file__).parents[1]
SOURCES = (PACKAGE / "web", PACKAGE.parents[1] / "web")  # in a wheel, in a checkout
EXAMPLES = (PACKAGE / "web" / "speech.flac", PACKAGE.parents[1] / "examples" / "speech.flac")
USED = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")  # of onnxruntime-web
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".gz": "application/gzip"}
POLICY = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; style-src 'self'; img-src 'self'"


@click.command()
@model_option
@click.option("--port", type=click.IntRange(0, 65535), default=8421, show_default=True, help="On this machine; 0 is any free one.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), help="Write the page into this folder, for any static host, and stop."
)
@click.option("--open/--no-open", "show", default=True, show_default=True, help="Open the browser.")
def demo(model: str, port: int, out: Path | None, show: bool) -> None:
    """The codec in a browser tab: record, listen, compare, drop packets, save.

    Everything runs in the browser; nothing leaves the machine. The first time npm (of Node.js) gets onnxruntime-web, once.
    """
    codec = load(model)
    folder = codec.network.folder
    if out is not None:
        if out.is_dir() and any(out.iterdir()) and not (out / "files.json").is_file():
            raise click.ClickException(f"{out} holds other files; give a new folder")
        build(folder, out)
        say(f"{out}: put it on any static host with https")
        return
    page = cache_folder() / "web" / f"page-{codec.info.model_hash}"  # another demo may be serving another model
    build(folder, page)
    serve(page, port, show)


def build(model: Path, out: Path) -> None:
    """The page with the model in a folder. Raises ModelError without the page's sources or without npm."""
    source = next((folder for folder in SOURCES if (folder / "build.mjs").is_file()), None)
    if source is None:
        raise ModelError(f"the page's files are not in this installation (looked in {SOURCES[0]}); install from a wheel or a checkout")
    node = tool("node")
    work = prepared(source)
    example = next(path for path in EXAMPLES if path.is_file())
    run([node, "build.mjs", "--model", str(model.resolve()), "--example", str(example), "--out", str(out.resolve())], work)


def prepared(source: Path) -> Path:
    """A writable copy of the page's sources in the cache, with what npm installs for it."""
    lock = (source / "package-lock.json").read_bytes()
    work = cache_folder() / "web" / f"build-{hashlib.sha256(lock).hexdigest()[:12]}"
    for name in ("package.json", "package-lock.json", "build.mjs", "index.html", "sw.js", "src", "page"):
        if (source / name).is_dir():
            shutil.rmtree(work / name, ignore_errors=True)
            shutil.copytree(source / name, work / name)
        else:
            work.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, work / name)
    if not (work / "installed").is_file():
        say("getting onnxruntime-web with npm, this once (130 MB of which the page uses 14)")
        run([tool("npm"), "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"], work)
        for file in (work / "node_modules" / "onnxruntime-web" / "dist").iterdir():
            if file.name not in USED:
                file.unlink()
        (work / "installed").touch()
    return work


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise ModelError(f"{name} is not there; the page needs Node.js 20 or newer once, to get onnxruntime-web: https://nodejs.org")
    return found


def run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        output = (done.stderr or done.stdout).strip().splitlines()
        raise ModelError(f"'{Path(command[0]).name} {command[1]}' failed in {folder}: {' / '.join(output[-3:]) or done.returncode}")


class Handler(SimpleHTTPRequestHandler):
    """Files as they are, asked for anew each time, and a policy that forbids the page to speak to any other host."""

    def parse_request(self) -> bool:
        """Only by this machine's own names: a page elsewhere may have its name lead here, and would then read a private model."""
        if not super().parse_request():
            return False
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if name in ("127.0.0.1", "localhost", "::1"):
            return True
        self.send_error(403, "for this machine alone")
        return False

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        """Not as the system's registry has it: browsers run no script of another type."""
        return TYPES.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-cache")
        self.send_header("Content-Security-Policy", POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """No line for every file."""


def serve(page: Path, port: int, show: bool) -> None:
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), partial(Handler, directory=str(page)))
    except OSError as error:
        raise click.ClickException(f"port {port}: {error.strerror}; give another one with --port") from error
    address = f"http://127.0.0.1:{server.server_port}/"
    say(f"{address}   (Ctrl+C ends it)")
    if show:
        click.launch(address)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
