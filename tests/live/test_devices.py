"""Microphone and speaker, with a module in place of sounddevice: no test machine has either."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import numpy as np
import pytest
from tests.live.fake_sounddevice import FakeSoundDevice

from spectokenizer import AudioError
from spectokenizer.live.devices import Speaker, library, microphone


@pytest.fixture
def sounddevice(monkeypatch: pytest.MonkeyPatch, speech: np.ndarray) -> FakeSoundDevice:
    fake = FakeSoundDevice(speech)
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    return fake


def test_what_the_microphone_hears(sounddevice: FakeSoundDevice, speech: np.ndarray) -> None:
    source = microphone(16000, 320, device=3)
    heard = np.concatenate([next(source) for _ in range(5)])
    source.close()
    assert heard.dtype == np.float32
    np.testing.assert_array_equal(heard, speech[: 5 * 320])
    assert sounddevice.opened == [("input", 16000, 3, "float32", 1)] and sounddevice.closed == 1


def test_what_the_speaker_plays(sounddevice: FakeSoundDevice, speech: np.ndarray) -> None:
    with Speaker(16000) as speaker:
        for start in range(0, 3200, 320):
            speaker.write(speech[start : start + 320])
    np.testing.assert_array_equal(np.concatenate(sounddevice.played), speech[:3200])
    assert sounddevice.stopped == sounddevice.closed == 1


def test_devices_of_another_rate_are_resampled(sounddevice: FakeSoundDevice, speech: np.ndarray) -> None:
    sounddevice.rates = [48000]
    source = microphone(16000, 320)
    heard = sum(len(next(source)) for _ in range(40))
    assert 40 * 320 - heard in range(700)  # the resampler holds some back
    with Speaker(16000) as speaker:
        speaker.write(speech[:16000])
    assert 48000 - sum(map(len, sounddevice.played)) in range(2000)
    assert [rate for _, rate, *_ in sounddevice.opened] == [48000, 48000]


def test_no_device(sounddevice: FakeSoundDevice) -> None:
    sounddevice.rates = []
    with pytest.raises(AudioError, match=r"no audio input on the default device .*python -m sounddevice"):
        microphone(16000, 320)
    with pytest.raises(AudioError, match="no audio output on device 'x'"):
        Speaker(16000, "x")


def test_a_device_that_goes_away(sounddevice: FakeSoundDevice) -> None:
    source = microphone(16000, 320)
    next(source)
    sounddevice.unplugged = True
    with pytest.raises(AudioError, match="the microphone stopped: unplugged"):
        next(source)
    with pytest.raises(AudioError, match="the speaker stopped: unplugged"), Speaker(16000) as speaker:
        speaker.write(np.zeros(320, np.float32))
    assert sounddevice.closed == 2


@pytest.mark.parametrize(
    ("failure", "remedy"),
    [(ImportError("no"), r'pip install "spectokenizer\[live\]"'), (OSError("PortAudio library not found"), "apt install libportaudio2")],
)
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, failure: Exception, remedy: str) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "sounddevice":
            raise failure
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AudioError, match=remedy):
        library()
