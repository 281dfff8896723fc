"""Torch model → four ONNX graphs that carry everything from samples to codes and back, with explicit named states.

    encoder_step    audio [B, frame_size], states → codes [B, K, 1], states          one frame, GRU cells in a row
    encoder_chunk   audio [B, T·frame_size], states → codes [B, K, T], states        any T, the same cells in a Scan
    decoder_step    codes [B, K, 1], states → audio [B, frame_size], states          codes equal to codebook_size are absent
    decoder_chunk   codes [B, K, T], states → audio [B, T·frame_size], states

The graphs are written layer by layer from the trained weights rather than traced: no example freezes an axis, no trace is
left in the file, and step and chunk graphs do the same arithmetic, in the same order, so that
codes and samples agree bit for bit. Parity with torch is checked at the end of `export`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..config import CodecConfig
from ..errors import ModelError
from ..model.layers import RNN2D, ComplexConv, Down, Stem, Up
from ..model.quantizer import FSQ, PairVQ, Quantizer, ResidualVQ
from ..model.spectokenizer import Chain, SpecTokenizer
from ..model.spectrum import FLOOR, Analysis, Scatter, Synthesis
from ..runtime.network import CONFIG, GRAPHS, WEIGHTS
from .graph import FLOAT, INT64, Graph, Weights
from .parity import Parity, check, to_graph

ABLATIONS = ("compression", "norm", "activation", "recurrence", "complex_stem")
FEW_BANDS = 4  # levels with so few rows a stream run the GRU operator, the others its arithmetic written out


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


class Signal(NamedTuple):
    """An activation in the graph: n frames of B streams, [B, n, bands·channels].

    With `scale` and `offset`, per channel, the layer means scale · value + offset, and value has rows of any width (see `snake`).
    """

    value: str
    bands: int
    channels: int
    scale: np.ndarray | None = None
    offset: np.ndarray | None = None


class Layers:
    """Each method writes one layer of `model` into the graph: (x, state) → (y, new state).

    Inside a layer x may be seen as [B, n, bands, channels]: streams first, so states and audio need no transpose. A product
    takes all rows at once, its bias with it; a row's result depends on no other row.
    """

    def __init__(self, graph: Graph, config: CodecConfig, step: bool):
        self.g, self.config, self.step = graph, config, step
        self.frames: int | None = None  # n of x, when fixed (step graph); levels that stride in time work at different rates
        self.batch = ""  # in the chunk graph the number of streams, [1]

    def write(self, layer: Any, x: Any, state: str) -> tuple[Any, str]:
        return getattr(self, type(layer).__name__.lower())(layer, x, state)

    def shaped(self, x: str, before: Sequence[int], after: Sequence[int], frames: int | None = None) -> str:
        """x as [*before, B, n, *after]; Reshape can find out only one of B and n by itself."""
        g, frames = self.g, frames or self.frames
        if frames is not None:
            return g.reshape(x, [*before, -1, frames, *after])
        ends = [g.constant(list(before))] if before else []
        return g.op("Reshape", x, g.op("Concat", *ends, self.batch, g.constant([-1, *after]), axis=0))

    # -- spectrum ------------------------------------------------------------------------------------------------

    def dft(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Taper [window] and, of sample `hop` ± m, cosines and sines [m = 0 … hop, bins].

        Phases are referred to the window's middle, sample `hop`: sums and differences of samples that mirror each other there meet
        cosines and sines alone, half of the products.
        """
        c = self.config
        taper = np.sin(np.pi * (np.arange(c.window_length) + 0.5) / c.window_length)
        phase = 2 * np.pi * np.outer(np.arange(c.hop_length + 1), np.arange(c.num_bins)) / c.n_fft
        return taper, np.cos(phase), np.sin(phase)

    def analysis(self, layer: Analysis, audio: str, state: str) -> tuple[str, str]:
        """STFT and DRC: [B·n, 2·bins], real parts in the first half of a row, imaginary parts in the second."""
        g, hop = self.g, self.config.hop_length
        if self.frames == 2:
            samples = g.op("Concat", state, g.slice(audio, 0, hop, 1), audio, axis=1)  # the first hop is in both frames
        else:
            hops = g.reshape(g.op("Concat", state, audio, axis=1), [0, -1, hop])
            samples = g.op("Concat", g.slice(hops, 0, -1, 1), g.slice(hops, 1, None, 1), axis=-1)
        taper, cosine, sine = self.dft()
        frames = g.pad(g.op("Mul", g.reshape(samples, [-1, 2 * hop]), g.constant(taper)), 2, 1, 0, 1)
        late = g.slice(frames, hop, None, 1)  # samples hop + m, then the zero
        early = g.op("Gather", frames, g.constant([2 * hop, *range(hop - 1, -1, -1)]), axis=1)  # samples hop − m
        re = g.op("MatMul", g.op("Add", late, early), g.constant(cosine))
        im = g.op("MatMul", g.op("Sub", early, late), g.constant(sine))
        power = g.op("Add", g.op("Add", g.op("Mul", re, re), g.op("Mul", im, im)), g.constant(FLOOR))
        root = g.op("Sqrt", g.op("Sqrt", power))
        s_c = g.op("Concat", g.op("Div", re, root), g.op("Div", im, root), axis=-1)
        return s_c, g.slice(audio, -hop, None, 1)

    def synthesis(self, layer: Synthesis, s_c: str, state: str) -> tuple[str, str]:
        """DRE and iSTFT of [2 (re, im), B, n, bins]."""
        g, hop = self.g, self.config.hop_length
        squares = g.split(g.op("Mul", s_c, s_c), [1, 1], 0)
        root = g.op("Sqrt", g.op("Add", g.op("Add", *squares), g.constant(FLOOR**2)))
        re, im = g.split(g.op("Mul", s_c, root), [1, 1], 0)  # [1, B, n, bins]
        taper, cosine, sine = self.dft()
        share = np.where(np.arange(self.config.num_bins) == 0, 1.0, 2.0)[:, None] / self.config.n_fft  # each bin but 0 stands for two
        even, odd = (
            g.op("MatMul", x, g.op("Mul", g.op("Transpose", g.constant(matrix), perm=[1, 0]), g.constant(share)))  # folded when loaded
            for x, matrix in ((re, cosine), (im, sine))
        )
        head = g.op("Gather", g.op("Add", even, odd), g.constant(list(range(hop, 0, -1))), axis=3)  # samples hop − m
        head = g.op("Mul", head, g.constant(taper[:hop]))
        tail = g.op("Mul", g.slice(g.op("Sub", even, odd), 0, hop, 3), g.constant(taper[hop:]))
        late = g.reshape(state, [1, -1, 1, hop])
        if self.frames == 2:
            before, last = g.split(tail, [1, 1], 2)
            late = g.op("Concat", late, before, axis=2)
        else:
            late = g.op("Concat", late, g.slice(tail, 0, -1, 2), axis=2)
            last = g.slice(tail, -1, None, 2)
        audio = g.op("Add", head, late)  # [1, B, n, hop]
        if self.frames is None:
            return g.op("Reshape", audio, g.op("Concat", self.batch, g.constant([-1]), axis=0)), g.reshape(last, [-1, hop])
        return g.reshape(audio, [-1, self.frames * hop]), g.reshape(last, [-1, hop])

    def scatter(self, layer: Scatter, s_c: str, z_q: str) -> str:
        """Turned phases of the highest bins of [2 (re, im), B, n, bins], by latents [B, T, D]."""
        g, low = self.g, self.config.num_bins - layer.bins
        if not layer.bins:
            return s_c
        turn = g.op("Add", g.op("MatMul", z_q, g.constant(_array(layer.matrix))), g.constant(_array(layer.offset)))
        turn = self.shaped(turn, [1], [layer.bins])  # [1, B, n, bins]
        sine, cosine = g.op("Sin", turn), g.op("Sin", g.op("Add", turn, g.constant(np.pi / 2)))
        kept, high = g.split(s_c, [low, layer.bins], 3)
        re, im = g.split(high, [1, 1], 0)
        turned_re = g.op("Sub", g.op("Mul", re, cosine), g.op("Mul", im, sine))
        turned_im = g.op("Add", g.op("Mul", re, sine), g.op("Mul", im, cosine))
        return g.op("Concat", kept, g.op("Concat", turned_re, turned_im, axis=0), axis=3)

    # -- convolutions --------------------------------------------------------------------------------------------

    def taps(self, x: str, history: str, taps: int, stride: int, bands: int, channels: int) -> tuple[str, str]:
        """The last `taps` frames before each output side by side, [B·n/stride·bands, taps·channels], and the new history."""
        g, kept, n = self.g, taps - stride, self.frames
        padded = g.op("Concat", history, x, axis=1)
        if n == stride and bands == 1:
            window = padded
        else:
            views = [g.slice(padded, i, (i - taps + 1) or None, 1, stride) for i in range(taps) if stride > 1 or 0 < i < kept]
            if stride == 1:
                views = [history if n == kept else g.slice(padded, 0, 1 - taps, 1), *views, x]
            window = g.op("Concat", *views, axis=-1)
        return g.reshape(window, [-1, taps * channels]), x if n == kept else g.slice(padded, -kept, None, 1)

    def snake(self, x: str, weight: np.ndarray, bias: np.ndarray, alpha: np.ndarray) -> tuple[str, np.ndarray, np.ndarray]:
        """s + sin²(αs)/α of s = x · weight + bias, as (value, scale, offset): two operations behind the product.

        sin² is (1 − cos)/2, so with v = 2αs − π/2 the result is (v + sin v + 1 + π/2) / 2α, and v comes out of the product itself.
        """
        g = self.g
        v = g.op("Gemm", x, g.constant(weight * 2 * alpha), g.constant(bias * 2 * alpha - np.pi / 2))
        return g.op("Add", v, g.op("Sin", v)), 0.5 / alpha, (0.5 + np.pi / 4) / alpha

    def plain(self, x: Signal) -> str:
        """[B, n, bands·channels] with scale and offset applied: over whole frames, onnxruntime is slow at short rows."""
        if x.scale is None or x.offset is None:
            return x.value
        g, value = self.g, self.shaped(x.value, [], [x.bands * x.channels])
        value = g.op("Mul", value, g.constant(np.tile(x.scale, x.bands)))
        return g.op("Add", value, g.constant(np.tile(x.offset, x.bands)))

    def stem(self, layer: Stem, s_c: str, state: str) -> tuple[Signal, str]:
        """Each band gathers its bins and one neighbour on either side; beyond the ends stands bin 0's imaginary part, which is 0.

        A latent frame's STFT frames stand side by side, so the window moves by one latent frame and one product makes their outputs;
        the zeros in its weights cost a fifth of a small product and save most of the copying.
        """
        g, config, bins, width = self.g, self.config, self.config.num_bins, 2 * (layer.stride + 2)
        group, taps = config.time_stride, layer.taps + 2
        bin_of = np.arange(layer.bands)[:, None] * layer.stride + np.arange(-1, layer.stride + 1)  # [bands, stride + 2]
        index = np.stack([bin_of, bin_of + bins], -1)  # real and imaginary part
        index[(bin_of < 0) | (bin_of >= bins)] = bins
        frame = np.arange(group)[:, None, None, None] * 2 * bins
        index = (index + frame).transpose(1, 0, 2, 3).reshape(layer.bands, group * width)
        new = g.op("Gather", g.reshape(s_c, [-1, group * 2 * bins]), g.constant(index), axis=1)  # [B·T, bands, group·width]
        kept, past = (taps - 1) * width, -(-(taps - 1) // group)  # what the state holds; how many latent frames that is
        if self.step:
            window = g.op("Concat", state, new, axis=-1)
            after = g.slice(window, -kept, None, 2)
        else:
            size = group * width
            older = g.pad(state, 3, 2, past * size - kept, 0)
            older = g.op("Transpose", g.reshape(older, [0, layer.bands, past, size]), perm=[0, 2, 1, 3])
            padded = g.op("Concat", older, self.shaped(new, [], [layer.bands, size]), axis=1)  # [B, past + T, bands, size]
            views = [g.slice(padded, i, (i - past) or None, 1) for i in range(past + 1)]
            window = g.slice(g.op("Concat", *views, axis=-1), past * size - kept, None, 3)
            last = g.op("Transpose", g.slice(padded, -past, None, 1), perm=[0, 2, 1, 3])
            after = g.slice(g.reshape(last, [0, layer.bands, past * size]), -kept, None, 2)
        kernel = _array(layer.kernel())
        channels = kernel.shape[1]
        weight = np.zeros((kept + group * width, group, channels))
        for i in range(group):
            weight[i * width : (i + taps) * width, i] = kernel
        alpha = _array(layer.snake.alpha)
        v = g.op("MatMul", g.reshape(window, [-1, layer.bands, weight.shape[0]]), g.constant((weight * 2 * alpha).reshape(len(weight), -1)))
        v = g.op("Transpose", g.reshape(v, [0, layer.bands, group, channels]), perm=[0, 2, 1, 3])  # [B·T, group, bands, C]
        v = g.reshape(g.op("Add", v, g.constant(_array(layer.bias) * 2 * alpha - np.pi / 2)), [-1, channels])
        y = g.op("Add", v, g.op("Sin", v))
        return Signal(y, layer.bands, channels, 0.5 / alpha, (0.5 + np.pi / 4) / alpha), after

    def down(self, layer: Down, x: Signal, state: str) -> tuple[Signal, str]:
        channels = layer.weight.shape[0] // layer.taps
        folded = self.g.reshape(self.plain(x), [0, 0, layer.bands_out, channels])
        window, state = self.taps(folded, state, layer.taps, layer.stride[0], layer.bands_out, channels)
        y = self.snake(window, _array(layer.weight), _array(layer.bias), _array(layer.snake.alpha))
        return Signal(y[0], layer.bands_out, layer.weight.shape[1], *y[1:]), state

    def up(self, layer: Up, x: Signal, state: str) -> tuple[Signal, str]:
        weight = _array(layer.weight)
        frames = self.g.reshape(self.plain(x), [0, 0, layer.bands_in, layer.c_in])
        window, state = self.taps(frames, state, layer.kept + 1, 1, layer.bands_in, layer.c_in)
        if layer.stride[0] == 2:  # both output frames of an input frame from one product
            oldest, middle, newest = np.split(weight, 3)
            weight = np.concatenate([np.concatenate([oldest, newest]), np.concatenate([0 * middle, middle])], 1)
        copies = weight.shape[1] // layer.c_out
        value, scale, offset = self.snake(window, weight, *(np.tile(_array(p), copies) for p in (layer.bias, layer.snake.alpha)))
        if layer.stride[0] == 2 and layer.bands_in > 1:  # frames before bands
            value = self.g.reshape(value, [-1, layer.bands_in, 2, layer.stride[1] * layer.c_out])
            value = self.g.op("Transpose", value, perm=[0, 2, 1, 3])
        bands = layer.bands_in * layer.stride[1]
        return Signal(value, bands, layer.c_out, scale[: layer.c_out], offset[: layer.c_out]), state

    def complexconv(self, layer: ComplexConv, x: Signal, state: str) -> tuple[str, str]:
        """As in the torch layer, but planes of bins instead of pairs: [2 (re, im), B, n, bins]; state [B, 2 (re, im), 2 frames, bins]."""
        g, bins, n = self.g, layer.bins, self.frames
        kernel = _array(layer.kernel())  # [C, 3 (frequency) · 3 (time) · 2]
        bias = np.zeros(18)
        bias[6:8] = _array(layer.bias)
        if x.scale is not None and x.offset is not None:
            bias += x.offset @ kernel
            kernel = kernel * x.scale[:, None]
        rows = g.reshape(x.value, [-1, x.channels])
        products = g.op("Gemm", g.constant(kernel.T), rows, g.constant(bias[:, None]), transB=1)  # [18, B·n·bins]
        below, here, above = g.split(g.reshape(products, [18, -1, bins]), [6, 6, 6], 0)
        y = g.op("Add", g.op("Add", here, g.pad(below, 3, 2, 1, -1)), g.pad(above, 3, 2, -1, 1))
        now, one, two = g.split(self.shaped(y, [6], [bins]), [2, 2, 2], 0)
        past = g.op("Add", g.pad(one, 4, 2, 1, 1), g.pad(two, 4, 2, 2, 0))  # [2, B, n + 2, bins]
        owed = g.op("Transpose", state, perm=[1, 0, 2, 3])
        if n == 2:
            first, after = g.split(past, [2, 2], 2)
            first = g.op("Add", first, owed)
        else:
            past = g.op("Concat", g.op("Add", g.slice(past, 0, 2, 2), owed), g.slice(past, 2, None, 2), axis=2)
            first, after = g.slice(past, 0, -2, 2), g.slice(past, -2, None, 2)
        return g.op("Add", now, first), g.op("Transpose", after, perm=[1, 0, 2, 3])

    # -- recurrence ----------------------------------------------------------------------------------------------

    def rnn2d(self, layer: RNN2D, x: Signal, state: str) -> tuple[Signal, str]:
        g, c, bands = self.g, layer.channels, layer.bands
        value = self.plain(x)
        ones = g.constant(np.ones(bands * c))  # eq. 3 and 4 have no gain
        y = g.op("LayerNormalization", value, ones, axis=-1, epsilon=layer.norm.eps)
        run = self.gru if bands <= FEW_BANDS else self.cells
        y, h = run(layer.gru, g.op("Tanh", y), state, bands)
        y, scale, offset = self.snake(y, _array(layer.conv.weight).T, _array(layer.conv.bias), _array(layer.snake.alpha))
        return Signal(g.op("Add", value, self.plain(Signal(y, bands, c, scale, offset))), bands, c), g.reshape(h, [-1, bands, c])

    def over_time(self, x: str, bands: int, channels: int) -> str:
        """[B, n, bands·C] to [n, B·bands, C]."""
        g = self.g
        if self.frames == 1:
            return g.reshape(x, [1, -1, channels])
        x = g.op("Transpose", x, perm=[1, 0, 2])
        if self.frames is not None:
            return g.reshape(x, [self.frames, -1, channels])
        rows = g.op("Mul", self.batch, g.constant([bands]))
        return g.op("Reshape", x, g.op("Concat", g.constant([-1]), rows, g.constant([channels]), axis=0))

    def over_streams(self, y: str, bands: int, channels: int) -> str:
        """[n, B·bands, C] to [B·n·bands, C]."""
        g = self.g
        if self.frames != 1:
            if self.frames is not None:
                y = g.reshape(y, [self.frames, -1, bands * channels])
            else:
                y = g.op("Reshape", y, g.op("Concat", g.constant([-1]), self.batch, g.constant([bands * channels]), axis=0))
            y = g.op("Transpose", y, perm=[1, 0, 2])
        return g.reshape(y, [-1, channels])

    def gru(self, gru: torch.nn.GRU, x: str, state: str, bands: int) -> tuple[str, str]:
        """x [B, n, bands·C], state [B, bands, C] to all states [B·n·bands, C] and the last, in one operator."""
        g, c = self.g, gru.hidden_size
        order = np.r_[c : 2 * c, :c, 2 * c : 3 * c]  # ONNX has z, r, n
        w, u = (g.constant(_array(p)[None, order]) for p in (gru.weight_ih_l0, gru.weight_hh_l0))
        bias = g.constant(np.concatenate([_array(p)[order] for p in (gru.bias_ih_l0, gru.bias_hh_l0)])[None])
        x, h = self.over_time(x, bands, c), g.reshape(state, [1, -1, c])
        every, last = g.ops("GRU", x, w, u, bias, "", h, outputs=2, hidden_size=c, linear_before_reset=1)
        return self.over_streams(every, bands, c), last

    def cells(self, gru: torch.nn.GRU, x: str, state: str, bands: int) -> tuple[str, str]:
        """The same written out, which is faster from a few hundred rows on: in a row, or in the chunk graph in a Scan."""
        g, c, h = self.g, gru.hidden_size, self.g.reshape(state, [-1, gru.hidden_size])
        if self.frames is None:
            every, h = g.scan(lambda body, h, frame: self.cell(body, gru, frame, h), h, self.over_time(x, bands, c))
            return self.over_streams(every, bands, c), h
        states = []
        for frame in g.split(x, [1] * self.frames, 1) if self.frames > 1 else [x]:
            h = self.cell(g, gru, g.reshape(frame, [-1, c]), h)
            states.append(g.reshape(h, [-1, 1, bands * c]))
        return g.reshape(g.op("Concat", *states, axis=1) if len(states) > 1 else h, [-1, c]), h

    @staticmethod
    def cell(g: Graph, gru: torch.nn.GRU, x: str, h: str) -> str:
        """r, z = σ(W x + U h + b); n = tanh(W x + b + r·(U h + b)); h ← n + z·(h − n), x and h [R, C].

        onnxruntime runs the sigmoid and the tanh inside the products before them.
        """
        c = gru.hidden_size
        w, u, b_w, b_u = (_array(p) for p in (gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0))
        both, weight, bias = g.op("Concat", x, h, axis=-1), np.concatenate([w, u], 1).T, b_w + b_u
        r, z = (
            g.op("Sigmoid", g.op("Gemm", both, g.constant(weight[:, gate]), g.constant(bias[gate])))
            for gate in (slice(0, c), slice(c, 2 * c))
        )
        late = slice(2 * c, 3 * c)
        past = g.op("Mul", r, g.op("Gemm", h, g.constant(u[late].T), g.constant(b_u[late])))
        n = g.op("Tanh", g.op("Gemm", x, g.constant(w[late].T), g.op("Add", past, g.constant(b_w[late]))))
        return g.op("Add", n, g.op("Mul", z, g.op("Sub", h, n)))


def tables(g: Graph, codebooks: list[np.ndarray]) -> str:
    """All codebooks one below the other, [K·S, d]."""
    return g.constant(np.concatenate(codebooks))


def search(g: Graph, projection: np.ndarray, codebooks: list[np.ndarray], z: str) -> list[str]:
    """Latents [N, D] to one code [N, 1] per codebook [S, d], each with its projection [D, d] of what the ones before left over.

    A stage sees only that projection, so all projections are made at once, and a chosen entry is
    subtracted from those of the later stages. Beside each projection stands a 1 that meets −‖c‖²/2 in the score.
    """
    num, _, dim = projection.shape
    ones = np.tile(np.r_[np.zeros(dim), 1.0], num)
    wide = np.pad(projection, [(0, 0), (0, 0), (0, 1)])  # [K, D, d + 1]
    rest, codes = g.op("Gemm", z, g.constant(wide.transpose(1, 0, 2).reshape(wide.shape[1], -1)), g.constant(ones)), []
    ends = np.cumsum([len(codebook) for codebook in codebooks]).tolist()
    for k in range(num):
        codebook = g.slice(tables(g, codebooks), ends[k] - len(codebooks[k]), ends[k], 0)  # folded when loaded
        offset = g.constant(-0.5 * np.square(codebooks[k]).sum(-1)[None])
        entries = g.op("Concat", g.op("Transpose", codebook, perm=[1, 0]), offset, axis=0)  # folded, too
        later = num - 1 - k
        u, rest = g.split(rest, [dim + 1, later * (dim + 1)]) if later else (rest, "")
        codes.append(g.op("ArgMax", g.op("MatMul", u, entries), axis=-1))
        if later:
            step = np.concatenate(list(projection[k].T @ wide[k + 1 :]), 1)  # [d, later·(d + 1)]
            rest = g.op("Gemm", g.op("GatherND", codebook, codes[-1]), g.constant(-step), rest)
    return codes


def quantize_vq(g: Graph, quantizer: ResidualVQ, z: str) -> str:
    """Latents [N, D] to codes [N, K], for one or more codebooks."""
    return g.op("Concat", *search(g, _array(quantizer.projection), list(_array(quantizer.codebooks)), z), axis=-1)


def dequantize_vq(g: Graph, quantizer: ResidualVQ, codes: str) -> str:
    """Codes [B, T, K] to latents [B, T, D]: one look-up in all tables, each with a row of zeros for the absent code, and one product."""
    num, size, dim = quantizer.codebooks.shape
    table = g.reshape(tables(g, list(_array(quantizer.codebooks))), [num, size, dim])
    table = g.reshape(g.pad(table, 3, 1, 0, 1), [-1, dim])  # folded when loaded
    entries = g.op("Gather", table, g.op("Add", codes, g.constant(np.arange(num) * (size + 1))))
    back = _array(quantizer.projection).transpose(0, 2, 1).reshape(num * dim, -1)
    return g.op("MatMul", g.reshape(entries, [0, 0, num * dim]), g.constant(back))


def _pair(quantizer: PairVQ) -> tuple[np.ndarray, list[np.ndarray]]:
    both = (quantizer.first, quantizer.second)
    return np.concatenate([_array(stage.projection) for stage in both]), [_array(stage.codebooks)[0] for stage in both]


def quantize_pair(g: Graph, quantizer: PairVQ, z: str) -> str:
    """Latents [N, D] to codes [N, 1]."""
    first, second = search(g, *_pair(quantizer), z)
    return g.op("Add", first, g.op("Mul", second, g.constant([quantizer.sizes[0]])))


def dequantize_pair(g: Graph, quantizer: PairVQ, codes: str) -> str:
    """Codes [B, T, 1] to latents [B, T, D], as for two codebooks; a row of zeros behind both tables is the absent code's."""
    projection, codebooks = _pair(quantizer)
    one, two = quantizer.sizes
    table = g.pad(tables(g, codebooks), 2, 0, 0, 1)
    first = g.op("Mod", codes, g.constant([one]))
    second = g.op("Add", g.op("Div", codes, g.constant([one])), g.constant([one]))
    present = g.op("Less", codes, g.constant([quantizer.codebook_size]))
    rows = g.op("Where", present, g.op("Concat", first, second, axis=-1), g.constant([one + two]))
    back = projection.transpose(0, 2, 1).reshape(-1, projection.shape[1])
    return g.op("MatMul", g.reshape(g.op("Gather", table, rows), [0, 0, len(back)]), g.constant(back))


def quantize_fsq(g: Graph, quantizer: FSQ, z: str) -> str:
    """Latents [N, D] to codes [N, 1]: as many comparisons as there are edges between levels, each worth its digit's place.

    What is summed are whole numbers below 2^15, exact in any order.
    """
    edges, radix = _array(quantizer.edges), _array(quantizer.radix)
    weight = np.repeat(_array(quantizer.project_in), len(edges), 1)  # [D, d·(L − 1)]
    bias = np.add.outer(_array(quantizer.bias_in), -edges).ravel()
    above = g.op("Greater", g.op("Gemm", z, g.constant(weight), g.constant(bias)), g.constant(0.0))
    codes = g.op("MatMul", g.op("Cast", above, to=FLOAT), g.constant(np.repeat(radix, len(edges))[:, None]))
    return g.op("Cast", codes, to=INT64)


def dequantize_fsq(g: Graph, quantizer: FSQ, codes: str) -> str:
    """Codes [B, T, 1] to latents [B, T, D]: digits times weights; an absent code makes zeros."""
    levels, out = quantizer.levels, _array(quantizer.project_out)
    radix = g.constant(quantizer.radix.tolist())
    digits = g.op("Mod", g.op("Div", codes, radix), g.constant([levels]))
    bias = _array(quantizer.bias_out) + (1 / levels - 1) * out.sum(0)
    z_q = g.linear(g.op("Cast", digits, to=FLOAT), out * (2 / levels), bias)
    present = g.op("Less", codes, g.constant([quantizer.codebook_size]))
    return g.op("Mul", z_q, g.op("Cast", present, to=FLOAT))


QUANTIZERS: dict[type[Quantizer], tuple[Any, Any]] = {
    FSQ: (quantize_fsq, dequantize_fsq),
    PairVQ: (quantize_pair, dequantize_pair),
    ResidualVQ: (quantize_vq, dequantize_vq),  # SingleVQ, too
}


def _write(name: str, model: SpecTokenizer, weights: Weights) -> Graph:
    side, kind = name.split("_")
    config, step = model.config, kind == "step"
    graph = Graph(name, weights, WEIGHTS)
    layers = Layers(graph, config, step)
    chain: Chain = getattr(model, side)
    quantize, dequantize = next(both for kind, both in QUANTIZERS.items() if isinstance(model.quantizer, kind))
    states = {layer: list(value.shape[1:]) for layer, value in to_graph(model, side, chain.initial_state(1)).items()}
    samples: int | str = config.frame_size if step else "samples"
    time: int | str = 1 if step else "frames"
    codes_shape = ["batch", config.num_codebooks, time]

    first = graph.input("audio", ["batch", samples]) if side == "encoder" else graph.input("codes", codes_shape, INT64)
    inputs = {layer: graph.input(f"{layer}_in", ["batch", *shape]) for layer, shape in states.items()}
    if not step:
        layers.batch = graph.slice(graph.op("Shape", first), 0, 1, 0)
    x: Any = first
    if side == "decoder":
        frames = graph.reshape(first, [-1, 1, config.num_codebooks]) if step else graph.op("Transpose", first, perm=[0, 2, 1])
        z_q = dequantize(graph, model.quantizer, frames)
        x = Signal(z_q, 1, config.latent_dim)
    outputs = {}
    if step:
        layers.frames = config.time_stride if side == "encoder" else 1
    for layer_name, layer in chain.items():
        if isinstance(layer, Synthesis):
            x = layers.scatter(model.scatter, x, z_q)
        x, outputs[layer_name] = layers.write(layer, x, inputs[layer_name])
        if layers.frames and isinstance(layer, (Down, Up)):
            stride = layer.stride[0]
            layers.frames = layers.frames // stride if isinstance(layer, Down) else layers.frames * stride
    if side == "encoder":
        ones = graph.constant(np.ones(config.latent_dim))
        z = graph.op("LayerNormalization", graph.reshape(layers.plain(x), [-1, config.latent_dim]), ones, axis=-1, epsilon=model.norm.eps)
        codes = quantize(graph, model.quantizer, z)
        if step:
            codes = graph.reshape(codes, [-1, config.num_codebooks, 1])
        else:
            codes = graph.op("Transpose", layers.shaped(codes, [], [config.num_codebooks]), perm=[0, 2, 1])
        graph.output("codes", codes, codes_shape, INT64)
    else:
        graph.output("audio", x, ["batch", samples])
    for layer_name, shape in states.items():
        graph.output(f"{layer_name}_out", outputs[layer_name], ["batch", *shape])
    return graph


def export(model: SpecTokenizer, folder: str | Path, about: dict[str, Any] | None = None) -> Parity:
    """Write the four graphs, their weights and `config.json` into `folder`, when a check against torch has passed.

    Raises ModelError when a graph does not compute what the torch model does, and for a model without some part of the paper's; then
    the folder is as it was.
    """
    switched = [
        f"{name} = {getattr(model.config, name)!r}" for name in ABLATIONS if getattr(model.config, name) != getattr(CodecConfig, name)
    ]
    if switched:
        raise ModelError(f"{model.config.name}: a model with {', '.join(switched)} is for the ablation: it can be evaluated, not exported")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = Weights()
    graphs = [_write(name, model.eval(), weights) for name in GRAPHS]
    with TemporaryDirectory(prefix=".export-", dir=folder) as name:
        unchecked = Path(name)
        (unchecked / WEIGHTS).write_bytes(bytes(weights.blob))
        for graph in graphs:
            graph.save(unchecked / f"{graph.name}.onnx")
        text = json.dumps({"codec": model.config.to_dict(), "about": about or {}}, indent=1)
        (unchecked / CONFIG).write_text(text + "\n", encoding="utf-8")
        report = check(model, unchecked)
        if not report.good:
            raise ModelError(f"{folder}: the exported graphs differ from the trained model: {report}")
        for path in unchecked.iterdir():
            path.replace(folder / path.name)
    return report
