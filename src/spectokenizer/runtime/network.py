"""The exported graphs of one model folder, and their states.

A state is a dict of float32 arrays [B, ...]; streams can be stacked and split along B. Step and chunk graphs do the same
arithmetic for each frame and each row, so codes do not depend on how audio was cut or batched.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from ..config import CodecConfig
from ..errors import ConfigError, ModelError

State = dict[str, npt.NDArray[np.float32]]

CONFIG, WEIGHTS = "config.json", "weights.bin"
GRAPHS = ("encoder_step", "encoder_chunk", "decoder_step", "decoder_chunk")
CHUNK_FRAMES = 50  # frames per call for long audio: more is not faster, its activations leave the cache


class Network:
    """Raises ModelError when the folder does not hold a complete model."""

    def __init__(self, folder: str | Path, threads: int = 1):
        self.folder, self.threads = Path(folder), threads
        try:
            self.config = CodecConfig.from_json(self.folder / CONFIG)
            self.about: dict[str, Any] = json.loads((self.folder / CONFIG).read_text(encoding="utf-8")).get("about", {})
        except OSError as error:
            raise ModelError(f"{folder}: no {CONFIG} there; give the folder that 'spectok export' wrote") from error
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise ModelError(f"{self.folder / CONFIG}: not a model configuration ({error})") from error
        self._sessions: dict[str, onnxruntime.InferenceSession] = {}
        self._lock = Lock()

    @cached_property
    def content_hash(self) -> str:
        """16 hex digits that change whenever codes or samples may: of the geometry, the weights and the graphs, which hold small ones."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name in (WEIGHTS, *(f"{graph}.onnx" for graph in GRAPHS)):
            try:
                digest.update((self.folder / name).read_bytes())
            except OSError as error:
                raise ModelError(f"{self.folder / name}: cannot be read ({error.strerror}); the model is not complete") from error
        return digest.hexdigest()[:16]

    def session(self, name: str) -> onnxruntime.InferenceSession:
        """The graph `encoder_step`, `encoder_chunk`, `decoder_step` or `decoder_chunk`, loaded at first use."""
        with self._lock:
            if name not in self._sessions:
                options = onnxruntime.SessionOptions()
                options.intra_op_num_threads = options.inter_op_num_threads = self.threads
                options.add_session_config_entry("session.set_denormal_as_zero", "1")  # silence would cost twice as much
                options.log_severity_level = 3
                try:
                    self._sessions[name] = onnxruntime.InferenceSession(
                        self.folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
                    )
                except Exception as error:  # onnxruntime's own kinds are not public
                    raise ModelError(f"{self.folder / name}.onnx: cannot be loaded ({error})") from error
            return self._sessions[name]

    def initial_state(self, side: str, batch: int = 1) -> State:
        """Zeros for every input of the `encoder` or `decoder` but the first."""
        inputs = self.session(f"{side}_step").get_inputs()[1:]
        return {i.name.removesuffix("_in"): np.zeros([batch, *i.shape[1:]], np.float32) for i in inputs}

    def encode(self, audio: npt.NDArray[np.float32], state: State) -> tuple[npt.NDArray[np.int64], State]:
        """Audio [B, t·frame_size] at the model's rate, t ≥ 1, to codes [B, K, t] and the state after it."""
        return self._run("encoder", "audio", audio, self.config.frame_size, state)

    def decode(self, codes: npt.NDArray[np.int64], state: State) -> tuple[npt.NDArray[np.float32], State]:
        """Codes [B, K, t], t ≥ 1, absent ones equal to codebook_size, to audio [B, t·frame_size], delay_samples late."""
        return self._run("decoder", "codes", codes, 1, state)

    def _run(self, side: str, name: str, x: npt.NDArray[Any], per_frame: int, state: State) -> tuple[Any, State]:
        outputs = []
        for start in range(0, x.shape[-1], CHUNK_FRAMES * per_frame):
            part = np.ascontiguousarray(x[..., start : start + CHUNK_FRAMES * per_frame])
            session = self.session(f"{side}_{'step' if part.shape[-1] == per_frame else 'chunk'}")
            first, *rest = session.run(None, {name: part, **{f"{key}_in": value for key, value in state.items()}})
            outputs.append(first)
            state = dict(zip(state, rest, strict=True))
        return (outputs[0] if len(outputs) == 1 else np.concatenate(outputs, -1)), state


class Stepper:
    """One side of `batch` streams that go on together, a frame per call, to the bit as `Network.encode` and `decode`.

    The states stay where the graph left them: two sets of buffers are bound to the step graph, which reads one and writes the
    other, in turn. That saves onnxruntime's handling of some twenty arrays per call, which a single stream feels, and their copies.
    Not for several threads at once.
    """

    def __init__(self, network: Network, side: str, batch: int = 1):
        self._session = network.session(f"{side}_step")
        first, out = self._session.get_inputs()[0], self._session.get_outputs()[0]
        codes, audio = (batch, network.config.num_codebooks, 1), (batch, network.config.frame_size)
        self._in: npt.NDArray[Any] = np.zeros(audio, np.float32) if side == "encoder" else np.zeros(codes, np.int64)
        self._out: npt.NDArray[Any] = np.zeros(codes, np.int64) if side == "encoder" else np.zeros(audio, np.float32)
        self._states = [network.initial_state(side, batch) for _ in range(2)]  # what the next call reads, what it writes
        values = [
            {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in state.items()} for state in self._states
        ]  # they share the arrays' memory
        x, y = (onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in (self._in, self._out))
        self._bindings = []
        for before, after in (values, values[::-1]):
            binding = self._session.io_binding()
            binding.bind_ortvalue_input(first.name, x)
            binding.bind_ortvalue_output(out.name, y)
            for name, value in before.items():
                binding.bind_ortvalue_input(f"{name}_in", value)
            for name, value in after.items():
                binding.bind_ortvalue_output(f"{name}_out", value)
            self._bindings.append(binding)

    def step(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """Audio [B, frame_size] to codes [B, K, 1], or such codes to audio."""
        self._in[...] = x
        self._session.run_with_iobinding(self._bindings[0])
        self._bindings.reverse()
        self._states.reverse()
        return self._out.copy()

    @property
    def state(self) -> State:
        """The states as they are now, [B, ...]: the arrays themselves, to be read, or written to (a row of zeros is a new stream),
        until the next call; copy what is to be kept."""
        return self._states[0]
