"""SpecTokenizer for transformers: the package's own torch modules, which lie beside this file, behind encode and decode.

(No class here is called …Tokenizer: transformers' `save_pretrained` takes such for tokenizers of text.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from .config import CodecConfig
from .configuration_spectokenizer import SpectokConfig
from .kernels import gru as _gru  # noqa: F401  named here so that transformers takes the file along
from .spectokenizer import SpecTokenizer
from .spectrum import Analysis, Scatter, Synthesis


@dataclass
class SpectokEncoderOutput(ModelOutput):
    """audio_codes [B, K, T]; where a clip has ended they hold `codebook_size`, and audio_codes_mask [B, T] is 0."""

    audio_codes: torch.LongTensor | None = None
    audio_codes_mask: torch.LongTensor | None = None


@dataclass
class SpectokDecoderOutput(ModelOutput):
    """audio_values [B, 1, N]."""

    audio_values: torch.FloatTensor | None = None


@dataclass
class SpectokOutput(ModelOutput):
    audio_codes: torch.LongTensor | None = None
    audio_values: torch.FloatTensor | None = None


class SpectokModel(PreTrainedModel):
    config_class = SpectokConfig
    base_model_prefix = "spectokenizer"
    main_input_name = "input_values"
    _keys_to_ignore_on_load_missing = [r"quantizer\.(.*\.)?(counts|sums)"]  # noqa: RUF012  of training alone

    def __init__(self, config: SpectokConfig):
        super().__init__(config)
        self.geometry = CodecConfig.from_dict(dict(config.codec))
        self.codec = SpecTokenizer(self.geometry)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """DFT and made-up phases are not among the weights; they are made again where the model was built without memory."""
        if isinstance(module, (Analysis, Scatter, Synthesis)):
            with torch.device("cpu"), torch.no_grad():
                for name, made in type(module)(self.geometry).named_buffers(recurse=False):
                    getattr(module, name).copy_(made)

    def encode(
        self, input_values: Tensor, padding_mask: Tensor | None = None, num_quantizers: int | None = None, return_dict: bool | None = None
    ) -> SpectokEncoderOutput | tuple[Tensor, Tensor]:
        """Audio [B, 1, N] (or [B, N]) at `sampling_rate` to codes [B, K, T]; `padding_mask` [B, N] (or [B, 1, N]) is 1 where audio is,
        which must be at the beginning. `num_quantizers` is K: the first ones, 0.5 kbit/s each in the published sizes.
        """
        k = self.config.num_quantizers if num_quantizers is None else num_quantizers
        if not 1 <= k <= self.config.num_quantizers:
            raise ValueError(f"{k} quantizers; this model has 1 to {self.config.num_quantizers}")
        audio = self._mono(input_values)
        lengths = [audio.shape[1]] * len(audio) if padding_mask is None else padding_mask.reshape(len(audio), -1).sum(1).tolist()
        size, delay = self.geometry.frame_size, self.geometry.delay_samples
        frames = [-(-(length + delay) // size) if length else 0 for length in lengths]
        codes = audio.new_full((len(audio), k, max(frames, default=0)), self.config.codebook_size, dtype=torch.long)
        for rows in self._groups(len(audio)):
            count = max(frames[i] for i in rows)
            if count:
                part = audio.new_zeros(len(rows), count * size)
                for row, i in zip(part, rows, strict=True):
                    row[: lengths[i]] = audio[i, : lengths[i]]
                codes[rows, :, :count] = self.codec.encode(part)[0][:, :k]
        mask = torch.arange(codes.shape[2], device=codes.device) < torch.tensor(frames, device=codes.device)[:, None]
        codes.masked_fill_(~mask[:, None], self.config.codebook_size)
        if return_dict is False:
            return codes, mask.long()
        return SpectokEncoderOutput(audio_codes=codes, audio_codes_mask=mask.long())

    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, return_dict: bool | None = None
    ) -> SpectokDecoderOutput | tuple[Tensor]:
        """Codes [B, K, T] to audio [B, 1, N], aligned with what was encoded. With its `padding_mask`, N is the mask's and what lies
        beyond a clip's end is 0."""
        delay = self.geometry.delay_samples
        batch, _, count = audio_codes.shape
        audio = torch.zeros(batch, 1, max(0, count * self.geometry.frame_size - delay), device=audio_codes.device, dtype=self.dtype)
        for rows in self._groups(batch):
            present = (audio_codes[rows, 0] != self.config.codebook_size).any(0).nonzero()  # after its last code a clip is over
            if len(present):
                part = self.codec.decode(audio_codes[rows, :, : int(present[-1]) + 1])[0][:, delay:]
                audio[rows, 0, : part.shape[1]] = part
        if padding_mask is not None:
            mask = padding_mask.reshape(batch, 1, -1)
            audio = nn.functional.pad(audio, (0, max(0, mask.shape[2] - audio.shape[2])))[..., : mask.shape[2]] * mask
        return (audio,) if return_dict is False else SpectokDecoderOutput(audio_values=audio)

    def forward(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        audio_codes: Tensor | None = None,
        num_quantizers: int | None = None,
        return_dict: bool | None = None,
    ) -> SpectokOutput | tuple[Tensor, Tensor]:
        """Through the codec and back."""
        if audio_codes is None:
            audio_codes = self.encode(input_values, padding_mask, num_quantizers, return_dict=False)[0]
        mask = padding_mask if padding_mask is not None else torch.ones_like(self._mono(input_values), dtype=torch.long)
        audio = self.decode(audio_codes, mask, return_dict=False)[0]
        return (audio_codes, audio) if return_dict is False else SpectokOutput(audio_codes=audio_codes, audio_values=audio)

    def _groups(self, batch: int) -> list[list[int]]:
        """Which rows are computed together: see the configuration's `exact`."""
        return [[i] for i in range(batch)] if self.config.exact else [list(range(batch))] * (batch > 0)

    @staticmethod
    def _mono(input_values: Tensor) -> Tensor:
        if input_values.ndim == 3 and input_values.shape[1] == 1:
            return input_values[:, 0]
        if input_values.ndim != 2:
            raise ValueError(f"input_values have shape {list(input_values.shape)}; give [batch, 1, samples]")
        return input_values
