"""Microphone and speaker, through sounddevice. The device is the clock: reading and writing wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import numpy as np

from ..errors import AudioError
from ..runtime.audio import Audio, Resampler

Device = int | str | None  # sounddevice's number, a part of the name, or the system's default


def library() -> Any:
    """sounddevice. Raises AudioError when it or the PortAudio library beneath it is missing."""
    try:
        import sounddevice
    except ImportError as error:
        raise AudioError('microphone and speaker need sounddevice: pip install "spectokenizer[live]"') from error
    except OSError as error:
        raise AudioError(f"sounddevice needs the PortAudio library ({error}); install it, e.g. apt install libportaudio2") from error
    return sounddevice


def microphone(rate: int, block: int, device: Device = None) -> Iterator[Audio]:
    """Mono samples at `rate`, about `block` at a time, for ever. Raises AudioError when there is no such device, or it goes away."""
    sounddevice = library()
    stream, native = _open(sounddevice, "input", rate, device)
    resampler, count = Resampler(native, rate), -(-block * native // rate)

    def samples() -> Iterator[Audio]:
        try:
            with stream:
                while True:
                    heard, _ = stream.read(count)
                    yield resampler.push(np.ascontiguousarray(heard[:, 0]))
        except sounddevice.PortAudioError as error:
            raise AudioError(f"the microphone stopped: {error}") from error

    return samples()


class Speaker:
    """Plays mono samples at `rate`; `write` waits while the device has enough. Raises AudioError like `microphone`."""

    def __init__(self, rate: int, device: Device = None):
        self._library = library()
        self._stream, native = _open(self._library, "output", rate, device)
        self._resampler = Resampler(rate, native)

    def __enter__(self) -> Self:
        try:
            self._stream.start()
        except self._library.PortAudioError as error:
            self._stream.close()
            raise AudioError(f"the speaker cannot be started: {error}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._stream.stop()  # waits until all is heard
        except self._library.PortAudioError as error:
            raise AudioError(f"the speaker stopped: {error}") from error
        finally:
            self._stream.close()

    def write(self, samples: Audio) -> None:
        try:
            self._stream.write(self._resampler.push(samples).reshape(-1, 1))
        except self._library.PortAudioError as error:
            raise AudioError(f"the speaker stopped: {error}") from error


def _open(sounddevice: Any, direction: str, rate: int, device: Device) -> tuple[Any, int]:
    """A stream and its rate: `rate` if the device has it, else its own."""
    kind = sounddevice.InputStream if direction == "input" else sounddevice.OutputStream
    options = {"channels": 1, "dtype": "float32", "device": device, "latency": "low"}
    try:
        native = round(sounddevice.query_devices(device, direction)["default_samplerate"])
        try:
            return kind(samplerate=rate, **options), rate
        except sounddevice.PortAudioError:
            return kind(samplerate=native, **options), native
    except (sounddevice.PortAudioError, ValueError) as error:
        which = "the default device" if device is None else f"device '{device}'"
        raise AudioError(f"no audio {direction} on {which} ({error}); 'python -m sounddevice' lists what there is") from error
