"""What a decoder plays while frames are missing: the network's own extrapolation, faded to the background noise of the call.

The network does the first part: it was trained with frames that never came, as zeros in place of their latents, and its
recurrent layers go on from what they remember. After 100 ms that is guesswork, so it fades out, and noise with the spectrum
of the quietest moments heard so far fades in: silence would sound like a broken line. When frames come again the
gain returns within one frame.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .audio import Audio

TRUSTED_SECONDS = 0.1  # how long the extrapolation is played at full level
FADE_SECONDS = 0.1  # until only comfort noise is left
RISE = 1.005  # per frame: how fast the estimate of the background follows when the quietest moments get louder (1 dB/s)
NEAR = 2.0  # frames up to this much more energy than the background count as background


class Concealment:
    """Gain and background of one stream; every field is a plain number or array, so that a stream's state can be carried elsewhere."""

    fields = ("lost", "gain", "background", "spectrum")

    def __init__(self, frame_size: int, frame_rate: float):
        self.frame_size, self.frame_rate = frame_size, frame_rate
        self.lost = 0  # frames in a row until now
        self.gain = 1.0  # of the network's output at the end of the last frame
        self.background = 0.0  # energy of a quiet frame; 0 while nothing was heard
        self.spectrum: npt.NDArray[np.float64] = np.zeros(frame_size // 2 + 1)  # its power per bin, in units of white noise

    def __call__(self, samples: Audio, lost: npt.NDArray[np.bool_], first_frame: int) -> Audio:
        """The network's output [t·frame_size] as it is to be heard; `lost` [t] marks frames that never came."""
        frames = samples.reshape(len(lost), self.frame_size)
        if self.gain == 1.0 and self.lost == 0 and not lost.any():  # nearly always
            self._listen(frames)
            return samples
        return np.concatenate([self._frame(frame, bool(lost[i]), first_frame + i) for i, frame in enumerate(frames)])

    def _frame(self, samples: Audio, lost: bool, number: int) -> Audio:
        self.lost = self.lost + 1 if lost else 0
        if not lost:
            self._listen(samples[None])
        beyond = self.lost / self.frame_rate - TRUSTED_SECONDS
        before, self.gain = self.gain, min(1.0, max(0.0, 1.0 - beyond / FADE_SECONDS))
        if before == self.gain == 1.0:
            return samples
        ramp = np.linspace(before, self.gain, self.frame_size + 1)[1:]
        return (ramp * samples + np.sqrt(1 - ramp**2) * self._noise(number)).astype(np.float32)

    def _listen(self, frames: Audio) -> None:
        """Follow the background: at once when it gets quieter, slowly when it gets louder."""
        for frame in frames:
            energy = float(np.dot(frame, frame))
            if energy > NEAR * self.background > 0:
                self.background *= RISE
                continue
            power = np.abs(np.fft.rfft(frame)) ** 2 / self.frame_size
            weight = 0.1 if self.background and energy > self.background / NEAR else 1.0
            self.spectrum = self.spectrum + weight * (power - self.spectrum)
            self.background += weight * (max(energy, 1e-12) - self.background)

    def _noise(self, number: int) -> npt.NDArray[np.float64]:
        """A frame of noise like the background, the same for the same frame number."""
        white = np.random.default_rng(number).standard_normal(self.frame_size)
        return np.fft.irfft(np.fft.rfft(white) * np.sqrt(self.spectrum), self.frame_size)
