"""SpecTokenizer: samples → codes → samples. Reading order is signal order.

    audio → STFT → |·|^½ → Encoder → z → Q → codes → z_q → Decoder → Scatter → |·|² → iSTFT → audio

States are dicts of named tensors [B, ...], passed in and returned; nothing is remembered inside the modules.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..config import CodecConfig
from .layers import ACTIVATIONS, NORMS, RNN2D, ComplexConv, Down, FLNorm, RealStem, Stem, Up
from .quantizer import quantizer
from .spectrum import Analysis, Scatter, Synthesis

State = dict[str, Tensor]


class Chain(nn.ModuleDict):
    """Layers in a row, each (x, state) → (y, state); the row's state is the dict of theirs."""

    def initial_state(self, batch: int) -> State:
        return {name: layer.initial_state(batch) for name, layer in self.items()}  # type: ignore[operator]

    def forward(self, x: Tensor, state: State, before_istft: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, State]:
        new = {}
        for name, layer in self.items():
            if before_istft and name == "istft":
                x = before_istft(x)
            x, new[name] = layer(x, state[name])
        return x, new


def encoder(config: CodecConfig) -> Chain:
    """Audio [B, N] to latents [T, B, 1, D]; N is a multiple of `frame_size`."""
    c, bands, taps = config.channels, config.bands, config.kernel_time
    norm, activation = NORMS[config.norm], ACTIVATIONS[config.activation]
    stem = Stem if config.complex_stem else RealStem
    chain = Chain({"stft": Analysis(config)})
    for i, stride in enumerate(config.strides):
        if i == 0:
            chain["down0"] = stem(c[0], c[1], bands[1], taps, stride[1], activation)
        else:
            chain[f"down{i}"] = Down(c[i], c[i + 1], bands[i + 1], taps, stride, activation)
        if i in config.recurrent_levels:
            chain[f"rnn{i}"] = RNN2D(c[i + 1], bands[i + 1], norm, activation)
    return chain


def decoder(config: CodecConfig) -> Chain:
    """Latents [T, B, 1, D] to audio [B, T·frame_size], `delay_samples` late: the encoder's mirror."""
    c, bands, taps = config.channels, config.bands, config.kernel_time
    norm, activation = NORMS[config.norm], ACTIVATIONS[config.activation]
    chain = Chain()
    for i, stride in reversed(list(enumerate(config.strides))):
        if i in config.recurrent_levels:
            chain[f"rnn{i}"] = RNN2D(c[i + 1], bands[i + 1], norm, activation)
        chain[f"up{i}"] = Up(c[i + 1], c[i], bands[i + 1], taps, stride, activation)
    chain["conv"] = ComplexConv(c[0], bands[0])
    chain["istft"] = Synthesis(config)
    return chain


class SpecTokenizer(nn.Module):
    """The whole codec; `config` says its size."""

    def __init__(self, config: CodecConfig):
        super().__init__()
        self.config = config
        self.encoder = encoder(config)
        self.quantizer = quantizer(config)
        self.norm = FLNorm()
        self.decoder = decoder(config)
        self.scatter = Scatter(config)

    def freeze_encoder(self, frozen: bool = True) -> None:
        """Keep encoder and quantiser, and so every code, as they are while the decoder goes on learning."""
        self.encoder.requires_grad_(not frozen)
        self.encoder.train(self.training and not frozen)  # BatchNorm's statistics would move
        self.quantizer.requires_grad_(not frozen)

    def latents(self, audio: Tensor, state: State) -> tuple[Tensor, State]:
        """Audio [B, T·frame_size] to what is quantised, [T, B, 1, D]: the encoder's output, each frame normalised (eq. 3, 4).

        Nothing else holds the latents' scale: without it they grew a hundredfold in 2 000 steps and outran the codebooks.
        """
        z, state = self.encoder(audio, state)
        return self.norm(z), state

    def synthesize(self, z_q: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Quantised latents [T, B, 1, D] to audio [B, T·frame_size], `delay_samples` late."""
        return self.decoder(z_q, state or self.decoder.initial_state(z_q.shape[1]), lambda s_c: self.scatter(s_c, z_q))

    def encode(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Audio [B, T·frame_size] to codes [B, K, T]."""
        z, state = self.latents(audio, state or self.encoder.initial_state(len(audio)))
        codes = self.quantizer(z.flatten(0, 2)).codes  # [T·B, K]
        return codes.unflatten(0, z.shape[:2]).permute(1, 2, 0), state

    def decode(self, codes: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Codes [B, K, T] to audio [B, T·frame_size], `delay_samples` late."""
        z_q = self.quantizer.decode(codes.permute(2, 0, 1).flatten(0, 1))
        z_q = z_q.unflatten(0, (codes.shape[2], codes.shape[0])).unsqueeze(2)  # [T, B, 1, D]
        return self.synthesize(z_q, state)

    def forward(self, audio: Tensor, active: Tensor | None = None, quantize: bool = True, update: bool = False, lost: Tensor | None = None):
        """Training pass: audio [B, T·frame_size] to (output aligned with it, z, Quantized or None).

        `active` [B] is the number of codebooks of each clip; frames that `lost` [T, B] marks reach the decoder as zeros, which is
        what a frame without any code decodes to. The output is `delay_samples` shorter than the input.
        """
        z, _ = self.latents(audio, self.encoder.initial_state(len(audio)))  # [T, B, 1, D]
        quantized = None
        z_q = z
        if quantize:
            per_frame = None if active is None else active.repeat(z.shape[0])
            quantized = self.quantizer(z.flatten(0, 2), per_frame, update)
            z_q = quantized.z_q.view_as(z)
        if lost is not None:
            z_q = z_q * ~lost[..., None, None]
        output, _ = self.synthesize(z_q)
        return output[:, self.config.delay_samples :], z, quantized


def parameters(module: nn.Module) -> int:
    """Trained parameters; the codebooks are buffers and not counted, as in the paper."""
    return sum(p.numel() for p in module.parameters())


def build(config: CodecConfig, seed: int = 0) -> SpecTokenizer:
    """A fresh model; the seed fixes its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SpecTokenizer(config)
