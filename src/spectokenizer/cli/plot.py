"""Pictures, with matplotlib when it is there."""

from __future__ import annotations

import numpy as np

from ..errors import ConfigError, ModelError
from ..runtime import audio


def spectrograms(original: str, decoded: str, path: str, rate: int, label: str, seconds: float = 20.0) -> None:
    """Original above decoded, the first `seconds`, as a picture.

    Raises ModelError without matplotlib, ConfigError for a kind of picture that matplotlib does not know.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModelError("a picture needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, (title, name) in zip(figure.subplots(2, 1, sharex=True), {"original": original, label: decoded}.items(), strict=True):
        samples = audio.read(name, rate)[0][: int(seconds * rate)]
        if len(samples) < 512:
            samples = np.pad(samples, (0, 512 - len(samples)))
        frames = np.lib.stride_tricks.sliding_window_view(samples, 512)[::128] * np.hanning(512)
        level = 20 * np.log10(np.abs(np.fft.rfft(frames)).T / 128 + 1e-5)
        picture = axes.imshow(
            level, origin="lower", aspect="auto", vmin=-90, vmax=-10, cmap="magma", extent=(0, len(samples) / rate, 0, rate / 2000)
        )
        axes.set(title=title, ylabel="kHz")
    axes.set_xlabel("s")
    figure.colorbar(picture, ax=figure.axes, label="dB of full scale")
    try:
        figure.savefig(path, dpi=110)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error
