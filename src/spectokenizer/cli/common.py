"""Options and helpers that several commands share."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from ..errors import BitrateError, CorruptedError, FormatError, TruncatedError

if TYPE_CHECKING:
    from ..runtime.codec import Codec

EVERY = 30.0  # seconds between two lines of progress where there is no terminal

model_option = click.option("--model", "-m", default="mini", show_default=True, help="Bundled model or folder of an exported one.")


class Kbps(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """kbit/s on the command line, bit/s inside."""

    name = "kbps"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return round(float(str(value).removesuffix("kbps").removesuffix("k")) * 1000, 6)
        except (ValueError, OverflowError):
            self.fail(f"'{value}' is not a number of kbit/s", param, ctx)


bitrate_option = click.option(
    "--bitrate", "-b", type=Kbps(), show_default="4, or the model's highest", help="kbit/s, in the model's steps (mini: 0.5)."
)


def load(model: str) -> Codec:
    from ..runtime import codec

    return codec.load(model)


def chosen_bitrate(codec: Codec, bitrate: float | None) -> float:
    """What --bitrate says, or else the model's default."""
    if bitrate is None:
        return codec.info.default_bitrate
    try:
        codec.codebooks_for(bitrate)
    except BitrateError as error:
        rates = ", ".join(f"{rate / 1000:g}" for rate in codec.info.bitrates)
        raise click.BadParameter(f"{bitrate / 1000:g} kbit/s; model '{codec.info.name}' has {rates}", param_hint="--bitrate") from error
    return bitrate


def source(path: str) -> str | BinaryIO:
    """The path, or standard input for "-"."""
    return sys.stdin.buffer if path == "-" else path


@contextmanager
def named(path: str) -> Iterator[None]:
    """What is wrong with a .stk gets its name before, and what helps a damaged one behind."""
    try:
        yield
    except FormatError as error:
        if path == "-":  # nothing helps what is gone
            raise type(error)(f"standard input: {error}") from error
        text = str(error) if str(error).startswith(path) else f"{path}: {error}"
        if isinstance(error, TruncatedError):
            text += "; 'spectok repair' gives it an end, 'spectok decode --salvage' keeps what is intact"
        elif isinstance(error, CorruptedError) and "--salvage" not in text:
            text += "; 'spectok decode --salvage' keeps what is intact"
        raise type(error)(text) from error


def sink(path: str, force: bool, *others: str | None) -> str | BinaryIO:
    """The path, or standard output for "-". An existing file is kept unless `force`, and the command's `others` always."""
    if path == "-":
        try:
            return open(sys.stdout.fileno(), "wb", closefd=False)
        except (AttributeError, OSError):  # in tests
            return sys.stdout.buffer
    if any(other and Path(other).resolve() == Path(path).resolve() for other in others):
        raise click.ClickException(f"{path} is named twice; give the output another name")
    if Path(path).exists() and not force and Path(path).is_file():
        raise click.ClickException(f"{path} exists; give --force to replace it")
    return path


@contextmanager
def progress(label: str, patience: float = 2.0) -> Iterator[Callable[[float | None, float], None]]:
    """A bar on standard error that appears only when the work takes longer than `patience` seconds."""
    start, bar = time.monotonic(), None

    def update(share: float | None, seconds: float) -> None:
        nonlocal bar
        if bar is None and time.monotonic() - start > patience and sys.stderr.isatty():
            bar = click.progressbar(length=1000, label=label, file=sys.stderr, item_show_func=lambda item: item)
            bar.__enter__()
        if bar is not None:
            bar.update(round((share or 0) * 1000) - bar.pos, f"{seconds / 60:.1f} min of audio")

    try:
        yield update
    finally:
        if bar is not None:
            bar.render_finish()


def say(text: str) -> None:
    """To standard error: standard output may be carrying data."""
    click.echo(text, err=True)


class Meter:
    """How far it is, on standard error: a bar on a terminal, else a line now and then."""

    def __init__(self, label: str):
        self.label, self.terminal = label, sys.stderr.isatty()
        self._bar = click.progressbar(length=1000, label=label, file=sys.stderr, item_show_func=lambda text: text, show_eta=False)
        self._said, self._at = time.monotonic(), 0

    def __enter__(self) -> Meter:
        if self.terminal:
            self._bar.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            self._bar.render_finish()

    def show(self, share: float, text: str) -> None:
        if self.terminal:
            at = round(1000 * share)
            self._bar.update(at - self._at, text)
            self._at = at
        elif time.monotonic() - self._said > EVERY:
            say(f"{self.label} {share:.1%}" + (f", {text}" if text else ""))
            self._said = time.monotonic()
