"""What live streams cost: µs per 20 ms frame on one thread, streams per core, start-up, memory; Lyra v2 and Opus in the same rounds.

    python benchmarks/streams.py [--model mini] [--also FOLDER] [--streams 1,8,64,256] [--rounds 5] [--lyra DIR] [--profile] [--json FILE]

All cases run in turn, round after round, and figures are medians and 99th percentiles of single calls. Two clocks: "wall" is what
a caller waits; "cpu" is the time the thread itself ran, which a busy machine disturbs less, and what streams per core are computed
from. The arithmetic limit is the products that the graphs really do, at the rate of this core's fused multiply-adds, measured by a C
loop on registers (by numpy's matrix product where there is no compiler).
"""

from __future__ import annotations

import argparse
import ctypes
import ctypes.util
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import soundfile  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import track  # noqa: E402
from rich.table import Table  # noqa: E402

import spectokenizer  # noqa: E402
from spectokenizer.evaluation import baselines  # noqa: E402
from spectokenizer.runtime.batch import DecoderBatch, EncoderBatch  # noqa: E402
from spectokenizer.runtime.network import Stepper  # noqa: E402

EXAMPLE = Path(__file__).parents[1] / "examples" / "speech.flac"
FRAME, DEADLINE_US, FRAMES = 320, 20_000, 150  # FRAMES: three seconds that every stream loops over
SIGNALS = ("speech", "silence")


class Case(NamedTuple):
    """One way to carry `streams` streams: each call is one frame of all of them."""

    name: str
    streams: int
    encode: Callable[[np.ndarray], Any]  # audio [B, FRAME] → what `decode` takes
    decode: Callable[[Any], Any]


# -- systems -------------------------------------------------------------------------------------------------------------


def in_place(codec: spectokenizer.Codec, streams: int, name: str) -> Case:
    encoder, decoder = (Stepper(codec.network, side, streams) for side in ("encoder", "decoder"))
    return Case(f"{name}, in place", streams, encoder.step, decoder.step)


def by_value(codec: spectokenizer.Codec, streams: int, name: str) -> Case:
    states = {side: codec.network.initial_state(side, streams) for side in ("encoder", "decoder")}

    def encode(audio: np.ndarray) -> np.ndarray:
        codes, states["encoder"] = codec.network.encode(audio, states["encoder"])
        return codes

    def decode(codes: np.ndarray) -> np.ndarray:
        audio, states["decoder"] = codec.network.decode(codes, states["decoder"])
        return audio

    return Case(f"{name}, by value", streams, encode, decode)


def streamed(codec: spectokenizer.Codec, name: str) -> Case:
    encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
    return Case(f"{name}, Encoder/Decoder", 1, lambda audio: encoder.push(audio[0]), decoder.push)


def batched(codec: spectokenizer.Codec, streams: int, name: str) -> Case:
    encoders, decoders = EncoderBatch(codec, streams), DecoderBatch(codec, streams)
    slots = [(encoders.join(codec.info.bitrates[-1]), decoders.join()) for _ in range(streams)]

    def encode(audio: np.ndarray) -> dict[int, np.ndarray]:
        for (slot, _), samples in zip(slots, audio, strict=True):
            encoders.push(slot, samples)
        return encoders.step()

    def decode(codes: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        for encoder, decoder in slots:
            decoders.push(decoder, codes[encoder])
        return decoders.step()

    return Case(f"{name}, batches", streams, encode, decode)


def lyra(folder: str) -> Case:
    """Lyra v2 at 4 kbit/s in LiteRT, float and integer kernels as its makers left them."""
    encoder, quantizer, decoder = baselines._lyra(folder)
    search, look_up = quantizer.get_signature_runner("encode"), quantizer.get_signature_runner("decode")

    def encode(audio: np.ndarray) -> np.ndarray:
        return search(input_frames=baselines._step(encoder, audio), num_quantizers=np.int32(20))["output_0"]

    def decode(indices: np.ndarray) -> np.ndarray:
        sent = np.full((baselines.LYRA_STAGES, 1, 1), -1, np.int32)
        sent[:20, 0, 0] = indices[:20, 0, 0]
        return baselines._step(decoder, look_up(encoding_indices=sent)["output_0"])

    return Case("Lyra v2", 1, encode, decode)


def opus(bitrate: int) -> Case:
    """libopus itself, as a call would use it: VoIP, 20 ms, its default complexity."""
    path = ctypes.util.find_library("opus")
    if not path:
        raise OSError("libopus not found (apt install libopus0)")
    library, error = ctypes.CDLL(path), ctypes.c_int()
    for function in (library.opus_encoder_create, library.opus_decoder_create):
        function.restype = ctypes.c_void_p
    encoder = ctypes.c_void_p(library.opus_encoder_create(16000, 1, 2048, ctypes.byref(error)))
    decoder = ctypes.c_void_p(library.opus_decoder_create(16000, 1, ctypes.byref(error)))
    library.opus_encoder_ctl(encoder, 4002, ctypes.c_int(bitrate))
    packet, sound = ctypes.create_string_buffer(4000), np.zeros(FRAME, np.float32)

    def encode(audio: np.ndarray) -> int:
        return library.opus_encode_float(encoder, audio.ctypes.data_as(ctypes.c_void_p), FRAME, packet, 4000)

    def decode(size: int) -> np.ndarray:
        library.opus_decode_float(decoder, packet, size, sound.ctypes.data_as(ctypes.c_void_p), FRAME, 0)
        return sound

    library.opus_get_version_string.restype = ctypes.c_char_p
    return Case(f"{library.opus_get_version_string().decode()}, {bitrate // 1000} kbit/s", 1, encode, decode)


# -- measuring -----------------------------------------------------------------------------------------------------------


class Timed(NamedTuple):
    encode: tuple[float, float]  # wall and cpu, in µs per call
    decode: tuple[float, float]


def calls(case: Case, speech: np.ndarray, start: int, count: int, silent: bool) -> Iterator[Timed]:
    """`count` frames of every stream from frame `start` on, streams half a second apart, after some of speech (and silence) to warm up."""
    for t in range(count + 4 * (1 + silent)):
        audio = np.zeros((case.streams, FRAME), np.float32)
        if t < 4 or not silent:
            at = [(start + t + 25 * i) % FRAMES * FRAME for i in range(case.streams)]
            audio = np.stack([speech[a : a + FRAME] for a in at])
        marks = [(time.perf_counter(), time.thread_time())]
        codes = case.encode(audio)
        marks.append((time.perf_counter(), time.thread_time()))
        case.decode(codes)
        marks.append((time.perf_counter(), time.thread_time()))
        if t >= 4 * (1 + silent):
            yield Timed(*((1e6 * (b[0] - a[0]), 1e6 * (b[1] - a[1])) for a, b in itertools.pairwise(marks)))


def summary(case: Case, timed: list[Timed]) -> dict[str, Any]:
    out: dict[str, Any] = {"case": case.name, "streams": case.streams, "calls": len(timed)}
    for side in ("encode", "decode"):
        wall, cpu = np.array([getattr(t, side) for t in timed]).T / case.streams
        out[side] = {"wall_p50": np.median(wall), "wall_p99": np.percentile(wall, 99), "cpu_p50": np.median(cpu)}
    call = np.array([t.encode[0] + t.decode[0] for t in timed])
    out["cpu_us_per_frame"] = float(np.median([t.encode[1] + t.decode[1] for t in timed]) / case.streams)
    out["streams_per_core"] = DEADLINE_US / out["cpu_us_per_frame"]
    out["in_time"] = float((call <= DEADLINE_US).mean())
    return out


FMA = r"""
#include <stdio.h>
#include <time.h>
#ifdef __AVX512F__
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
typedef float v __attribute__((vector_size(BYTES)));
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + 1e-9 * t.tv_nsec; }
int main(void) {
  float sink = 0;
  for (int round = 0; round < 200; round++) {
    v a0 = {1}, a1 = {2}, a2 = {3}, a3 = {4}, a4 = {5}, a5 = {6}, a6 = {7}, a7 = {8}, a8 = {9}, a9 = {1}, m = {0.9f}, c = {0.1f};
    double start = now();
    for (int i = 0; i < 100000; i++) {
      a0 = a0 * m + c; a1 = a1 * m + c; a2 = a2 * m + c; a3 = a3 * m + c; a4 = a4 * m + c;
      a5 = a5 * m + c; a6 = a6 * m + c; a7 = a7 * m + c; a8 = a8 * m + c; a9 = a9 * m + c;
    }
    double rate = 100000.0 * 10 * (BYTES / 4) / (now() - start);
    v sum = a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9; sink += sum[0];
    printf("%.0f\n", rate);
  }
  return sink == 12345;
}
"""


def multiply_adds() -> tuple[float, str]:
    """The core's fp32 multiply-adds per second and how that was measured: of many short loops one of the fastest, as others interrupt."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler:
        with tempfile.TemporaryDirectory() as folder:
            source, program = Path(folder, "fma.c"), Path(folder, "fma")
            source.write_text(FMA)
            options = ["-O2", "-march=native", "-ffp-contract=fast"]
            if subprocess.run([compiler, *options, source, "-o", program], capture_output=True, check=False).returncode == 0:
                rates = subprocess.run([program], capture_output=True, check=True).stdout.split()
                return float(np.percentile(np.array(rates, float), 90)), "C loop"
    a, out, rates = np.ones((96, 96), np.float32), np.empty((96, 96), np.float32), []
    for _ in range(2000):
        start = time.perf_counter()
        np.matmul(a, a, out)
        rates.append(96**3 / (time.perf_counter() - start))
    return float(np.percentile(rates, 90)), "numpy's 96³ product"


def profile(codec: spectokenizer.Codec, side: str, batch: int, frames: int = 1, runs: int = 30) -> dict[str, Any]:
    """Of one graph: nodes, multiply-adds per frame and stream, and per kind of node its number and µs per call.

    Times are 10th percentiles: a long node is often interrupted.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 1, True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder, "profile"))
        path = codec.network.folder / f"{side}_{'step' if frames == 1 else 'chunk'}.onnx"
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feeds = {f"{name}_in": value for name, value in codec.network.initial_state(side, batch).items()}
        rng = np.random.default_rng(0)
        if side == "encoder":
            feeds["audio"] = (0.1 * rng.standard_normal((batch, frames * FRAME))).astype(np.float32)
        else:
            feeds["codes"] = rng.integers(0, codec.info.codebook_size, (batch, codec.info.num_codebooks, frames))
        for _ in range(runs):
            session.run(None, feeds)
        events = [e for e in json.loads(Path(session.end_profiling()).read_text()) if e.get("cat") == "Node" and "dur" in e]
    events = [e for e in events if e["name"].endswith("_kernel_time") and e["args"]["op_name"] != "Scan"]
    per_node: dict[str, list[float]] = {}
    kind, macs = {}, 0
    for event in events:
        name, arguments = event["name"], event["args"]
        per_node.setdefault(name, []).append(event["dur"])
        kind[name] = arguments["op_name"]
        shapes = [next(iter(shape.values())) for shape in arguments["input_type_shape"]]
        if arguments["op_name"] == "GRU":
            macs += int(np.prod(shapes[0][:2])) * 3 * shapes[0][2] * (shapes[0][2] + shapes[2][2])
        elif arguments["op_name"] in ("MatMul", "Gemm", "FusedGemm"):
            macs += int(np.prod(next(iter(arguments["output_type_shape"][0].values())))) * shapes[0][-1]
    kinds: dict[str, list[float]] = {}
    for name, durations in per_node.items():
        entry = kinds.setdefault(kind[name], [0, 0.0])
        entry[0] += len(durations) / runs
        entry[1] += len(durations) / runs * float(np.percentile(durations, 10))
    nodes = sum(count for count, _ in kinds.values())
    table = {name: {"nodes": round(c), "us": us} for name, (c, us) in sorted(kinds.items(), key=lambda item: -item[1][1])}
    return {"graph": path.stem, "streams": batch, "nodes": round(nodes), "macs": macs // (runs * batch * frames), "kinds": table}


START = """
import json, sys, time
marks = {"python": time.time() - float(sys.argv[1])}
def mark(name): marks[name] = time.time() - float(sys.argv[1])
import numpy as np
mark("numpy")
"""
OURS = """
import spectokenizer
codec = spectokenizer.load(sys.argv[2]); mark("import and load")
encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
codes = encoder.push(np.zeros(320, np.float32)); mark("first codes")
decoder.push(codes); mark("first samples")
print(json.dumps(marks))
"""
LYRAS = """
from pathlib import Path
from ai_edge_litert.interpreter import Interpreter
models = [Interpreter(str(Path(sys.argv[2], name)), num_threads=1) for name in sys.argv[3:]]
for model in models: model.allocate_tensors()
encode, decode = models[1].get_signature_runner("encode"), models[1].get_signature_runner("decode"); mark("import and load")
def step(model, x):
    model.set_tensor(model.get_input_details()[0]["index"], x); model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"])
codes = encode(input_frames=step(models[0], np.zeros((1, 320), np.float32)), num_quantizers=np.int32(20))["output_0"]; mark("first codes")
step(models[2], decode(encoding_indices=codes)["output_0"]); mark("first samples")
print(json.dumps(marks))
"""


def child(script: str, *arguments: str) -> dict[str, float]:
    """What a new process prints; of the scripts of starting up, seconds since it was asked for by what it has done until then."""
    command = [sys.executable, "-c", START + script, repr(time.time()), *arguments]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


MEMORY = """
def held():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * sum(int(fields[key].split()[0]) for key in ("VmRSS", "VmSwap"))
import spectokenizer
codec, kept = spectokenizer.load(sys.argv[2]), []
for i in range(2200):
    if i == 200: before = held()
    encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
    decoder.push(encoder.push(np.zeros(320, np.float32)))
    kept.append((encoder, decoder))
print(json.dumps({"process": (held() - before) / 2000}))
"""


def memory(codec: spectokenizer.Codec) -> dict[str, float]:
    """Bytes per open encoder and decoder: of their states, and of a process with 2000 of them (Linux)."""
    sizes = {side: sum(v.nbytes for v in codec.network.initial_state(side).values()) for side in ("encoder", "decoder")}
    held = child(MEMORY, str(codec.network.folder)) if Path("/proc/self/status").exists() else {"process": float("nan")}
    return {**{f"{side}_state": size for side, size in sizes.items()}, **held}


# -- report --------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--also", action="append", default=[], help="another model folder to measure in the same rounds")
    parser.add_argument("--streams", default="1,8,64,256")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lyra", help="folder of Lyra v2's .tflite files")
    parser.add_argument("--profile", action="store_true", help="also what the nodes of each graph take")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, sizes = Console(width=140), [int(part) for part in options.streams.split(",")]
    names = [options.model, *options.also]
    codecs = {Path(name).name: spectokenizer.load(name) for name in names}
    codec = codecs[Path(options.model).name]

    cases: list[Case] = []
    for name, each in codecs.items():
        for size in sizes:
            cases.append(in_place(each, size, name))
            cases += [batched(each, size, name)] if size > 1 else [by_value(each, size, name), streamed(each, name)]
    absent = []
    for peer in (lambda: lyra(options.lyra or ""), lambda: opus(6000), lambda: opus(12000)):
        try:
            cases.append(peer())
        except (ImportError, OSError) as error:
            absent.append(str(error))
    first, how = multiply_adds()
    rates = [first]
    graphs = [profile(codec, side, 1, frames) for frames in (1, 50) for side in ("encoder", "decoder")]
    macs = sum(graph["macs"] for graph in graphs[:2])
    found: dict[tuple[str, int], list[Timed]] = {}
    offline: dict[str, list[tuple[float, float]]] = {name: [] for name in codecs}
    starts: dict[str, list[dict[str, float]]] = {}
    speech = soundfile.read(EXAMPLE, dtype="float32")[0][: FRAMES * FRAME]
    for turn in track(range(options.rounds), description="rounds", console=Console(stderr=True)):
        rates.append(multiply_adds()[0])
        for kind in SIGNALS:
            for i, case in enumerate(cases):
                count = max(4, min(60, 240 // case.streams))
                found.setdefault((kind, i), []).extend(calls(case, speech, turn * count, count, kind == "silence"))
        for name, each in codecs.items():
            start, clock = time.perf_counter(), time.thread_time()
            each.decode(each.encode(speech, 16000, each.info.bitrates[-1]))
            offline[name].append((time.perf_counter() - start, time.thread_time() - clock))
        starts.setdefault("SpecTokenizer", []).append(child(OURS, str(codec.network.folder)))
        if options.lyra and not any("tflite" in line for line in absent):
            starts.setdefault("Lyra v2", []).append(child(LYRAS, options.lyra, *baselines.LYRA_FILES))
    rate = statistics.median(rates)
    limit = 1e6 * macs / rate
    results = [{"signal": kind, **summary(cases[i], timed)} for (kind, i), timed in found.items()]

    for kind in SIGNALS:
        table = Table(
            "",
            "streams",
            "encode p50",
            "p99",
            "decode p50",
            "p99",
            "cpu, both",
            "× limit",
            "per core",
            "in time",
            title=f"{kind}: µs per frame",
        )
        for row in (r for r in results if r["signal"] == kind):
            e, d, cpu = row["encode"], row["decode"], row["cpu_us_per_frame"]
            ours = any(row["case"].startswith(name) for name in codecs)
            cells = [row["case"], row["streams"], *(f"{x:.0f}" for x in (e["wall_p50"], e["wall_p99"], d["wall_p50"], d["wall_p99"], cpu))]
            table.add_row(*map(str, cells), f"{cpu / limit:.1f}" if ours else "", f"{row['streams_per_core']:.0f}", f"{row['in_time']:.0%}")
        console.print(table)
    for line in absent:
        console.print(f"left out: {line}")
    console.print(
        f"{platform.machine()}, one thread; {rate / 1e9:.1f} G multiply-adds/s ({how}); a frame takes {macs / 1e6:.2f} M of them in the "
        f"graphs ({codec.info.macs_per_second / codec.info.frame_rate / 1e6:.2f} M in the published architecture): {limit:.0f} µs, "
        f"{DEADLINE_US / limit:.0f} streams per core at the limit"
    )
    seconds = FRAMES / 50
    for name, times in offline.items():
        wall, cpu = (statistics.median(values) for values in zip(*times, strict=True))
        console.print(f"offline, {name}: encode and decode {seconds / wall:.1f} × real time ({seconds / cpu:.1f} × by cpu time)")
    medians = {name: {mark: statistics.median(run[mark] for run in runs) for mark in runs[0]} for name, runs in starts.items()}
    for name, marks in medians.items():
        console.print(f"start-up, {name}: " + ", ".join(f"{mark} {1000 * at:.0f} ms" for mark, at in marks.items()))
    held = memory(codec)
    console.print(
        f"memory per stream: encoder state {held['encoder_state']:.0f} bytes, decoder state {held['decoder_state']:.0f}; "
        f"in the process {held['process'] / 1000:.0f} kB for both"
    )
    if options.profile:
        graphs += [profile(codec, side, batch) for batch in (8, 64) for side in ("encoder", "decoder")]
        for graph in graphs:
            table = Table(
                "kind",
                "nodes",
                "µs",
                title=f"{graph['graph']}, {graph['streams']} streams: {graph['nodes']} nodes, with the profiler's own time",
            )
            for kind, entry in graph["kinds"].items():
                table.add_row(kind, str(entry["nodes"]), f"{entry['us']:.0f}")
            console.print(table)
    if options.json:
        report = {
            "machine": platform.machine(),
            "multiply_adds_per_second": rate,
            "macs_per_frame": macs,
            "limit_us": limit,
            "results": results,
            "offline_seconds": offline,
            "audio_seconds": seconds,
            "start_up": medians,
            "memory": held,
            "graphs": graphs,
            "absent": absent,
        }
        options.json.write_text(json.dumps(report, indent=1, default=float) + "\n")


if __name__ == "__main__":
    main()
