"""Would 8-bit products pay? The bundled network with its large products in int8 beside float32: speed, quality, codes that differ.

    python benchmarks/int8.py [--model mini] [--data DIR] [--clips 12] [--bitrate 4000] [--rounds 5]

Every product with at least --smallest weights becomes onnxruntime's DynamicQuantizeMatMul: int8 weights with a scale per column,
activations quantised on the way. Its scale is that of the whole input, so codes then depend on what else is in the batch.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import spectokenizer  # noqa: E402
from spectokenizer.evaluation.metrics import select  # noqa: E402
from spectokenizer.runtime.audio import read  # noqa: E402
from spectokenizer.runtime.network import GRAPHS, Stepper  # noqa: E402


def quantized(graph: onnx.GraphProto, smallest: int) -> tuple[int, int]:
    """Replace its products in place, those inside Scan, too; how many of how many weights are 8-bit now."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    done = total = 0

    def rewrite(nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        nonlocal done, total
        out = []
        for node in nodes:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    inner = rewrite(list(attribute.g.node))
                    del attribute.g.node[:]
                    attribute.g.node.extend(inner)
            if node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2 or node.input[1] not in constants:
                out.append(node)
                continue
            weight = numpy_helper.to_array(constants[node.input[1]])
            total += weight.size
            if weight.ndim != 2 or weight.size < smallest or any(a.name == "transB" and a.i for a in node.attribute):
                out.append(node)
                continue
            done += weight.size
            scale = np.maximum(np.abs(weight).max(0), 1e-12) / 127
            names = [f"{node.output[0]}_{part}" for part in ("weight", "scale", "zero")]
            values = np.round(weight / scale).astype(np.int8), scale.astype(np.float32), np.zeros(len(scale), np.int8)
            graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in zip(names, values, strict=True))
            bias = list(node.input[2:])
            product = [f"{node.output[0]}_product"] if bias and bias[0] not in constants else list(node.output)
            column = bias if bias and bias[0] in constants else []
            out.append(helper.make_node("DynamicQuantizeMatMul", [node.input[0], *names, *column], product, domain="com.microsoft"))
            if product != list(node.output):
                out.append(helper.make_node("Add", [product[0], bias[0]], list(node.output)))
        return out

    nodes = rewrite(list(graph.node))
    del graph.node[:]
    graph.node.extend(nodes)
    return done, total


def convert(source: Path, target: Path, smallest: int) -> tuple[int, int]:
    shutil.copytree(source, target)
    done = total = 0
    for name in GRAPHS:
        model = onnx.load(str(source / f"{name}.onnx"))
        counts = quantized(model.graph, smallest)
        done, total = done + counts[0], total + counts[1]
        model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
        onnx.save(model, str(target / f"{name}.onnx"))
    return done, total


def speed(codecs: dict[str, spectokenizer.Codec], streams: int, rounds: int) -> dict[str, float]:
    """Median µs of the thread's own time per frame and stream, encode and decode, in turns."""
    audio = (0.1 * np.random.default_rng(0).standard_normal((streams, 320))).astype(np.float32)
    steppers = {name: [Stepper(codec.network, side, streams) for side in ("encoder", "decoder")] for name, codec in codecs.items()}
    times: dict[str, list[float]] = {name: [] for name in codecs}
    for _ in range(rounds):
        for name, (encoder, decoder) in steppers.items():
            for i in range(max(4, 100 // streams)):
                start = time.thread_time()
                decoder.step(encoder.step(audio))
                if i:
                    times[name].append(1e6 * (time.thread_time() - start) / streams)
    return {name: statistics.median(values) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--data", type=Path, help="speech to measure the quality on")
    parser.add_argument("--clips", type=int, default=12)
    parser.add_argument("--bitrate", type=int, default=4000)
    parser.add_argument("--smallest", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    console = Console(width=140)
    exact = spectokenizer.load(options.model)
    with tempfile.TemporaryDirectory() as folder:
        done, total = convert(exact.network.folder, Path(folder, "int8"), options.smallest)
        codecs = {"float32": exact, "int8": spectokenizer.load(Path(folder, "int8"))}
        console.print(f"{done / total:.0%} of the products' weights in int8")
        table = Table("streams", *codecs, title="µs per frame, encode and decode, thread's own time")
        for streams in (1, 8, 64):
            table.add_row(str(streams), *(f"{us:.0f}" for us in speed(codecs, streams, options.rounds).values()))
        console.print(table)
        rng = np.random.default_rng(1)
        pair = (0.1 * rng.standard_normal((2, 16000))).astype(np.float32) * np.array([[1], [4]], np.float32)
        for name, codec in codecs.items():
            alone = codec.encode(pair[0], 16000, codec.info.bitrates[-1]).array
            together = codec.encode_batch(list(pair), 16000, codec.info.bitrates[-1])[0].array
            console.print(f"{name}: {(alone == together).mean():.1%} of a clip's codes are the same alone and beside a louder clip")
        if options.data:
            files = sorted(path for path in options.data.rglob("*") if path.suffix in (".flac", ".wav"))
            files = files[:: max(1, len(files) // options.clips)][: options.clips]
            metrics, _ = select(["pesq_wb", "stoi", "si_sdr"])
            scores: dict[str, dict[str, list[float]]] = {name: {metric.name: [] for metric in metrics} for name in codecs}
            same = []
            for path in files:
                clip = read(path, 16000)[0]
                codes = {name: codec.encode(clip, 16000, options.bitrate) for name, codec in codecs.items()}
                same.append(float((codes["float32"].array == codes["int8"].array).mean()))
                for name, codec in codecs.items():
                    heard = codec.decode(codes[name].array, len(clip))
                    for metric in metrics:
                        scores[name][metric.name].append(metric(clip, heard).values[metric.name])
            table = Table("", *(metric.name for metric in metrics), title=f"{len(files)} clips at {options.bitrate} bit/s")
            for name, values in scores.items():
                table.add_row(name, *(f"{statistics.mean(v):.3f}" for v in values.values()))
            console.print(table)
            console.print(f"codes of float32 and int8 equal: {statistics.mean(same):.1%}")


if __name__ == "__main__":
    main()
