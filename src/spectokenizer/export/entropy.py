"""Entropy tables for a model: encode speech, learn which codes follow which, round to whole numbers, measure on what was held out.

    audio ─► codes [K, T] ─► pair counts ─► a softmax over small vectors, per codebook ─► int8 ─► bytes saved per bitrate

A codebook of 1024 has a million pairs with the code before it, and hours of speech have less than a million frames. So what is
learnt is of low rank: log p = bias + h · W with h the sum of one vector per known code, fitted by Adam, first to the pair counts of each
source alone, which takes a second whatever the length of the speech, then to frames with all sources together. Numpy, no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..bitstream import bits
from ..bitstream.entropy import FILE, MAX_RANK, STEPS, Entropy, Source, Table
from ..errors import AudioError, ConfigError
from ..runtime.audio import Audio, blocks, open_audio, resample
from ..runtime.codec import Codec, load
from ..training.data import find_audio

Progress = Callable[[str, float], None]  # (what is being done, share done)
Float = npt.NDArray[np.float32]
Clips = list[npt.NDArray[np.int16]]  # codes [K, T] each

HELD_OUT = 0.08  # of the files
PACKET = 50  # frames
FINE = 8  # from this codebook on only the coarsest tells something
RANKS = (16, 16, 16, 12, 12, 8, 8, 8, 4)  # of codebooks 0, 1, … and of all further ones: fine codes depend on little
LARGEST = 4096  # codes of a codebook: pair counts are one dense array

COUNT_STEPS, FRAME_STEPS, BATCH = 60, 240, 2048
COUNT_RATE, FRAME_RATE = 0.08, 0.01  # of learning, at the start; it falls to nothing
PRIOR = 8.0  # weight decay, in frames: what was seen less often than this is hardly believed
FINEST = 2  # shift: products no finer than 1/4 of a score, which loses nothing that can be measured and packs better
TOGETHER = 0.85  # sources know partly the same: their sum says it twice


@dataclass(frozen=True)
class Saving:
    """Held-out codes of the first `num_codebooks` codebooks, in packets of one second."""

    num_codebooks: int
    plain: int  # bytes, packed
    coded: int  # bytes

    @property
    def share(self) -> float:
        return 1 - self.coded / self.plain


@dataclass(frozen=True)
class Report:
    path: Path
    num_bytes: int  # of the file
    seconds: float  # of audio learnt from
    held_out_seconds: float
    savings: tuple[Saving, ...]
    skipped: tuple[str, ...]  # files that could not be read, and why


def make_tables(
    model: str | Path,
    data: str | Path,
    out: str | Path | None = None,
    *,
    hours: float = 2.0,
    held_out: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Report:
    """Make the tables of `model` from up to `hours` of the audio in `data` and write them to `out` (default: into the model's folder).

    The saving is measured on `held_out`, else on a share of the files that is not learnt from. Raises ConfigError when there is
    no audio or too little, AudioError when none of it can be read, and what `load` raises.
    """
    codec = load(model)
    if codec.info.codebook_size > LARGEST:
        raise ConfigError(f"the codebooks have {codec.info.codebook_size} codes; tables are made for up to {LARGEST}")
    told = progress or (lambda what, share: None)
    paths = [Path(path) for path in find_audio(data)]
    paths = [paths[i] for i in np.random.default_rng(seed).permutation(len(paths))]
    tested = find_audio(held_out) if held_out is not None else paths[: max(1, round(HELD_OUT * len(paths)))]
    learnt = paths if held_out is not None else paths[len(tested) :]
    skipped: list[str] = []
    clips, seconds = encode_clips(codec, learnt, hours, skipped, lambda share: told("encoding", share))
    test, held_out_seconds = encode_clips(
        codec, tested, max(0.2, HELD_OUT * hours), skipped, lambda share: told("encoding held-out", share)
    )
    if not clips or not test:
        raise AudioError(
            f"{data}: too little audio for tables; give at least two readable files, better hours" + "".join(f"\n{s}" for s in skipped)
        )
    entropy = fit(clips, codec.info.codebook_size, seed=seed, progress=lambda share: told("fitting", share))
    savings = measure(entropy, test, lambda share: told("measuring", share))
    path = Path(out) if out is not None else codec.network.folder / FILE
    entropy.save(path)
    return Report(path, path.stat().st_size, seconds, held_out_seconds, savings, tuple(skipped))


# -- speech to codes -------------------------------------------------------------------------------------------------------


def encode_clips(
    codec: Codec, paths: Sequence[Path], hours: float, skipped: list[str], progress: Callable[[float], None]
) -> tuple[Clips, float]:
    """Codes of all codebooks, pieces of up to 30 s each, until there are `hours` of them; and how many seconds that is."""
    rate, limit, done = codec.info.sample_rate, 3600 * hours, 0.0
    clips: Clips = []
    for batch in _batches(_pieces(paths, rate, skipped)):
        clips += [codes.array for codes in codec.encode_batch(batch, rate, codec.info.bitrates[-1])]
        done += sum(map(len, batch)) / rate
        progress(min(1.0, done / limit))
        if done >= limit:
            break
    return [codes for codes in clips if codes.shape[1]], done


def _pieces(paths: Sequence[Path], rate: int, skipped: list[str]) -> Iterator[Audio]:
    for path in paths:
        try:
            with open_audio(path) as file:
                for block in blocks(file, 30.0):
                    yield resample(block, file.samplerate, rate)
        except AudioError as error:
            skipped.append(str(error))


def _batches(pieces: Iterator[Audio], group: int = 48, size: int = 8) -> Iterator[list[Audio]]:
    """Pieces of like lengths together: a batch takes as long as its longest."""
    while held := sorted(islice(pieces, group), key=len):
        yield from (held[i : i + size] for i in range(0, len(held), size))


# -- codes to tables -------------------------------------------------------------------------------------------------------


def sources_of(k: int) -> tuple[Source, ...]:
    """What tells most about codebook `k`: its code one frame before, the coarsest two in this frame. docs/entropy.md has the gains."""
    if k >= FINE:
        return (Source(0, 0),)
    return (Source(1, k), *(Source(0, j) for j in range(min(k, 2))))


def fit(
    clips: Clips,
    size: int,
    ranks: Sequence[int] = RANKS,
    sources: Callable[[int], tuple[Source, ...]] = sources_of,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> Entropy:
    """Tables for codes 0 … size − 1, learnt from clips [K, T] that are all of the same K."""
    codes = np.concatenate(clips, axis=1).astype(np.int64)  # [K, N]
    before = np.concatenate([np.full((len(codes), 1), size), codes[:, :-1]], axis=1)
    before[:, np.cumsum([0, *(clip.shape[1] for clip in clips[:-1])])] = size
    before[:, np.random.default_rng(seed).random(codes.shape[1]) < 2 / PACKET] = size  # as at the start of a packet
    tables = []
    for k in range(len(codes)):
        chosen = sources(k)
        known = np.stack([(before if lag else codes)[j] for lag, j in chosen] or [np.zeros((0, codes.shape[1]), np.int64)])
        rank = min(ranks[min(k, len(ranks) - 1)], size, MAX_RANK) if chosen else 0
        done = (lambda share, k=k: progress((k + share) / len(codes))) if progress else (lambda share: None)
        tables.append(rounded(chosen, *_fit(codes[k], known.reshape(len(chosen), -1), size, rank, seed + k, done)))
    return Entropy(tables, size.bit_length() - 1)


def _fit(
    codes: npt.NDArray[np.int64], known: npt.NDArray[np.int64], size: int, rank: int, seed: int, progress: Callable[[float], None]
) -> tuple[Float, Float, Float]:
    """Bias [S], weights [S, D] and vectors [sources, S + 1, D] of the softmax that foretells `codes` [N] from `known` [sources, N]."""
    rng, frames = np.random.default_rng(seed), len(codes)
    counts = np.bincount(codes, minlength=size).astype(np.float32) + 0.5
    bias = np.log(counts / counts.sum())
    if not len(known) or not rank:
        return bias, np.zeros((size, 0), np.float32), np.zeros((len(known), size + 1, 0), np.float32)

    # Each source alone: one row of counts per known code says all.
    pairs = np.concatenate([np.bincount(row * size + codes, minlength=(size + 1) * size).reshape(-1, size) for row in known]).astype(
        np.float32
    )
    of_row = pairs.sum(1, keepdims=True)
    vectors, weights = _low_rank(pairs, of_row, bias, rank, rng)
    adam = _Adam([bias, weights, vectors], COUNT_RATE, COUNT_STEPS)
    for step in range(COUNT_STEPS):
        bias, weights, vectors = adam.values
        wrong = (of_row * _softmax(vectors @ weights.T + bias) - pairs) / frames
        adam.step([wrong.sum(0), wrong.T @ vectors + weights * (PRIOR / frames), wrong @ weights + vectors * (PRIOR / frames)])
        progress(0.5 * (step + 1) / COUNT_STEPS)

    # All of them together, on frames.
    bias, weights, vectors = adam.values
    vectors = vectors.reshape(len(known), size + 1, rank) * np.float32(TOGETHER if len(known) > 1 else 1)
    if len(known) == 1:
        return bias, weights, vectors
    steps = min(FRAME_STEPS, max(40, 8 * frames // BATCH))
    adam = _Adam([bias, weights, vectors], FRAME_RATE, steps)
    for step in range(steps):
        bias, weights, vectors = adam.values
        some = rng.integers(0, frames, BATCH)
        h = sum(of_source[row[some]] for of_source, row in zip(vectors, known, strict=True))  # [batch, D]
        wrong = _softmax(h @ weights.T + bias)
        wrong[np.arange(BATCH), codes[some]] -= 1
        wrong /= BATCH
        back, slopes = wrong @ weights, vectors * (PRIOR / frames)
        for slope, row in zip(slopes, known, strict=True):
            np.add.at(slope, row[some], back)
        adam.step([wrong.sum(0), wrong.T @ h + weights * (PRIOR / frames), slopes])
        progress(0.5 + 0.5 * (step + 1) / steps)
    bias, weights, vectors = adam.values
    return bias, weights, vectors


def _low_rank(pairs: Float, of_row: Float, bias: Float, rank: int, rng: np.random.Generator) -> tuple[Float, Float]:
    """Vectors [rows, D] and weights [S, D] whose products are about the log of how much likelier than alone each pair is.

    The first singular vectors, by power iteration, of (seen − expected) / √expected; for small deviations that is the logarithm.
    """
    p = np.exp(bias)
    expected = np.sqrt(of_row * p)
    excess = np.divide(pairs, expected, out=np.zeros_like(pairs), where=expected > 0) - expected
    basis = rng.standard_normal((pairs.shape[1], rank)).astype(np.float32)
    for _ in range(6):
        basis = np.linalg.qr(excess.T @ (excess @ basis))[0]
    vectors = excess @ basis / np.sqrt(of_row + 50)  # rare rows near nothing
    weights = basis / np.sqrt(p)[:, None]
    scale = np.sqrt(np.abs(weights).mean() / (np.abs(vectors).mean() + 1e-9))
    return vectors * scale, weights / scale


def _softmax(scores: Float) -> Float:
    scores -= scores.max(1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(1, keepdims=True)
    return scores


class _Adam:
    """Adam (Kingma and Ba, 2015) with a rate that falls linearly to nothing."""

    def __init__(self, values: list[Float], rate: float, steps: int):
        self.values, self._rate, self._steps, self._count = values, rate, steps, 0
        self._mean, self._square = [np.zeros_like(v) for v in values], [np.zeros_like(v) for v in values]

    def step(self, slopes: list[Float]) -> None:
        rate = self._rate * (1 - self._count / self._steps)
        self._count += 1
        for i, slope in enumerate(slopes):
            self._mean[i] += 0.1 * (slope - self._mean[i])
            self._square[i] += 0.02 * (slope**2 - self._square[i])
            mean, square = self._mean[i] / (1 - 0.9**self._count), self._square[i] / (1 - 0.98**self._count)
            self.values[i] = (self.values[i] - rate * mean / (np.sqrt(square) + 1e-8)).astype(np.float32)


def rounded(sources: tuple[Source, ...], bias: Float, weights: Float, vectors: Float) -> Table:
    """The softmax in whole numbers: logarithms in steps of 1/32 octave, finer by `shift` bits where int8 has the room."""
    spread = np.sqrt((np.abs(vectors).max((0, 1), initial=0) + 1e-9) / (np.abs(weights).max(0, initial=0) + 1e-9))  # [D]
    weights, vectors = weights * spread, vectors / spread
    largest = max(np.abs(weights).max(initial=0), np.abs(vectors).max(initial=0), 1e-9)
    shift = next((shift for shift in range(FINEST, 0, -1) if np.sqrt((STEPS << shift) / np.log(2)) * largest < 127.5), 0)
    unit = (STEPS << shift) / np.log(2)
    logs = np.round((bias - bias.max()) * unit)

    def whole(values: Float) -> npt.NDArray[np.int8]:
        return np.clip(np.round(values * np.sqrt(unit)), -127, 127).astype(np.int8)

    return Table(sources, shift, np.maximum(logs, -32768).astype(np.int16), np.ascontiguousarray(whole(weights).T), whole(vectors))


# -- what it saves ---------------------------------------------------------------------------------------------------------


def packets(clips: Clips, num_codebooks: int) -> Iterator[npt.NDArray[np.int16]]:
    """Codes [num_codebooks, ≤ 50] of each second of each clip."""
    for clip in clips:
        for start in range(0, clip.shape[1], PACKET):
            yield clip[:num_codebooks, start : start + PACKET]


def measure(entropy: Entropy, clips: Clips, progress: Callable[[float], None] | None = None) -> tuple[Saving, ...]:
    """Bytes with and without the tables, for each number of codebooks."""
    savings = []
    for used in range(1, entropy.num_codebooks + 1):
        plain = coded = 0
        for codes in packets(clips, used):
            plain += bits.packed_size(*codes.shape, entropy.bits_per_code)
            coded += len(entropy.encode(codes))
        savings.append(Saving(used, plain, coded))
        if progress:
            progress(used / entropy.num_codebooks)
    return tuple(savings)
