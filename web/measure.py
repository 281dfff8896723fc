"""What the page costs, in Chromium: bytes, time to the first sound, milliseconds per frame. Needs Playwright, Chromium and a built page.

npm ci && npm run build && python measure.py dist [--pictures FOLDER]
"""

from __future__ import annotations

import argparse
import functools
import gzip
import shutil
import threading
import time
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


WATCH = """
document.addEventListener("click", () => (window.clicked = performance.now()), true);
document.addEventListener("spectok:block", () => (window.heard ??= performance.now()));
"""


def wait(what: Callable[[], Any]) -> None:
    while not what():
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--seconds", type=float, default=30, help="of playing")
    parser.add_argument("--pictures", type=Path, help="folder for screenshots")
    options = parser.parse_args()

    files = [file for file in options.page.rglob("*") if file.is_file() and file.name not in {"files.json"}]
    raw = sum(file.stat().st_size for file in files)
    packed = sum(min(file.stat().st_size, len(gzip.compress(file.read_bytes()))) for file in files)
    print(
        f"download: {raw / 1e6:.2f} MB as it is, {packed / 1e6:.2f} MB from a server that compresses, {len(files)} files, example included"
    )

    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(options.page)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found = next(path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        )
        page = browser.new_page(viewport={"width": 1180, "height": 940}, color_scheme="dark")
        page.add_init_script(WATCH)
        start = time.monotonic()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_selector("html[data-ready=true]", timeout=120000)
        print(f"ready to record: {time.monotonic() - start:.2f} s after the address was entered, server on the same machine")
        page.click("#example")
        wait(lambda: page.evaluate("window.heard > 0"))
        print(f"first sound: {page.evaluate('window.heard - window.clicked') / 1000:.2f} s after the click on the example")
        page.wait_for_timeout(1000 * options.seconds)
        print(f"the example, encoded at once, decoded while it plays: {cost(page)}")
        page.click("#record")
        page.wait_for_timeout(1000 * options.seconds)
        print(f"recording, both live: {cost(page)}")
        page.click("#record")
        if options.pictures:
            pictures(browser, page, options.pictures)
        browser.close()


def cost(page: Any) -> str:
    per_frame, more, share = (page.inner_text(f"#fact-{name}") for name in ("ms", "ms-more", "core"))
    return f"{per_frame} per frame of 20 ms ({more}), {share} of one core"


def pictures(browser: Any, page: Any, folder: Path) -> None:
    """The page at work: wide and dark, and on a phone in the light scheme."""
    page.click("#example")
    wait(lambda: float(page.input_value("#position")) > 6)
    page.fill("#loss", "6")
    wait(lambda: float(page.input_value("#position")) > 8.5)
    page.screenshot(path=folder / "web.png")
    phone = browser.new_page(viewport={"width": 390, "height": 844}, device_scale_factor=2, is_mobile=True, color_scheme="light")
    phone.goto(page.url)
    phone.wait_for_selector("html[data-ready=true]", timeout=120000)
    phone.click("#example")
    phone.wait_for_timeout(6000)
    phone.screenshot(path=folder / "phone.png", full_page=True)


if __name__ == "__main__":
    main()
