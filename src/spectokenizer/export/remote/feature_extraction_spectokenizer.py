"""Audio for SpectokModel: clips of any lengths to one padded batch and its mask."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor


class SpectokFeatureExtractor(SequenceFeatureExtractor):
    model_input_names = ["input_values", "padding_mask"]  # noqa: RUF012  the library's own form

    def __init__(self, feature_size: int = 1, sampling_rate: int = 16000, padding_value: float = 0.0, **kwargs: Any):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)

    def __call__(self, raw_audio: Any, sampling_rate: int | None = None, return_tensors: str | None = None, **_: Any) -> BatchFeature:
        """Mono samples [N] in −1…1, or a list of such, to input_values [B, 1, N] and padding_mask [B, N] (1 where audio is).

        Raises ValueError for another sampling rate, which must be converted first, and for audio that is not mono.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(f"audio at {sampling_rate} Hz; this model is for {self.sampling_rate} Hz: resample it first")
        one = not isinstance(raw_audio, (list, tuple)) or not len(raw_audio) or np.ndim(raw_audio[0]) == 0
        clips = [np.asarray(clip, np.float32) for clip in ([raw_audio] if one else raw_audio)]
        wrong = [clip.shape for clip in clips if clip.ndim != 1]
        if wrong:
            raise ValueError(f"audio of shape {list(wrong[0])}; give mono clips [samples], or a list of them")
        longest = max(map(len, clips), default=0)
        values = np.full((len(clips), 1, longest), self.padding_value, np.float32)
        mask = np.zeros((len(clips), longest), np.int64)
        for i, clip in enumerate(clips):
            values[i, 0, : len(clip)] = clip
            mask[i, : len(clip)] = 1
        return BatchFeature({"input_values": values, "padding_mask": mask}, tensor_type=return_tensors)
