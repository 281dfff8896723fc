"""Configuration of a SpecTokenizer folder for transformers. The same config.json serves `spectokenizer.load`."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class SpectokConfig(PretrainedConfig):
    """`codec` is the network's geometry, `about` where its weights come from.

    With `exact`, each clip of a batch is computed by itself, so that its codes do not depend on the batch; without, all at once, which
    is faster on a GPU and may round differently where two codes are equally good.
    """

    model_type = "spectokenizer"

    def __init__(
        self,
        codec: dict[str, Any] | None = None,
        about: dict[str, Any] | None = None,
        sampling_rate: int = 16000,
        frame_size: int = 320,
        num_quantizers: int = 12,
        codebook_size: int = 1024,
        exact: bool = True,
        **kwargs: Any,
    ):
        self.codec, self.about, self.exact = codec or {}, about or {}, exact
        self.sampling_rate, self.frame_size = sampling_rate, frame_size
        self.num_quantizers, self.codebook_size = num_quantizers, codebook_size
        super().__init__(**kwargs)

    @property
    def frame_rate(self) -> float:
        """Frames of codes per second."""
        return self.sampling_rate / self.frame_size
