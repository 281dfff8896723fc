"""The page in a real browser, from a plain static server: everything that a visitor does, and nothing that leaves the machine."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile

import spectokenizer
from spectokenizer import Codec
from spectokenizer.bitstream import Reader
from spectokenizer.runtime import files

Serve = Callable[[Path], tuple[str, ThreadingHTTPServer]]

WATCH = """
window.blocks = [];
document.addEventListener("spectok:block", ({ detail }) => window.blocks.push({
  ...detail, original: detail.original && [...detail.original], decoded: [...detail.decoded], codes: [...detail.codes],
}));
"""


def wait(what: Callable[[], Any], seconds: float = 40) -> Any:
    """Playwright's own wait_for_function evaluates strings, which the page's policy forbids."""
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.03)
    return value


@pytest.fixture(scope="module")
def speech_wav(speech: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("audio") / "speech.wav"
    soundfile.write(path, speech, 16000, subtype="PCM_16")
    return path


@pytest.fixture(scope="module")
def mini() -> Codec:
    if "mini" not in spectokenizer.bundled():
        pytest.skip("no bundled model")
    return spectokenizer.load("mini")


@pytest.fixture(scope="module")
def chromium(page: Path, speech_wav: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser whose microphone plays a wav at 48 kHz."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install playwright")
    found = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no chromium; apt-get install chromium")
    samples, _ = soundfile.read(speech_wav, dtype="float32")
    microphone = tmp_path_factory.mktemp("microphone") / "microphone.wav"
    soundfile.write(microphone, np.repeat(samples, 3), 48000, subtype="PCM_16")
    arguments = ["--no-sandbox", "--use-fake-device-for-media-stream", f"--use-file-for-fake-audio-capture={microphone}"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


class Tab:
    """One visit: a fresh context, what it asked the network for, what it complained about."""

    def __init__(self, browser: Any, address: str, script: str = "", microphone: bool = True, **options: Any):
        self.context = browser.new_context(permissions=["microphone"] if microphone else [], accept_downloads=True, **options)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.context.on("request", lambda request: self.requests.append(request.url))
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.add_init_script(WATCH + script)
        self.address = address
        self.page.goto(address)

    def ready(self) -> Tab:
        self.page.wait_for_selector("html[data-ready=true]", timeout=60000)
        return self

    def blocks(self, count: int) -> list[dict[str, Any]]:
        """What was played, once it is `count` blocks."""
        wait(lambda: self.page.evaluate("window.blocks.length") >= count)
        return self.page.evaluate("window.blocks")

    def forget(self) -> None:
        self.page.evaluate("window.blocks.length = 0")

    def choose(self, path: Path) -> None:
        self.page.set_input_files("#file", path)

    def drop(self, name: str, data: bytes) -> None:
        """A file let go over the page."""
        self.page.evaluate(
            """([name, data]) => {
              const transfer = new DataTransfer();
              transfer.items.add(new File([Uint8Array.from(data)], name));
              document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
            }""",
            [name, list(data)],
        )

    def saved(self) -> bytes:
        with self.page.expect_download() as download:
            self.page.click("#save")
        return Path(download.value.path()).read_bytes()

    def slide(self, name: str, value: float) -> None:
        self.page.fill(f"#{name}", str(value))

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def check_network(self) -> None:
        own = urlsplit(self.address).netloc
        assert self.requests
        foreign = [url for url in self.requests if urlsplit(url).scheme not in {"blob", "data"} and urlsplit(url).netloc != own]
        assert not foreign, foreign
        assert not self.complaints, self.complaints


@pytest.fixture
def visit(chromium: Any, page: Path, serve: Serve) -> Iterator[Callable[..., Tab]]:
    tabs: list[Tab] = []

    def open_tab(**options: Any) -> Tab:
        tabs.append(Tab(chromium, serve(page)[0], **options))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.context.close()


@pytest.fixture(scope="module")
def shared(chromium: Any, page: Path, serve: Serve) -> Iterator[Tab]:
    """One visit for many tests: loading takes longer than most of them."""
    tab = Tab(chromium, serve(page)[0]).ready()
    yield tab
    tab.check_network()
    tab.context.close()


@pytest.fixture
def tab(shared: Tab) -> Tab:
    """The shared visit, as if it had just begun."""
    if shared.page.get_attribute("html", "data-state") == "playing":
        shared.page.click("#play")
    for name, value in (("bitrate", 8), ("loss", 0)):
        shared.page.evaluate("([name]) => (document.getElementById(name).max = name === 'loss' ? 50 : 12)", [name])
        shared.slide(name, value)
    if shared.page.is_checked("input[value=original]"):
        shared.page.keyboard.press("x")
    if shared.page.get_attribute("#loop", "aria-pressed") == "false":
        shared.page.click("#loop")
    shared.forget()
    shared.complaints.clear()
    return shared


def codes_of(data: bytes, tmp_path: Path) -> tuple[np.ndarray, Reader]:
    path = tmp_path / "saved.stk"
    path.write_bytes(data)
    with path.open("rb") as file:
        reader = Reader(file)
        return np.concatenate([packet.codes for packet in reader], 1), reader


def test_microphone_to_tokens_and_back(tab: Tab, mini: Codec, tmp_path: Path) -> None:
    """What is recorded is resampled, encoded while it comes, and its codes are Python's on the same samples."""
    tab.page.click("#record")
    tab.blocks(40)
    assert tab.text("#record") == "Stop"
    tab.page.click("#loop")
    tab.forget()
    tab.page.click("#record")
    wait(lambda: tab.page.is_enabled("#save"))
    tab.slide("bitrate", 12)
    data = tab.saved()
    found, reader = codes_of(data, tmp_path)
    assert reader.num_samples and reader.num_samples > 40 * 320
    wait(lambda: tab.page.get_attribute("html", "data-state") == "idle", 60)  # played to the end, once
    recorded = {}
    for block in tab.page.evaluate("window.blocks"):
        recorded[block["index"]] = block["original"]
    played = np.concatenate([recorded[index] for index in sorted(recorded)]).astype(np.float32)[: reader.num_samples]
    assert len(played) == reader.num_samples
    assert np.abs(played).max() > 0.05
    wanted = mini.encode(played, 16000, mini.info.bitrates[-1]).array
    assert found.shape == wanted.shape
    assert (found == wanted).mean() > 0.99


def test_a_dropped_file_has_pythons_codes_and_bytes(tab: Tab, mini: Codec, speech_wav: Path, tmp_path: Path) -> None:
    tab.drop("speech.wav", speech_wav.read_bytes())
    tab.blocks(5)
    tab.slide("bitrate", 6)
    wait(lambda: tab.page.is_enabled("#save"))
    data = tab.saved()
    files.encode_file(mini, speech_wav, tmp_path / "python.stk", 3000)
    found, reader = codes_of(data, tmp_path)
    wanted, _ = codes_of((tmp_path / "python.stk").read_bytes(), tmp_path)
    assert reader.num_samples == soundfile.info(speech_wav).frames
    assert (found == wanted).mean() > 0.99
    if np.array_equal(found, wanted):  # an equal file, unless another processor tipped a near-tie
        assert data == (tmp_path / "python.stk").read_bytes()
    files.decode_file(mini, tmp_path / "saved.stk", tmp_path / "decoded.wav")
    assert soundfile.info(tmp_path / "decoded.wav").frames == reader.num_samples


def test_bitrate_changes_while_it_plays(tab: Tab, speech_wav: Path) -> None:
    tab.choose(speech_wav)
    assert {block["used"] for block in tab.blocks(10)} == {8}
    tab.slide("bitrate", 2)
    assert "1 kbit/s" in tab.text("#bitrate-text") and "1 kbit/s · 100 a second" in tab.text("#rate-codes")
    start = len(tab.page.evaluate("window.blocks"))
    blocks = tab.blocks(start + 20)[start + 15 :]
    assert {block["used"] for block in blocks} == {2}
    tab.page.keyboard.press("]")
    assert "1.5 kbit/s" in tab.text("#bitrate-text")


def test_original_and_decoded_at_the_same_position(tab: Tab, mini: Codec, speech_wav: Path) -> None:
    """Each block carries both sounds of the same moment, aligned to the sample, so the switch is only which one is played."""
    tab.choose(speech_wav)
    tab.blocks(3)
    tab.page.keyboard.press("x")
    assert tab.page.is_checked("input[value=original]")
    assert "heard" in str(tab.page.get_attribute("#strip-original", "class"))
    before = len(tab.page.evaluate("window.blocks"))
    blocks = tab.blocks(before + 20)
    assert [b["index"] - a["index"] for a, b in pairwise(blocks)] == [320] * (len(blocks) - 1)  # no jump
    samples, _ = soundfile.read(speech_wav, dtype="float32")
    decoded = mini.decode(mini.encode(samples, 16000, 4000))
    heard = np.concatenate([block["decoded"] for block in blocks])
    np.testing.assert_array_equal(np.concatenate([block["original"] for block in blocks]).astype(np.float32), samples[: len(heard)])
    assert np.abs(heard - decoded[: len(heard)]).max() < 0.02


def test_lost_packets_are_concealed(tab: Tab, speech_wav: Path) -> None:
    tab.slide("loss", 50)
    tab.choose(speech_wav)
    blocks = tab.blocks(60)
    lost = np.mean([block["lost"] for block in blocks])
    assert 0.2 < lost < 0.8
    assert all(np.isfinite(block["decoded"]).all() for block in blocks)
    assert any(block["lost"] and np.abs(block["decoded"]).max() > 1e-3 for block in blocks)  # not silence
    assert tab.text("#fact-lost") != "0.0 %"


def test_a_file_of_the_command_line_plays(tab: Tab, mini: Codec, speech_wav: Path, tmp_path: Path) -> None:
    files.encode_file(mini, speech_wav, tmp_path / "cli.stk", 2000)
    data = (tmp_path / "cli.stk").read_bytes()
    tab.choose(tmp_path / "cli.stk")
    blocks = tab.blocks(20)
    wanted, _ = codes_of(data, tmp_path)
    for number, block in enumerate(blocks[:20]):
        assert block["codes"] == wanted[:, number].tolist() and block["original"] is None
    assert tab.page.is_disabled("input[value=original]")
    assert tab.saved() == data


def test_a_file_of_several_recordings(tab: Tab, mini: Codec, speech_wav: Path, tmp_path: Path) -> None:
    files.encode_file(mini, speech_wav, tmp_path / "a.stk", 2000)
    files.encode_file(mini, speech_wav, tmp_path / "b.stk", 500)
    tab.drop("two.stk", (tmp_path / "a.stk").read_bytes() + (tmp_path / "b.stk").read_bytes())
    tab.blocks(3)
    assert "Recording 1 of 2" in tab.text("#message")
    tab.page.click("#message button")
    wait(lambda: "Recording 2 of 2" in tab.text("#message"))
    wait(lambda: len(tab.blocks(1)[-1]["codes"]) == 1)  # what the first one had under way may still come before
    tab.forget()
    assert {len(block["codes"]) for block in tab.blocks(3)} == {1}


def test_a_damaged_file_is_named_and_rescued(tab: Tab, mini: Codec, speech_wav: Path, tmp_path: Path) -> None:
    files.encode_file(mini, speech_wav, tmp_path / "cli.stk", 2000)
    data = bytearray((tmp_path / "cli.stk").read_bytes())
    data[60] ^= 0x55
    tab.drop("damaged.stk", bytes(data))
    wait(lambda: "checksum" in tab.text("#message"))
    tab.page.click("#message button")
    blocks = tab.blocks(60)
    assert blocks[0]["lost"] and not blocks[55]["lost"]  # the first packet is gone, the second one is heard
    other = bytearray((tmp_path / "cli.stk").read_bytes())
    other[:4] = b"RIFF"
    tab.drop("not.stk", bytes(other))
    wait(lambda: "not a .stk" in tab.text("#message"))
    tab.drop("noise.wav", b"no sound at all")
    wait(lambda: "no sound that the browser can read" in tab.text("#message"))
    assert not tab.complaints


def test_a_browser_without_simd_is_told(visit: Callable[..., Tab]) -> None:
    tab = visit(script="WebAssembly.validate = () => false;")
    wait(lambda: "SIMD" in tab.text("#message"))
    assert tab.page.is_disabled("#record")


def test_it_works_offline_after_the_first_visit(chromium: Any, page: Path, serve: Serve) -> None:
    address, server = serve(page)
    tab = Tab(chromium, address).ready()
    names = json.loads((page / "files.json").read_text())
    kept = "async () => (await (await caches.open('spectokenizer')).keys()).length"
    wait(lambda: tab.page.evaluate(kept) > len(names))
    server.shutdown()
    server.server_close()
    tab.page.reload()
    tab.ready()
    tab.page.click("#example")
    tab.blocks(3)
    tab.context.close()


def test_refused_microphone_keyboard_labels_and_width(visit: Callable[..., Tab]) -> None:
    """Refusal is explained. Every control has a name, the first keys reach the first controls, nothing is wider than a small phone."""
    tab = visit(microphone=False, viewport={"width": 340, "height": 700}).ready()
    names = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input:not([hidden])")].map((e) =>
             (e.ariaLabel || e.textContent || e.labels?.[0]?.textContent || "").trim())"""
    )
    assert names and all(names)
    tab.page.keyboard.press("Tab")
    assert tab.page.evaluate("document.activeElement.id") == "record"
    tab.page.keyboard.press("Enter")
    wait(lambda: "microphone was refused" in tab.text("#message"))
    assert tab.text("#record") == "Record" and tab.page.get_attribute("#message", "role") == "alert"
    wait(lambda: tab.page.is_enabled("#record"))
    tab.page.focus("#record")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Enter")
    tab.blocks(2)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 340
    tab.page.click("#example")  # with a mouse: then the space bar is for playing
    tab.blocks(2)
    tab.page.keyboard.press(" ")
    wait(lambda: tab.page.get_attribute("html", "data-state") == "idle")
