"""In place of sounddevice: a microphone that hears an array, a speaker that keeps what it plays."""

from __future__ import annotations

from types import ModuleType, TracebackType
from typing import Any

import numpy as np


class PortAudioError(Exception):
    pass


class FakeSoundDevice(ModuleType):
    PortAudioError = PortAudioError

    def __init__(self, sound: np.ndarray) -> None:
        super().__init__("sounddevice")
        self.sound, self.played = sound, []  # type: ignore[var-annotated]
        self.rates = [16000, 48000]
        self.opened: list[tuple[str, int, Any, str, int]] = []
        self.closed = self.stopped = 0
        self.unplugged = False
        self.InputStream = lambda **options: Stream(self, "input", **options)
        self.OutputStream = lambda **options: Stream(self, "output", **options)

    def query_devices(self, device: Any, kind: str) -> dict[str, Any]:
        if not self.rates:
            raise ValueError(f"No {kind} device matching {device!r}")
        return {"default_samplerate": float(self.rates[-1])}


class Stream:
    def __init__(self, system: FakeSoundDevice, kind: str, samplerate: int, channels: int, dtype: str, device: Any, latency: str) -> None:
        if samplerate not in system.rates:
            raise PortAudioError("Invalid sample rate")
        system.opened.append((kind, samplerate, device, dtype, channels))
        self.system, self.at = system, 0

    def start(self) -> None:
        pass

    def stop(self) -> None:
        self.system.stopped += 1

    def close(self) -> None:
        self.system.closed += 1

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def read(self, frames: int) -> tuple[np.ndarray, bool]:
        """The sound, once; then the user presses Ctrl+C."""
        if self.system.unplugged:
            raise PortAudioError("unplugged")
        block = self.system.sound[self.at : self.at + frames]
        if len(block) < frames:
            raise KeyboardInterrupt
        self.at += frames
        return block[:, None].copy(), False

    def write(self, samples: np.ndarray) -> bool:
        if self.system.unplugged:
            raise PortAudioError("unplugged")
        assert samples.dtype == np.float32 and samples.ndim == 2 and samples.shape[1] == 1
        self.system.played.append(samples[:, 0].copy())
        return False
