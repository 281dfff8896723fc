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
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import CodecConfig
from ..errors import ModelError
from ..model.layers import RNN2D, ComplexConv, Down, Stem, Up
from ..model.quantizer import ResidualVQ
from ..model.spectokenizer import Chain, SpecTokenizer
from ..model.spectrum import FLOOR, Analysis, Synthesis, dft_matrices
from ..runtime.network import CONFIG, GRAPHS, WEIGHTS
from .graph import INT64, Graph, Weights
from .parity import Parity, check


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().double().numpy()


class Layers:
    """Each method writes one layer of `model` into the graph: (x, state) → (y, new state), x is [T, B, F, C]."""

    def __init__(self, graph: Graph, config: CodecConfig):
        self.g, self.config = graph, config
        self.frames: int | None = None  # how many frames x has, when fixed (step graph); the last level works at a lower rate

    def write(self, layer: Any, x: str, state: str) -> tuple[str, str]:
        return getattr(self, type(layer).__name__.lower())(layer, x, state)

    def dft(self) -> np.ndarray:
        """[window, 2·bins], cosines first; the synthesis matrix is its transpose, so the weights file holds it once."""
        matrix = dft_matrices(self.config)[0]
        return matrix.reshape(-1, self.config.num_bins, 2).transpose(0, 2, 1).reshape(-1, 2 * self.config.num_bins)

    # -- spectrum ------------------------------------------------------------------------------------------------

    def analysis(self, layer: Analysis, audio: str, state: str) -> tuple[str, str]:
        """STFT and DRC; real parts in the first half of the last axis, imaginary parts in the second."""
        g, hop, bins = self.g, self.config.hop_length, self.config.num_bins
        hops = g.op("Transpose", g.reshape(audio, [0, -1, hop]), perm=[1, 0, 2])  # [n, B, hop]
        samples = g.op("Concat", g.op("Unsqueeze", state, g.constant([0])), hops, axis=0)
        frames = g.op("Concat", g.slice(samples, 0, -1, 0), hops, axis=-1)  # [n, B, window]
        s = g.linear(frames, self.dft())
        re, im = g.split(s, [bins, bins])
        power = g.op("Add", g.op("Add", g.op("Mul", re, re), g.op("Mul", im, im)), g.constant(FLOOR))
        root = g.op("Sqrt", g.op("Sqrt", power))
        s_c = g.op("Concat", g.op("Div", re, root), g.op("Div", im, root), axis=-1)  # [n, B, 2·bins]
        return s_c, g.op("Squeeze", g.slice(samples, -1, None, 0), g.constant([0]))

    def synthesis(self, layer: Synthesis, s_c: str, state: str) -> tuple[str, str]:
        """DRE and iSTFT of (re, im) [n, B, 2·bins] as above."""
        g, hop, bins = self.g, self.config.hop_length, self.config.num_bins
        re, im = g.split(s_c, [bins, bins])
        power = g.op("Add", g.op("Add", g.op("Mul", re, re), g.op("Mul", im, im)), g.constant(FLOOR**2))
        root = g.op("Sqrt", power)
        s = g.op("Concat", g.op("Mul", re, root), g.op("Mul", im, root), axis=-1)
        share = np.tile(np.where(np.arange(bins) == 0, 1.0, 2.0) / self.config.n_fft, 2)  # each bin but 0 stands for two
        inverse = g.op("Transpose", g.op("Mul", g.constant(self.dft()), g.constant(share)), perm=[1, 0])  # folded when loaded
        head, tail = g.split(g.op("MatMul", s, inverse), [hop, hop])
        late = g.op("Concat", g.op("Unsqueeze", state, g.constant([0])), tail, axis=0)
        audio = g.op("Add", head, g.slice(late, 0, -1, 0))  # [n, B, hop]
        audio = g.reshape(g.op("Transpose", audio, perm=[1, 0, 2]), [0, -1])
        return audio, g.op("Squeeze", g.slice(late, -1, None, 0), g.constant([0]))

    # -- convolutions --------------------------------------------------------------------------------------------

    def taps(self, x: str, history: str, taps: int, stride: int, bands: int, channels: int) -> tuple[str, str]:
        g, kept = self.g, taps - stride
        past = g.op("Transpose", g.reshape(history, [0, bands, kept, channels]), perm=[2, 0, 1, 3])
        padded = g.op("Concat", past, x, axis=0)
        views = [g.slice(padded, i, (i - taps + 1) or None, 0, stride) for i in range(taps)]
        window = g.op("Concat", *views, axis=-1)
        new = g.op("Transpose", g.slice(padded, -kept, None, 0), perm=[1, 2, 0, 3])
        return window, g.reshape(new, [0, 0, kept * channels])

    def snake(self, x: str, alpha: Tensor) -> str:
        g, a = self.g, _array(alpha)
        sine = g.op("Sin", g.op("Mul", x, g.constant(a)))
        return g.op("Add", x, g.op("Mul", g.op("Mul", sine, sine), g.constant(1 / a)))

    def stem(self, layer: Stem, s_c: str, state: str) -> tuple[str, str]:
        """Each band gathers its bins and one neighbour on either side; index 2·bins is a zero."""
        g, bins, width = self.g, self.config.num_bins, layer.stride + 2
        bin_of = np.arange(layer.bands)[:, None] * layer.stride + np.arange(-1, layer.stride + 1)  # [bands, width]
        index = np.stack([bin_of, bin_of + bins], -1)  # real and imaginary part
        index[(bin_of < 0) | (bin_of >= bins)] = 2 * bins
        bands = g.op("Gather", g.pad(s_c, 3, 2, 0, 1), g.constant(index.reshape(layer.bands, 2 * width)), axis=2)
        window, state = self.taps(bands, state, layer.taps + 2, 1, layer.bands, 2 * width)
        return self.snake(g.linear(window, _array(layer.kernel()), _array(layer.bias)), layer.snake.alpha), state

    def down(self, layer: Down, x: str, state: str) -> tuple[str, str]:
        g, channels = self.g, layer.weight.shape[0] // layer.taps
        folded = g.reshape(x, [0, 0, layer.bands_out, channels])
        window, state = self.taps(folded, state, layer.taps, layer.stride[0], layer.bands_out, channels)
        return self.snake(g.linear(window, _array(layer.weight), _array(layer.bias)), layer.snake.alpha), state

    def up(self, layer: Up, x: str, state: str) -> tuple[str, str]:
        g, weight = self.g, _array(layer.weight)
        window, state = self.taps(x, state, layer.kept + 1, 1, layer.bands_in, layer.c_in)
        bands = layer.bands_in * layer.stride[1]
        if layer.stride[0] == 1:
            y = g.reshape(g.linear(window, weight), [0, 0, bands, layer.c_out])
        else:  # both output frames of an input frame from one product
            oldest, middle, newest = np.split(weight, 3)
            both = np.concatenate([np.concatenate([oldest, newest]), np.concatenate([0 * middle, middle])], 1)
            y = g.reshape(g.linear(window, both), [0, 0, layer.bands_in, 2, weight.shape[1]])
            y = g.op("Transpose", y, perm=[0, 3, 1, 2, 4])  # [T, 2, B, F, stride_f·C]
            if self.frames:
                y = g.reshape(y, [self.frames, -1, bands, layer.c_out])
            else:  # [2T, B, bands, C] with neither T nor B known: flatten all, then name the batch
                batch = g.slice(g.op("Shape", x), 1, 2, 0)
                shape = g.op("Concat", g.constant([-1]), batch, g.constant([bands, layer.c_out]), axis=0)
                y = g.op("Reshape", y, shape)
        return self.snake(g.op("Add", y, g.constant(_array(layer.bias))), layer.snake.alpha), state

    def complexconv(self, layer: ComplexConv, x: str, state: str) -> tuple[str, str]:
        """As in the torch layer; the result has the real parts first: [T, B, 2·bins]."""
        g, bins = self.g, layer.bins
        below, here, above = g.split(g.linear(x, _array(layer.kernel())), [6, 6, 6])
        below = g.pad(g.slice(below, 0, -1, 2), 4, 2, 1, 0)
        above = g.pad(g.slice(above, 1, None, 2), 4, 2, 0, 1)
        now, one, two = g.split(g.op("Add", g.op("Add", here, below), above), [2, 2, 2])
        past = g.op("Add", g.pad(one, 4, 0, 1, 1), g.pad(two, 4, 0, 2, 0))  # [T + 2, B, bins, 2]
        owed = g.op("Transpose", g.reshape(state, [0, bins, 2, 2]), perm=[2, 0, 1, 3])
        past = g.op("Concat", g.op("Add", g.slice(past, 0, 2, 0), owed), g.slice(past, 2, None, 0), axis=0)
        y = g.op("Add", g.op("Add", now, g.slice(past, 0, -2, 0)), g.constant(_array(layer.bias)))
        y = g.reshape(g.op("Transpose", y, perm=[0, 1, 3, 2]), [0, 0, 2 * bins])
        owed = g.op("Transpose", g.slice(past, -2, None, 0), perm=[1, 2, 0, 3])
        return y, g.reshape(owed, [0, 0, 4])

    # -- recurrence ----------------------------------------------------------------------------------------------

    def rnn2d(self, layer: RNN2D, x: str, state: str) -> tuple[str, str]:
        g, c, bands = self.g, layer.channels, layer.bands
        ones = g.constant(np.ones((bands, c)))  # eq. 3 and 4 have no gain
        y = g.op("Tanh", g.op("LayerNormalization", x, ones, axis=-2, epsilon=layer.norm.eps))
        y = g.reshape(y, [0, -1, c])  # [T, B·bands, C]
        h = g.reshape(state, [-1, c])
        y, h = self.gru(layer.gru, y, h)
        y = self.snake(g.linear(y, _array(layer.conv.weight).T, _array(layer.conv.bias)), layer.snake.alpha)
        return g.op("Add", x, g.reshape(y, [0, -1, bands, c])), g.reshape(h, [-1, bands, c])

    def gru(self, gru: torch.nn.GRU, x: str, h: str) -> tuple[str, str]:
        """x [T, R, C], h [R, C]: the input's share of the gates for all frames at once, then one cell per frame.

        Step graph: cells in a row. Chunk graph: the same cell in a Scan; the GRU operator computes its own sigmoid, and codes
        must not depend on which graph made them.
        """
        g, c = self.g, gru.hidden_size
        bias = _array(gru.bias_ih_l0) + np.concatenate([_array(gru.bias_hh_l0)[: 2 * c], np.zeros(c)])
        gates = g.linear(x, _array(gru.weight_ih_l0).T, bias)
        if self.frames is None:
            return g.scan(lambda body, h, frame: self.cell(body, gru, frame, h), h, gates)
        steps = g.split(gates, [1] * self.frames, axis=0) if self.frames > 1 else [gates]
        outputs = []
        for frame in steps:
            h = self.cell(g, gru, g.op("Squeeze", frame, g.constant([0])), h)
            outputs.append(g.op("Unsqueeze", h, g.constant([0])))
        return (g.op("Concat", *outputs, axis=0) if len(outputs) > 1 else outputs[0]), h

    @staticmethod
    def cell(g: Graph, gru: torch.nn.GRU, gates: str, h: str) -> str:
        """r, z = σ(W x + U h); n = tanh(W x + r·(U h + b)); h ← n + z·(h − n), with W x + b in `gates` [R, 3C]."""
        c = gru.hidden_size
        x_rz, x_n = g.split(gates, [2 * c, c])
        h_rz, h_n = g.split(g.linear(h, _array(gru.weight_hh_l0).T), [2 * c, c])
        r, z = g.split(g.op("Sigmoid", g.op("Add", x_rz, h_rz)), [c, c])
        b = g.constant(_array(gru.bias_hh_l0)[2 * c :])
        n = g.op("Tanh", g.op("Add", x_n, g.op("Mul", r, g.op("Add", h_n, b))))
        return g.op("Add", n, g.op("Mul", z, g.op("Sub", h, n)))


def tables(g: Graph, quantizer: ResidualVQ) -> str:
    """All codebooks one below the other and a row of zeros, the absent code: [K·S + 1, d]."""
    codebooks = _array(quantizer.codebooks).reshape(-1, quantizer.codebook_dim)
    return g.constant(np.concatenate([codebooks, np.zeros((1, quantizer.codebook_dim))]))


def quantize(g: Graph, quantizer: ResidualVQ, z: str) -> str:
    """Latents [T, B, 1, D] to codes [B, K, T]: per stage project, score −‖u − c‖²/2, take the best, subtract it."""
    num, size, _ = quantizer.codebooks.shape
    residual, codes = g.reshape(z, [-1, quantizer.project_in.shape[1]]), []
    for k in range(num):
        codebook = g.slice(tables(g, quantizer), k * size, (k + 1) * size, 0)  # folded when loaded
        u = g.op("MatMul", residual, g.constant(_array(quantizer.project_in[k])))
        offset = g.constant(-0.5 * np.square(_array(quantizer.codebooks[k])).sum(-1))
        index = g.op("ArgMax", g.op("Gemm", u, codebook, offset, transB=1), axis=-1, keepdims=0)  # [T·B]
        codes.append(g.op("Unsqueeze", index, g.constant([1])))
        if k + 1 < num:
            residual = g.op("Sub", residual, g.linear(g.op("Gather", codebook, index), _array(quantizer.project_out[k])))
    shape = g.op("Concat", g.slice(g.op("Shape", z), 0, 2, 0), g.constant([num]), axis=0)
    stacked = g.op("Reshape", g.op("Concat", *codes, axis=-1), shape)  # [T, B, K]
    return g.op("Transpose", stacked, perm=[1, 2, 0])


def dequantize(g: Graph, quantizer: ResidualVQ, codes: str) -> str:
    """Codes [B, K, T] to latents [T, B, 1, D]: one look-up in all tables and one product."""
    num, size, dim = quantizer.codebooks.shape
    frames = g.op("Transpose", codes, perm=[2, 0, 1])
    absent = g.op("Equal", frames, g.constant([size]))
    index = g.op("Where", absent, g.constant([num * size]), g.op("Add", frames, g.constant(np.arange(num) * size)))
    entries = g.reshape(g.op("Gather", tables(g, quantizer), index), [0, 0, 1, num * dim])
    return g.linear(entries, _array(quantizer.project_out).reshape(num * dim, -1))


def _write(name: str, model: SpecTokenizer, weights: Weights) -> Graph:
    side, kind = name.split("_")
    config, step = model.config, kind == "step"
    graph = Graph(name, weights, WEIGHTS)
    layers = Layers(graph, config)
    chain: Chain = getattr(model, side)
    states = {layer: list(state.shape[1:]) for layer, state in chain.initial_state(1).items()}
    samples: int | str = config.frame_size if step else "samples"
    time: int | str = 1 if step else "frames"
    codes_shape = ["batch", config.num_codebooks, time]

    x = graph.input("audio", ["batch", samples]) if side == "encoder" else graph.input("codes", codes_shape, INT64)
    inputs = {layer: graph.input(f"{layer}_in", ["batch", *shape]) for layer, shape in states.items()}
    if side == "decoder":
        x = dequantize(graph, model.quantizer, x)
    outputs = {}
    latent_level = f"rnn{len(config.strides) - 1}"
    for layer_name, layer in chain.items():
        layers.frames = (1 if layer_name == latent_level else config.time_stride) if step else None
        x, outputs[layer_name] = layers.write(layer, x, inputs[layer_name])
    if side == "encoder":
        ones = graph.constant(np.ones((1, config.latent_dim)))
        z = graph.op("LayerNormalization", x, ones, axis=-2, epsilon=model.norm.eps)
        graph.output("codes", quantize(graph, model.quantizer, z), codes_shape, INT64)
    else:
        graph.output("audio", x, ["batch", samples])
    for layer_name, shape in states.items():
        graph.output(f"{layer_name}_out", outputs[layer_name], ["batch", *shape])
    return graph


def export(model: SpecTokenizer, folder: str | Path, about: dict[str, Any] | None = None) -> Parity:
    """Write the four graphs, their weights and `config.json` into `folder`, and check them against torch.

    Raises ModelError when a graph does not compute what the torch model does.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = Weights()
    graphs = [_write(name, model.eval(), weights) for name in GRAPHS]
    (folder / WEIGHTS).write_bytes(bytes(weights.blob))
    for graph in graphs:
        graph.save(folder / f"{graph.name}.onnx")
    text = json.dumps({"codec": model.config.to_dict(), "about": about or {}}, indent=1)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    report = check(model, folder)
    if not report.good:
        raise ModelError(f"{folder}: the exported graphs differ from the trained model: {report}")
    return report
