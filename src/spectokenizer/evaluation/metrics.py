"""Metrics of coded speech, each with its optional library: what cannot be imported is reported as absent, never guessed.

A metric is a loader, run once per process: it imports the library and returns the function that scores a clip,
`score(reference, degraded, sample_rate, transcript) -> {column: value}`. To add one, decorate a loader with `@metric`.
References are float32 [N] at 16 kHz, the degraded signal as long, in time with them and as loud (`evaluate` sees to that).

Most would not mind the level: PESQ and ViSQOL normalise both signals, SI-SDR and DistillMOS ignore the scale, speaker similarity raises
quiet clips; DNSMOS, PLCMOS and the mel distance hear it.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import math
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import AudioError, ConfigError

Audio = npt.NDArray[np.float32]
Scorer = Callable[[Audio, Audio, int, str | None], dict[str, float]]

SAMPLE_RATE = 16000
SILENCE = 1e-4  # peak below which a clip holds nothing to measure
FRAME_PERIOD_MS = 10.0


class Unmeasurable(Exception):  # noqa: N818 - a verdict on one clip, not a failure
    """This metric says nothing about this clip; the message is the reason."""


class Column(NamedTuple):
    """One figure that a metric reports."""

    name: str
    label: str
    group: str  # the table it stands in
    better: str  # "higher" or "lower"
    digits: int = 2
    weight: str | None = None  # a column by which the mean over clips is weighted, e.g. WER by words
    absolute: bool = False  # the original, too, has a score of its own, short of perfect


class Measurement(NamedTuple):
    values: dict[str, float]  # every column of the metric; NaN where it could not be measured
    reason: str = ""  # why not


@dataclass(frozen=True)
class Metric:
    """A named scorer; `columns` are reported, `extra` are only recorded."""

    name: str
    columns: tuple[Column, ...]
    extra: tuple[str, ...]
    definition: str
    distribution: str | None  # whose version is reported; None for our own
    install: str  # what to tell someone who lacks it
    loader: Callable[[], Scorer]

    @property
    def fields(self) -> tuple[str, ...]:
        return (*(column.name for column in self.columns), *self.extra)

    @property
    def version(self) -> str:
        """Name and version of the library behind the metric; empty for our own."""
        if not self.distribution:
            return ""
        try:
            return f"{self.distribution} {importlib.metadata.version(self.distribution)}"
        except importlib.metadata.PackageNotFoundError:  # a source tree on the path
            return f"{self.distribution} of unknown version"

    def absence(self) -> str:
        """Why the metric cannot be used here and what to install; empty when it works. Imports the library."""
        try:
            scorer(self.name)
        except Exception as error:  # whatever goes wrong in someone else's import, the metric is absent
            return f"{type(error).__name__}: {error}".splitlines()[0] + f" ({self.install})"
        return ""

    def __call__(self, reference: Audio, degraded: Audio, sample_rate: int = SAMPLE_RATE, transcript: str | None = None) -> Measurement:
        """Score one clip. Raises AudioError for signals that do not fit, and what the library's import raises when it is absent."""
        if sample_rate != SAMPLE_RATE:
            raise AudioError(f"metrics work at {SAMPLE_RATE} Hz; got {sample_rate} Hz")
        if reference.ndim != 1 or reference.shape != degraded.shape:
            raise AudioError(f"reference has shape {list(reference.shape)}, degraded {list(degraded.shape)}; give [N] twice")
        if not (np.isfinite(reference).all() and np.isfinite(degraded).all()):
            raise AudioError("audio to measure holds values that are not finite")
        nothing = dict.fromkeys(self.fields, float("nan"))
        if np.abs(reference).max(initial=0) < SILENCE:
            return Measurement(nothing, "the reference is silent")
        score = scorer(self.name)
        try:
            scores = score(reference, degraded, sample_rate, transcript)
            values = nothing | {name: float(value) for name, value in scores.items()}
        except Unmeasurable as error:
            return Measurement(nothing, str(error))
        except Exception as error:  # a library that stumbles over one clip must not end an evaluation of thousands
            return Measurement(nothing, f"{type(error).__name__}: {error}".replace("\n", " "))
        missing = [name for name, value in values.items() if not np.isfinite(value)]
        values = {name: value if np.isfinite(value) else float("nan") for name, value in values.items()}
        return Measurement(values, f"{', '.join(missing)} undefined" if missing else "")


METRICS: dict[str, Metric] = {}


def metric(
    name: str, *columns: Column, definition: str, distribution: str | None = None, install: str = "", extra: tuple[str, ...] = ()
) -> Callable[[Callable[[], Scorer]], Callable[[], Scorer]]:
    """Register a loader under `name`."""

    def register(loader: Callable[[], Scorer]) -> Callable[[], Scorer]:
        METRICS[name] = Metric(name, columns, extra, definition, distribution, install or f"pip install {distribution}", loader)
        return loader

    return register


@functools.cache
def scorer(name: str) -> Scorer:
    """The scoring function, loaded once per process. Raises ImportError and the like when its library is absent."""
    return METRICS[name].loader()


def select(names: str | list[str] = "all") -> tuple[list[Metric], dict[str, str]]:
    """(metrics to use, absent ones with the reason). "all" takes what works here; a metric asked for by name must.

    Raises ConfigError for an unknown name and for a named metric that is absent.
    """
    wanted = list(METRICS) if names == "all" else [names] if isinstance(names, str) else list(dict.fromkeys(names))
    unknown = [name for name in wanted if name not in METRICS]
    if unknown:
        raise ConfigError(f"unknown metrics {', '.join(unknown)}; known are {', '.join(METRICS)}")
    absent = {name: reason for name in wanted if (reason := METRICS[name].absence())}
    if absent and names != "all":
        raise ConfigError("; ".join(f"metric {name} is absent here: {reason}" for name, reason in absent.items()))
    return [METRICS[name] for name in wanted if name not in absent], absent


# -- helpers -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stand_in(name: str, **attributes: Any) -> Iterator[None]:
    """An empty module of that name for as long as one is imported that asks for it without needing it."""
    if name in sys.modules:
        yield
        return
    module = types.ModuleType(name)
    module.__dict__.update(attributes)
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


def pkg_resources() -> contextlib.AbstractContextManager[None]:
    """Packages that look up their own version through it at import; setuptools 81 dropped it."""
    return stand_in("pkg_resources", get_distribution=importlib.metadata.distribution)


@contextlib.contextmanager
def one_torch_thread() -> Iterator[None]:
    """These nets are small: on a busy machine their threads, waiting for each other, made them 3 to 30 times slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.set_num_threads(before)


def per_reference(function: Callable[[Audio], Any]) -> Callable[[Audio], Any]:
    """Cached, because the same reference is asked about once per bitrate."""
    cached = functools.lru_cache(maxsize=8)(lambda samples: function(np.frombuffer(samples, np.float32)))
    return lambda audio: cached(np.ascontiguousarray(audio, np.float32).tobytes())


def words(text: str) -> list[str]:
    """Lower-case words without punctuation; an apostrophe inside a word stays."""
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", text.lower().replace("’", "'"))


def edit_distance(a: list[str], b: list[str]) -> int:
    """Least number of insertions, deletions and substitutions that turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]


# -- signal ------------------------------------------------------------------------------------------------------


# pesq 0.0.4 writes past the end of its arrays at the 51st utterance, and sooner or later takes the process down with it. Utterances
# of 0.2 s, 0.2 s apart, would be that many after 20 s; read speech has one in 2.1 to 2.6 s (LibriSpeech, LibriTTS, VCTK).
PESQ_SECONDS = 40


@metric(
    "pesq_wb",
    Column("pesq_wb", "PESQ-WB", "signal", "higher", 3),
    distribution="pesq",
    definition=f"ITU-T P.862.2 wideband PESQ, MOS-LQO 1 to 4.64, of clips up to {PESQ_SECONDS} s",
)
def _pesq() -> Scorer:
    from pesq import PesqError, pesq

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        if len(reference) > PESQ_SECONDS * sample_rate:
            raise Unmeasurable(f"longer than {PESQ_SECONDS} s: the library has room for 50 utterances and crashes beyond")
        try:
            return {"pesq_wb": pesq(sample_rate, reference, degraded, "wb")}
        except PesqError as error:
            message = error.args[0] if error.args else ""
            raise Unmeasurable(message.decode() if isinstance(message, bytes) else str(message)) from error

    return score


@metric(
    "stoi",
    Column("stoi", "STOI", "signal", "higher", 3),
    distribution="pystoi",
    definition="short-time objective intelligibility, 0 to 1",
)
def _stoi() -> Scorer:
    from pystoi import stoi

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)  # it warns and answers 1e-5 when too little speech is left
            try:
                return {"stoi": stoi(reference, degraded, sample_rate)}
            except RuntimeWarning as warning:
                raise Unmeasurable(str(warning)) from warning

    return score


@metric(
    "visqol",
    Column("visqol", "ViSQOL", "signal", "higher", 3),
    distribution="visqol-python",
    install="pip install visqol-python ai-edge-litert numba",
    definition="ViSQOL 3 in speech mode with the lattice model, MOS-LQO 1 to 5",
)
def _visqol() -> Scorer:
    import numba  # noqa: F401 - without it a clip takes minutes
    from visqol import VisqolApi

    api = VisqolApi()
    api.create(mode="speech", use_lattice_model=True)

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        return {"visqol": api.measure_from_arrays(reference.astype(np.float64), degraded.astype(np.float64), sample_rate).moslqo}

    return score


SI_SDR_CEILING = 100.0  # dB; a perfect copy would be infinite and spoil every mean


@metric(
    "si_sdr",
    Column("si_sdr", "SI-SDR dB", "signal", "higher"),
    definition="scale-invariant signal-to-distortion ratio, 10 log10(|a s|² / |a s - x|²) with a = <x, s>/|s|², "
    f"at most {SI_SDR_CEILING:g} dB",
)
def _si_sdr() -> Scorer:
    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        s, x = reference.astype(np.float64), degraded.astype(np.float64)
        target = (x @ s) / (s @ s) * s
        if not target @ target:
            raise Unmeasurable("the decoded clip is silent or unrelated: minus infinity")
        error = (target - x) @ (target - x)
        ratio = 10 * math.log10(target @ target / error) if error else math.inf
        return {"si_sdr": min(ratio, SI_SDR_CEILING)}

    return score


MEL_WINDOW, MEL_HOP, MEL_BANDS, MEL_FLOOR = 512, 160, 64, 1e-7


@functools.cache
def mel_filters() -> npt.NDArray[np.float64]:
    """Triangles of height 1, evenly spaced on the HTK mel scale from 0 Hz to Nyquist, [bands, bins]."""
    top = 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, MEL_BANDS + 2) / 2595) - 1)
    hz = np.linspace(0, SAMPLE_RATE / 2, MEL_WINDOW // 2 + 1)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters: npt.NDArray[np.float64] = np.maximum(0, np.minimum((hz - low) / (centre - low), (high - hz) / (high - centre)))
    return filters


def spectrum(audio: Audio, window: int, hop: int) -> npt.NDArray[np.complex128]:
    """STFT [frames, bins] with a Hann window; frames are centred on multiples of the hop."""
    padded = np.pad(audio.astype(np.float64), window // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    return np.fft.rfft(frames * hann)


def log_mel(audio: Audio) -> npt.NDArray[np.float64]:
    """log10 of the mel power spectrum, [frames, bands]."""
    power = np.abs(spectrum(audio, MEL_WINDOW, MEL_HOP)) ** 2
    logarithm: npt.NDArray[np.float64] = np.log10(power @ mel_filters().T + MEL_FLOOR)
    return logarithm


@metric(
    "mel_distance",
    Column("mel_l1", "mel L1", "signal", "lower", 3),
    definition=f"mean |Δ log10(mel power + {MEL_FLOOR:g})|, {MEL_BANDS} HTK mel bands, Hann window {MEL_WINDOW}, hop {MEL_HOP}",
)
def _mel_distance() -> Scorer:
    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        return {"mel_l1": float(np.abs(log_mel(reference) - log_mel(degraded)).mean())}

    return score


COHERENCE_WINDOW, COHERENCE_HOP = 512, 128
COHERENCE_BANDS = {"coherence_1k": (0, 1000), "coherence_2k": (1000, 2000), "coherence_4k": (2000, 4000)}  # Hz


@metric(
    "coherence",
    Column("coherence_1k", "coherence 0–1 kHz", "signal", "higher"),
    Column("coherence_2k", "coherence 1–2 kHz", "signal", "higher"),
    Column("coherence_4k", "coherence 2–4 kHz", "signal", "higher"),
    definition="Re Σ S* X / √(Σ|S|² Σ|X|²) over the band's bins and all frames: 1 for its waveform up to a gain, 0 where phase is another; "
    f"Hann window {COHERENCE_WINDOW}, hop {COHERENCE_HOP}",
)
def _coherence() -> Scorer:
    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        s, x = (spectrum(audio, COHERENCE_WINDOW, COHERENCE_HOP) for audio in (reference, degraded))
        values = {}
        for name, edges in COHERENCE_BANDS.items():
            low, high = (round(edge * COHERENCE_WINDOW / sample_rate) for edge in edges)
            a, b = s[:, low:high].ravel(), x[:, low:high].ravel()
            energy = np.linalg.norm(a) * np.linalg.norm(b)
            values[name] = float(np.vdot(a, b).real / energy) if energy else math.nan
        return values

    return score


# -- neural opinion scores, without a reference ---------------------------------------------------------------------


@metric(
    "dnsmos",
    Column("dnsmos_ovrl", "DNSMOS overall", "opinion", "higher", absolute=True),
    Column("dnsmos_sig", "DNSMOS speech", "opinion", "higher", absolute=True),
    Column("dnsmos_bak", "DNSMOS background", "opinion", "higher", absolute=True),
    Column("dnsmos_p808", "DNSMOS P.808", "opinion", "higher", absolute=True),
    distribution="speechmos",
    install="pip install speechmos librosa requests",
    definition="DNSMOS P.835 (overall, speech, background) and P.808 of the decoded clip alone, 1 to 5",
)
def _dnsmos() -> Scorer:
    import onnxruntime
    from speechmos import dnsmos

    folder = os.path.join(os.path.dirname(dnsmos.__file__), "dnsmos_models")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # clips run side by side, in processes
    p835, p808 = (os.path.join(folder, name) for name in ("sig_bak_ovr.onnx", "model_v8.onnx"))
    model = dnsmos.DNSMOS(p835, p808)
    model.onnx_sess = onnxruntime.InferenceSession(p835, options, providers=["CPUExecutionProvider"])
    model.p808_onnx_sess = onnxruntime.InferenceSession(p808, options, providers=["CPUExecutionProvider"])

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        scores = model(np.clip(degraded, -1, 1), sample_rate, False)
        return {f"dnsmos_{name}": scores[f"{name}_mos"] for name in ("sig", "bak", "p808")} | {"dnsmos_ovrl": scores["ovrl_mos"]}

    return score


@metric(
    "plcmos",
    Column("plcmos", "PLCMOS", "opinion", "higher", absolute=True),
    distribution="speechmos",
    install="pip install speechmos librosa requests",
    definition="PLCMOS v2 of the decoded clip alone, 1 to 5: made to judge how lost packets are concealed",
)
def _plcmos() -> Scorer:
    import onnxruntime
    from speechmos import plcmos

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = plcmos.PLCMOS()
    model.session = onnxruntime.InferenceSession(model.model_path, options, providers=["CPUExecutionProvider"])

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        state = np.random.get_state()  # it averages over conditions that it draws there
        np.random.seed(0)
        try:
            return {"plcmos": model.get_mos(np.clip(degraded, -1, 1), sample_rate)}
        finally:
            np.random.set_state(state)

    return score


@metric(
    "distillmos",
    Column("distillmos", "DistillMOS", "opinion", "higher", absolute=True),
    distribution="distillmos",
    # Its torchaudio and transformers are not needed, and heavy.
    install="pip install 'torch<2.14' && pip install --no-deps distillmos xls-r-sqa==0.1.0",
    definition="DistillMOS (distilled XLS-R quality net) of the decoded clip alone, 1 to 5",
)
def _distillmos() -> Scorer:
    import torch

    with stand_in("torchaudio"):  # only its command line loads audio
        import distillmos

    with contextlib.redirect_stdout(io.StringIO()):  # it reports its weights' path
        model = distillmos.ConvTransformerSQAModel().eval()

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        with one_torch_thread():
            return {"distillmos": model(torch.from_numpy(np.array(degraded, np.float32))[None]).item()}

    return score


# -- what a listener takes from speech: who, what, in which tone ------------------------------------------------------


@metric(
    "speaker_similarity",
    Column("speaker_similarity", "speaker similarity", "speech", "higher", 3),
    distribution="resemblyzer",
    install="pip install --no-deps resemblyzer && pip install 'torch<2.14' webrtcvad-wheels librosa",
    definition="cosine between Resemblyzer embeddings of the original and of the decoded clip",
)
def _speaker_similarity() -> Scorer:
    with pkg_resources(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import resemblyzer

    encoder = resemblyzer.VoiceEncoder("cpu", verbose=False)

    def embed(audio: Audio) -> npt.NDArray[np.float32]:
        voiced = resemblyzer.preprocess_wav(np.clip(audio, -1, 1))
        if not len(voiced):
            raise Unmeasurable("no voice activity")
        with one_torch_thread():
            embedding: npt.NDArray[np.float32] = encoder.embed_utterance(voiced)
        return embedding

    embed_reference = per_reference(embed)

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        if np.abs(degraded).max() < SILENCE:
            raise Unmeasurable("the decoded clip is silent")
        return {"speaker_similarity": float(embed_reference(reference) @ embed(degraded))}

    return score


@metric(
    "wer",
    Column("wer", "WER %", "speech", "lower", 1, weight="wer_words", absolute=True),
    extra=("wer_words",),
    distribution="moonshine-voice",
    install="pip install moonshine-voice==0.0.73",
    definition="word error rate of Moonshine tiny (English) against the clip's transcript, or, without one, "
    "against what it hears in the original; errors over words of all clips",
)
def _wer() -> Scorer:
    import moonshine_voice

    # Its voice activity detector keeps state between clips and hears a "You" in their first breath: with it a clip's text
    # depends on the clip before. At threshold 0 everything is speech, and the text a function of the clip.
    options = {"vad_threshold": "0", "vad_max_segment_duration": "30", "identify_speakers": "false"}
    folder = moonshine_voice.get_model_path("tiny-en")
    if not folder.is_dir():
        raise ImportError(f"this moonshine-voice carries no model ({folder.name})")
    recogniser = moonshine_voice.Transcriber(folder, moonshine_voice.ModelArch.TINY, options=options)

    def hear(audio: Audio) -> list[str]:
        lines = recogniser.transcribe_without_streaming(audio.tolist(), SAMPLE_RATE).lines
        return words(" ".join(line.text for line in lines))

    hear_reference = per_reference(hear)

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        expected = words(transcript) if transcript else hear_reference(reference)
        if not expected:
            raise Unmeasurable("no words in the transcript or the original")
        return {"wer": 100 * edit_distance(expected, hear(degraded)) / len(expected), "wer_words": len(expected)}

    return score


@metric(
    "f0",
    Column("voicing_error", "voicing error %", "speech", "lower", 1),
    Column("f0_rmse", "F0 RMSE cents", "speech", "lower", 0),
    distribution="pyworld",
    definition="WORLD (DIO + StoneMask), 10 ms frames: share of frames voiced in one only; F0 RMSE where voiced in both",
)
def _f0() -> Scorer:
    with pkg_resources():
        import pyworld

    # DIO with StoneMask, not Harvest: 25 times faster, and its tracks of a clip and of the same with noise at 50 dB agree
    # (0.7 % voicing error, 10 cents) where Harvest's do not (5 %, 138 cents).
    def track(audio: Audio) -> npt.NDArray[np.float64]:
        samples = audio.astype(np.float64)
        f0, times = pyworld.dio(samples, SAMPLE_RATE, f0_floor=60.0, f0_ceil=500.0, frame_period=FRAME_PERIOD_MS)
        refined: npt.NDArray[np.float64] = pyworld.stonemask(samples, f0, times, SAMPLE_RATE)
        return refined

    track_reference = per_reference(track)

    def score(reference: Audio, degraded: Audio, sample_rate: int, transcript: str | None) -> dict[str, float]:
        a, b = track_reference(reference), track(degraded)
        both = (a > 0) & (b > 0)
        cents = 1200 * np.log2(b[both] / a[both])
        return {
            "voicing_error": 100 * float(np.mean((a > 0) != (b > 0))),
            "f0_rmse": float(np.sqrt(np.mean(cents**2))) if both.any() else float("nan"),
        }

    return score
