"""The range coder and its tables: whole, damaged, forged, and beside constriction."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectokenizer.bitstream import crc32c
from spectokenizer.bitstream.entropy import _POWERS, MAX_BODY, OCTAVES, STEPS, Entropy, Source, Table, _shortest
from spectokenizer.errors import CodesError, ConfigError, CorruptedError, ModelError


def random_table(rng: np.random.Generator, k: int, size: int, sharpness: int = 30) -> Table:
    """A table of codebook `k` with up to four sources; a large `sharpness` makes one code all but certain."""
    possible = [(0, j) for j in range(k)] + [(1, j) for j in range(k + 1)]
    chosen = rng.permutation(len(possible))[: rng.integers(0, 5)]
    rank = int(rng.integers(0, 9))
    return Table(
        tuple(Source(*possible[i]) for i in chosen),
        int(rng.integers(0, 5)),
        rng.integers(-20 * sharpness, 20 * sharpness + 1, size).astype(np.int16),
        rng.integers(-min(sharpness, 128), min(sharpness, 127) + 1, (rank, size)).astype(np.int8),
        rng.integers(-min(sharpness, 128), min(sharpness, 127) + 1, (len(chosen), size + 1, rank)).astype(np.int8),
    )


def random_entropy(seed: int, num_codebooks: int = 12, bits: int = 10, sharpness: int = 30) -> Entropy:
    rng = np.random.default_rng(seed)
    return Entropy([random_table(rng, k, 1 << bits, sharpness) for k in range(num_codebooks)], bits)


def frequencies(entropy: Entropy, codes: npt.NDArray[np.integer[Any]]) -> list[list[list[int]]]:
    """Of all codes, per frame and codebook: docs/entropy.md said plainly, in Python's own numbers."""
    absent, out = 1 << entropy.bits_per_code, []
    for t in range(codes.shape[1]):
        frame = []
        for table in entropy.tables[: len(codes)]:
            known = [int(codes[j, t - lag]) if t >= lag else absent for lag, j in table.sources]
            h = [sum(int(table.vectors[i, code, d]) for i, code in enumerate(known)) for d in range(table.rank)]
            scores = [int(b) for b in table.bias]
            for d, x in enumerate(h):
                scores = [score + x * int(w) for score, w in zip(scores, table.weights[d], strict=True)]
            scores = [score >> table.shift for score in scores]
            floor = max(scores) - STEPS * OCTAVES
            frame.append([int(_POWERS[max(score - floor, 0)]) for score in scores])
        out.append(frame)
    return out


@pytest.fixture(scope="module")
def entropy() -> Entropy:
    return random_entropy(0)


# -- round trips ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 12),
    st.one_of(st.integers(0, 60), st.sampled_from([0, 1, 255])),
    st.integers(1, 10),
    st.sampled_from([0, 1, 30, 127, 1600]),
    st.sampled_from(["any", "one", "ends"]),
)
def test_round_trip(seed: int, num_codebooks: int, num_frames: int, bits: int, sharpness: int, kind: str) -> None:
    entropy = random_entropy(seed, num_codebooks, bits, sharpness)
    rng = np.random.default_rng(seed)
    used = int(rng.integers(1, num_codebooks + 1))
    codes = {
        "any": rng.integers(0, 1 << bits, (used, num_frames)),
        "one": np.full((used, num_frames), rng.integers(0, 1 << bits)),
        "ends": rng.choice([0, (1 << bits) - 1], (used, num_frames)),
    }[kind]
    data = entropy.encode(codes)
    back = entropy.decode(data, used, num_frames)
    assert back.dtype == np.int16 and back.flags.c_contiguous
    np.testing.assert_array_equal(back, codes)
    assert Entropy.from_bytes(entropy.to_bytes()).encode(codes) == data


def test_a_packet_does_not_know_the_one_before(entropy: Entropy) -> None:
    codes = np.random.default_rng(1).integers(0, 1024, (8, 60))
    apart = [entropy.encode(codes[:, :30]), entropy.encode(codes[:, 30:])]
    np.testing.assert_array_equal(np.concatenate([entropy.decode(data, 8, 30) for data in apart], 1), codes)
    assert apart == [entropy.encode(codes[:, :30]), entropy.encode(codes[:, 30:])]


def test_the_largest_codebooks() -> None:
    entropy = random_entropy(3, 2, 15, 127)
    codes = np.random.default_rng(0).integers(0, 1 << 15, (2, 5))
    np.testing.assert_array_equal(entropy.decode(entropy.encode(codes), 2, 5), codes)


def test_powers_are_exact() -> None:
    assert _POWERS[0] == _POWERS[31] == 1 and _POWERS[32] == 2 and _POWERS[-1] == 1 << OCTAVES
    for i, power in enumerate(_POWERS.tolist()):
        assert power**STEPS <= 1 << i < (power + 1) ** STEPS


@settings(max_examples=200)
@given(st.integers(1, 12), st.data())
def test_shortest_is_shortest(size: int, data: st.DataObject) -> None:
    low = data.draw(st.integers(0, 256**size - 1))
    span = data.draw(st.one_of(st.integers(1, 256**size - low), st.integers(1, min(70000, 256**size - low))))
    found = _shortest(low, span, size)
    assert low <= int.from_bytes(found.ljust(size, b"\0"), "big") < low + span
    if found:
        unit = 256 ** (size - len(found) + 1)  # one byte less could only name multiples of this
        assert -(-low // unit) * unit >= low + span


# -- the length --------------------------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 40), st.sampled_from([1, 30, 127]))
def test_length_is_that_of_the_documented_frequencies(seed: int, num_codebooks: int, num_frames: int, sharpness: int) -> None:
    entropy = random_entropy(seed, num_codebooks, 6, sharpness)
    codes = np.random.default_rng(seed).integers(0, 64, (num_codebooks, num_frames))
    ideal = 0.0
    for t, frame in enumerate(frequencies(entropy, codes)):
        for k, row in enumerate(frame):
            ideal -= np.log2(row[codes[k, t]] / sum(row))
    # Zeros at the end are left out, so a lucky packet is a little shorter than its share of the interval.
    assert ideal / 8 - 2 <= len(entropy.encode(codes)) <= ideal / 8 + 1.01


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1), st.integers(3, 4), st.integers(150, 255))
def test_beside_constriction(seed: int, num_codebooks: int, num_frames: int) -> None:
    """Of large packets: constriction counts its last word of 32 bits as full or as empty, which in small ones would be most of them."""
    constriction = pytest.importorskip("constriction")
    entropy = random_entropy(seed, num_codebooks, 6)
    codes = np.random.default_rng(seed).integers(0, 64, (num_codebooks, num_frames))
    rows = np.array(frequencies(entropy, codes), np.float64).reshape(-1, 64)  # frame after frame
    coder, model = constriction.stream.stack.AnsCoder(), constriction.stream.model.Categorical(perfect=False)
    coder.encode_reverse(codes.T.ravel().astype(np.int32), model, rows / rows.sum(1, keepdims=True))
    assert abs(8 * len(entropy.encode(codes)) - coder.num_valid_bits()) <= 16 + 0.01 * coder.num_valid_bits()


# -- mistakes and damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "codes",
    [np.zeros((13, 2), int), np.zeros((0, 2), int), np.zeros((1, 256), int), [[1024]], [[-1]], [[0.5]], [1, 2]],
    ids=["codebooks", "no codebook", "frames", "too large", "negative", "float", "one dimension"],
)
def test_bad_codes_are_named(entropy: Entropy, codes: Any) -> None:
    with pytest.raises(CodesError):
        entropy.encode(codes)


@pytest.mark.parametrize(("num_codebooks", "num_frames"), [(0, 1), (13, 1), (1, -1), (1, 256)])
def test_impossible_sizes_are_named(entropy: Entropy, num_codebooks: int, num_frames: int) -> None:
    with pytest.raises(CorruptedError, match="1 to 12 codebooks"):
        entropy.decode(b"", num_codebooks, num_frames)


@settings(max_examples=60)
@given(st.binary(max_size=40), st.integers(1, 12), st.integers(0, 4), st.sampled_from([1, 30, 1600]))
def test_any_bytes_are_codes_or_named(data: bytes, num_codebooks: int, num_frames: int, sharpness: int) -> None:
    """What is accepted is exactly what `encode` makes: no two byte strings stand for the same codes."""
    entropy = random_entropy(sharpness, 12, 5, sharpness)
    try:
        codes = entropy.decode(data, num_codebooks, num_frames)
    except CorruptedError:
        return
    assert codes.shape == (num_codebooks, num_frames) and (num_frames == 0 or 0 <= codes.min() <= codes.max() < 32)
    assert entropy.encode(codes) == data


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.data())
def test_damage_is_named_or_gives_codes(entropy: Entropy, seed: int, draw: st.DataObject) -> None:
    codes = np.random.default_rng(seed).integers(0, 1024, (4, 10))
    data = bytearray(entropy.encode(codes))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] ^= draw.draw(st.integers(1, 255))
    cut = draw.draw(st.integers(0, len(data)))
    for damaged in (bytes(data), bytes(data[:cut])):
        try:
            back = entropy.decode(damaged, 4, 10)
        except CorruptedError:
            continue
        assert back.shape == (4, 10) and 0 <= back.min() <= back.max() < 1024


def test_bytes_too_many_are_named(entropy: Entropy) -> None:
    codes = np.random.default_rng(0).integers(0, 1024, (3, 7))
    data = entropy.encode(codes)
    for more in (b"\0", b"\1", bytes(100), bytes(10**6)):
        with pytest.raises(CorruptedError):
            entropy.decode(data + more, 3, 7)
    assert entropy.encode(np.zeros((5, 0), int)) == b""
    with pytest.raises(CorruptedError):
        entropy.decode(b"\0", 5, 0)


# -- the file ------------------------------------------------------------------------------------------------------------------


def test_file_round_trip(entropy: Entropy, tmp_path: Path) -> None:
    entropy.save(tmp_path / "entropy.bin")
    for path in (tmp_path / "entropy.bin", tmp_path):
        back = Entropy.load(path)
        assert back.hash == entropy.hash and len(back.hash) == 8
        assert back.to_bytes() == entropy.to_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["entropy.bin"]


def test_the_hash_is_of_the_tables() -> None:
    one = random_entropy(5, 2, 4)
    table = one.tables[1]
    bias = table.bias.copy()
    bias[3] += 1
    other = Entropy([one.tables[0], Table(table.sources, table.shift, bias, table.weights, table.vectors)], 4)
    assert one.hash != other.hash
    assert one.hash == random_entropy(5, 2, 4).hash


def test_missing_tables_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="spectok tables"):
        Entropy.load(tmp_path)


@settings(max_examples=60)
@given(st.data())
def test_damaged_files_are_named(draw: st.DataObject) -> None:
    data = bytearray(random_entropy(7, 3, 4).to_bytes())
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    with pytest.raises(ModelError):
        Entropy.from_bytes(bytes(data))
    with pytest.raises(ModelError):
        Entropy.from_bytes(bytes(data[:at]))


def sealed(record: bytes) -> bytes:
    return record + crc32c(record).to_bytes(4, "little")


@settings(max_examples=100)
@given(st.data())
def test_forged_files_are_named_or_work(draw: st.DataObject) -> None:
    """The checksum right, the contents anything."""
    record = bytearray(random_entropy(8, 3, 4).to_bytes()[:-4])
    for _ in range(draw.draw(st.integers(1, 3))):
        record[draw.draw(st.integers(4, min(30, len(record) - 1)))] = draw.draw(st.integers(0, 255))
    try:
        entropy = Entropy.from_bytes(sealed(bytes(record)))
    except ModelError:
        return
    codes = np.zeros((entropy.num_codebooks, 2), int)
    np.testing.assert_array_equal(entropy.decode(entropy.encode(codes), *codes.shape), codes)


def test_forged_sizes_do_not_fill_the_memory() -> None:
    head = b"\x89STE" + bytes([1, 15, 32]) + bytes([32, 0, 4, *[1, 0] * 4]) * 32  # would be 180 MB
    with pytest.raises(ModelError, match="bytes of tables"):
        Entropy.from_bytes(sealed(head + zlib.compress(b"")))
    small = b"\x89STE" + bytes([1, 4, 1, 0, 0, 0])  # 32 bytes of bias
    for body in (
        zlib.compress(bytes(10**7)),
        zlib.compress(bytes(31)),
        zlib.compress(bytes(32))[:-1],
        zlib.compress(bytes(32)) + b"x",
        b"",
    ):
        with pytest.raises(ModelError, match="impossible"):
            Entropy.from_bytes(sealed(small + body))
    assert Entropy.from_bytes(sealed(small + zlib.compress(bytes(32)))).num_codebooks == 1
    with pytest.raises(ModelError, match="upgrade"):
        Entropy.from_bytes(b"\x89STE\x02" + bytes(20))
    assert MAX_BODY < 1 << 25


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sources": (Source(0, 1),)}, "sources of codebooks before it"),
        ({"sources": (Source(1, 2),)}, "sources of codebooks before it"),
        ({"sources": (Source(2, 0),)}, "sources of codebooks before it"),
        ({"shift": 9}, "shift up to 8"),
        ({"bias": np.zeros(15, np.int16)}, "fitting shapes"),
        ({"bias": np.zeros(16, np.int64)}, "int16 bias"),
        ({"vectors": np.zeros((1, 16, 2), np.int8)}, "fitting shapes"),
    ],
)
def test_tables_that_cannot_work_are_named(change: dict[str, Any], message: str) -> None:
    first = Table((), 0, np.zeros(16, np.int16), np.zeros((0, 16), np.int8), np.zeros((0, 17, 0), np.int8))
    values = {"sources": (Source(0, 0),), "shift": 0, "bias": first.bias, "weights": np.zeros((2, 16), np.int8)}
    values |= {"vectors": np.zeros((1, 17, 2), np.int8)}
    assert Entropy([first, Table(**values)], 4).num_codebooks == 2  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=message):
        Entropy([first, Table(**values | change)], 4)
