"""Spectrograms, with matplotlib when it is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from .errors import ModelError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .runtime.audio import Audio

WINDOW, HOP = 512, 128


def spectrograms(shown: Mapping[str, Audio], sample_rate: int) -> Figure:
    """Signals [N] by their titles, one above the other, from -90 to -10 dB of full scale. Raises ModelError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ModelError("a picture needs matplotlib: pip install matplotlib") from error
    figure = Figure(figsize=(10, 3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, samples) in zip(figure.subplots(len(shown), 1, sharex=True, squeeze=False)[:, 0], shown.items(), strict=True):
        padded = np.pad(samples, (0, max(0, WINDOW - len(samples))))
        frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hanning(WINDOW)
        level = 20 * np.log10(np.abs(np.fft.rfft(frames)).T / (WINDOW / 4) + 1e-5)
        extent = (0, len(padded) / sample_rate, 0, sample_rate / 2000)
        picture = axes.imshow(level, origin="lower", aspect="auto", vmin=-90, vmax=-10, cmap="magma", extent=extent)
        axes.set(title=title, ylabel="kHz")
    axes.set_xlabel("s")
    figure.colorbar(picture, ax=figure.axes, label="dB of full scale")
    return figure
