"""A small writer of ONNX graphs: named ops in, checked model out; large constants shared through one weights file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
SHARED_BYTES = 1024  # constants from this size on live in the weights file, once for all graphs
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Weights:
    """Constants by content, so that four graphs of one model store each matrix once."""

    def __init__(self) -> None:
        self.blob = bytearray()
        self._places: dict[bytes, tuple[int, int]] = {}

    def place(self, array: np.ndarray) -> tuple[int, int]:
        """(offset, length) of the array's bytes in the file, 64-byte aligned."""
        data = np.ascontiguousarray(array).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._places:
            self.blob.extend(bytes(-len(self.blob) % 64))
            self._places[key] = (len(self.blob), len(data))
            self.blob.extend(data)
        return self._places[key]


class Graph:
    """One graph under construction. `op` appends a node and returns the name of its (first) output."""

    def __init__(self, name: str, weights: Weights, weights_file: str):
        self.name, self._weights, self._file = name, weights, weights_file
        self._prefix = ""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], str] = {}
        self._initializers: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._renamed: dict[str, str] = {}

    def constant(self, array: np.ndarray | Sequence[int] | float) -> str:
        """float64 becomes float32, lists of ints int64."""
        value = np.asarray(array)
        value = value.astype(np.int64 if value.dtype.kind in "iu" else np.float32)
        key = (value.tobytes(), value.dtype.str, value.shape)
        if key not in self._constants:
            name = f"{self._prefix}c{len(self._constants)}"
            if value.nbytes < SHARED_BYTES:
                tensor = numpy_helper.from_array(value, name)
            else:
                offset, length = self._weights.place(value)
                kind = FLOAT if value.dtype == np.float32 else INT64
                tensor = onnx.TensorProto(name=name, data_type=kind, dims=value.shape, data_location=TensorProto.EXTERNAL)
                for field, content in {"location": self._file, "offset": offset, "length": length}.items():
                    tensor.external_data.add(key=field, value=str(content))
            self._initializers.append(tensor)
            self._constants[key] = name
        return self._constants[key]

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes) -> str:
        return self.ops(kind, *inputs, outputs=outputs, **attributes)[0]

    def ops(self, kind: str, *inputs: str, outputs: int = 1, **attributes) -> list[str]:
        names = [f"{self._prefix}{kind.lower()}{len(self._nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def input(self, name: str, shape: Sequence[int | str], kind: int = FLOAT) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, value: str, shape: Sequence[int | str], kind: int = FLOAT) -> None:
        """`value` leaves the graph as `name`; nothing is copied unless it came in or leaves twice."""
        if value in self._renamed or value in {i.name for i in self._inputs}:
            value = self.op("Identity", value)
        self._renamed[value] = name
        self._outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))

    # -- the few compound operations that the layers share -----------------------------------------------------------

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        return self.op("Reshape", x, self.constant(list(shape)))

    def slice(self, x: str, start: int, end: int | None, axis: int, step: int = 1) -> str:
        bounds = [start], [np.iinfo(np.int64).max if end is None else end], [axis], [step]
        return self.op("Slice", x, *(self.constant(b) for b in bounds))

    def split(self, x: str, sizes: Sequence[int], axis: int = -1) -> list[str]:
        return self.ops("Split", x, self.constant(list(sizes)), outputs=len(sizes), axis=axis)

    def pad(self, x: str, rank: int, axis: int, before: int, after: int) -> str:
        pads = [0] * (2 * rank)
        pads[axis], pads[rank + axis] = before, after
        return self.op("Pad", x, self.constant(pads))

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        y = self.op("MatMul", x, self.constant(weight))
        return y if bias is None else self.op("Add", y, self.constant(bias))

    def scan(self, body: Callable[[Graph, str, str], str], state: str, x: str) -> tuple[str, str]:
        """Run state ← body(state, x[t]) over the first axis of x; returns (all states, last state)."""
        inner = Graph(f"{self.name}_scan", self._weights, self._file)
        inner._prefix = f"s{len(self._nodes)}_"
        h, frame = f"{inner._prefix}h", f"{inner._prefix}x"
        new = body(inner, h, frame)
        again = inner.op("Identity", new)
        self._initializers += inner._initializers  # a body may name what lies outside it
        typed = [helper.make_tensor_value_info(name, FLOAT, None) for name in (h, frame, new, again)]
        graph = helper.make_graph(inner._nodes, inner.name, typed[:2], typed[2:])
        last, every = self.ops("Scan", state, x, outputs=2, body=graph, num_scan_inputs=1)
        return every, last

    def save(self, path: Path) -> None:
        for node in self._nodes:
            node.input[:] = [self._renamed.get(value, value) for value in node.input]
            node.output[:] = [self._renamed.get(value, value) for value in node.output]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._initializers)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="spectokenizer")
        model.ir_version = 8
        path.write_bytes(model.SerializeToString())
        onnx.checker.check_model(str(path))
