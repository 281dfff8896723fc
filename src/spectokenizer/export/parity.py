"""Do the exported graphs compute what the torch model computes, from non-zero states, for several batches and lengths?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ..model.layers import ComplexConv, Down, Up
from ..model.spectokenizer import SpecTokenizer, State


@dataclass
class Parity:
    codes_equal: float  # share of codes
    samples_error: float  # largest absolute difference
    states_error: float  # largest, relative to the state's largest value

    @property
    def good(self) -> bool:
        return self.codes_equal > 0.999 and self.samples_error < 1e-4 and self.states_error < 1e-3


def to_graph(model: SpecTokenizer, side: str, state: State) -> dict[str, np.ndarray]:
    """Torch's states in the graphs' order: frames before bands, so that they join the frames at hand without a transpose."""
    out = {}
    for name, value in state.items():
        layer, array = getattr(model, side)[name], value.detach().cpu().numpy()
        if isinstance(layer, (Down, Up)):  # [B, F, kept·C]
            channels = layer.weight.shape[0] // layer.taps
            array = array.reshape(*array.shape[:2], -1, channels).transpose(0, 2, 1, 3)  # [B, kept, F, C]
        elif isinstance(layer, ComplexConv):  # [B, F, 2 frames · 2]
            array = array.reshape(*array.shape[:2], 2, 2).transpose(0, 3, 2, 1)  # [B, 2, 2 frames, F]
        out[name] = np.ascontiguousarray(array)
    return out


def to_torch(model: SpecTokenizer, side: str, state: dict[str, np.ndarray]) -> State:
    """The inverse of `to_graph`."""
    out = {}
    for name, array in state.items():
        layer = getattr(model, side)[name]
        if isinstance(layer, (Down, Up)):
            array = array.transpose(0, 2, 1, 3)
        elif isinstance(layer, ComplexConv):
            array = array.transpose(0, 3, 2, 1)
        if isinstance(layer, (Down, Up, ComplexConv)):
            array = array.reshape(*array.shape[:2], -1)
        out[name] = torch.from_numpy(np.ascontiguousarray(array))
    return out


def _states(model: SpecTokenizer, side: str, state: State) -> dict[str, np.ndarray]:
    return {f"{name}_in": value for name, value in to_graph(model, side, state).items()}


@torch.no_grad()
def check(model: SpecTokenizer, folder: Path, frames: int = 6, batch: int = 3) -> Parity:
    """Run both on noise that starts mid-stream. A code may differ where torch itself was undecided (float ties), one of a thousand."""
    c = model.config
    generator = torch.Generator().manual_seed(0)
    audio = torch.randn(batch, frames * c.frame_size, generator=generator) * 0.1
    codes0, warm_e = model.encode(audio)
    _, warm_d = model.decode(codes0)
    audio = torch.randn(batch, frames * c.frame_size, generator=generator) * 0.05
    codes, end_e = model.encode(audio, warm_e)
    samples, end_d = model.decode(codes, warm_d)

    def session(name: str) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        return onnxruntime.InferenceSession(folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"])

    def run(side: str, kind: str, x: np.ndarray, state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        s = session(f"{side}_{kind}")
        parts = np.split(x, frames, -1) if kind == "step" else [x[..., : x.shape[-1] // frames], x[..., x.shape[-1] // frames :]]
        outputs = []
        for part in parts:
            first, *rest = s.run(None, {"audio" if side == "encoder" else "codes": np.ascontiguousarray(part), **state})
            outputs.append(first)
            state = {o.name.replace("_out", "_in"): value for o, value in zip(s.get_outputs()[1:], rest, strict=True)}
        return np.concatenate(outputs, -1), state

    equal, error, state_error = [], 0.0, 0.0
    for kind in ("step", "chunk"):
        got, state = run("encoder", kind, audio.numpy(), _states(model, "encoder", warm_e))
        equal.append(float((got == codes.numpy()).mean()))
        state_error = max(state_error, _difference(state, _states(model, "encoder", end_e)))
        heard, state = run("decoder", kind, codes.numpy(), _states(model, "decoder", warm_d))
        error = max(error, float(np.abs(heard - samples.numpy()).max()))
        state_error = max(state_error, _difference(state, _states(model, "decoder", end_d)))
    return Parity(min(equal), error, state_error)


def _difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(a[k] - b[k]).max() / (np.abs(b[k]).max() + 1e-6)) for k in b)
