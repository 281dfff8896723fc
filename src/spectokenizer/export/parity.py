"""Do the exported graphs compute what the torch model computes, from non-zero states, for several batches and lengths?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ..model.spectokenizer import SpecTokenizer, State


@dataclass
class Parity:
    codes_equal: float  # share of codes
    samples_error: float  # largest absolute difference
    states_error: float  # largest, relative to the state's largest value

    @property
    def good(self) -> bool:
        return self.codes_equal > 0.999 and self.samples_error < 1e-4 and self.states_error < 1e-3


def _states(state: State, suffix: str) -> dict[str, np.ndarray]:
    return {f"{name}{suffix}": value.numpy() for name, value in state.items()}


@torch.no_grad()
def check(model: SpecTokenizer, folder: Path, frames: int = 6, batch: int = 3) -> Parity:
    """Run both on noise that starts mid-stream; a code may differ only where torch itself was undecided (float ties)."""
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
        got, state = run("encoder", kind, audio.numpy(), _states(warm_e, "_in"))
        equal.append(float((got == codes.numpy()).mean()))
        state_error = max(state_error, _difference(state, _states(end_e, "_in")))
        heard, state = run("decoder", kind, codes.numpy(), _states(warm_d, "_in"))
        error = max(error, float(np.abs(heard - samples.numpy()).max()))
        state_error = max(state_error, _difference(state, _states(end_d, "_in")))
    return Parity(min(equal), error, state_error)


def _difference(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return max(float(np.abs(a[k] - b[k]).max() / (np.abs(b[k]).max() + 1e-6)) for k in b)
