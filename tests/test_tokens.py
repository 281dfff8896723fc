"""Codes as token ids: every order there and back, and whatever a language model writes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import spectokenizer
from spectokenizer import CodesError, ConfigError, Vocabulary
from spectokenizer.corpus import codes_to_chars

CODE_TYPES = (np.int16, np.uint16, np.int32, np.int64, np.uint64)


@st.composite
def cases(draw: st.DrawFn, max_books: int = 12) -> tuple[Vocabulary, np.ndarray]:
    """A vocabulary and codes [K', T] with K' up to its codebooks."""
    books, size = draw(st.integers(1, max_books)), draw(st.sampled_from([1, 2, 64, 1000, 1024, 32768]))
    vocabulary = Vocabulary(books, size, offset=draw(st.sampled_from([0, 1, 32000, 65530, 2**20])))
    shape = st.tuples(st.integers(1, books), st.integers(0, 20))
    elements = st.one_of(st.integers(0, size - 1), st.sampled_from([0, size - 1]))  # the largest in each type's trap
    return vocabulary, draw(hnp.arrays(draw(st.sampled_from(CODE_TYPES)), shape, elements=elements))


@given(cases(), st.booleans(), st.booleans())
def test_flat_and_delay_go_back(case: tuple[Vocabulary, np.ndarray], bos: bool, eos: bool) -> None:
    vocabulary, codes = case
    k, t = codes.shape
    for pattern, shape in (("flat", (k * t + bos + eos,)), ("delay", (k, t + k - 1 + bos + eos))):
        tokens = vocabulary.encode(codes, pattern, bos, eos)
        assert tokens.shape == shape and tokens.dtype == np.int64
        assert ((tokens >= vocabulary.offset) & (tokens < vocabulary.end)).all()
        for kind in (np.int64, np.int32, np.uint32):
            back = vocabulary.decode(tokens.astype(kind), num_codebooks=k, strict=True)
            assert back.dtype == np.int16
            np.testing.assert_array_equal(back, codes)


@given(cases(max_books=1))
def test_single_is_flat_of_one_codebook(case: tuple[Vocabulary, np.ndarray]) -> None:
    vocabulary, codes = case
    tokens = vocabulary.encode(codes, "single")
    np.testing.assert_array_equal(tokens, codes[0].astype(np.int64) + vocabulary.offset + 3)
    np.testing.assert_array_equal(vocabulary.encode(codes[0], "single"), tokens)
    np.testing.assert_array_equal(vocabulary.decode(tokens, "single", strict=True), codes)
    np.testing.assert_array_equal(vocabulary.encode(codes, "delay")[0], tokens)


@given(cases(), st.data())
def test_whatever_a_model_writes(case: tuple[Vocabulary, np.ndarray], data: st.DataObject) -> None:
    """Without `strict` any ids are codes; with it they are codes that encode to these ids, or an error."""
    vocabulary, codes = case
    k = len(codes)
    pattern = data.draw(st.sampled_from(["flat", "delay"]))
    tokens = vocabulary.encode(codes, pattern).copy()
    wild = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(vocabulary.offset - 2, vocabulary.end + 2))
    for _ in range(data.draw(st.integers(1, 5))):
        if tokens.size:
            tokens[tuple(data.draw(st.integers(0, n - 1)) for n in tokens.shape)] = data.draw(wild)
    tokens = tokens[..., : data.draw(st.integers(0, tokens.shape[-1]))]
    back = vocabulary.decode(tokens, num_codebooks=k)
    assert back.shape[0] == k and ((back >= 0) & (back < vocabulary.codebook_size)).all()
    try:
        strict = vocabulary.decode(tokens, num_codebooks=k, strict=True)
    except CodesError:
        return
    np.testing.assert_array_equal(strict, back)
    again = vocabulary.encode(back, pattern)
    if not np.isin(tokens, [vocabulary.id(name) for name in ("bos", "eos", *(["pad"] if pattern == "flat" else []))]).any():
        np.testing.assert_array_equal(again, tokens)


def test_by_hand() -> None:
    vocabulary = Vocabulary(2, 10)
    assert (vocabulary.size, vocabulary.end, vocabulary.first_code) == (23, 23, 3)
    assert vocabulary.ranges == (range(3, 13), range(13, 23))
    assert [vocabulary.id(name) for name in ("pad", "bos", "eos")] == [0, 1, 2]
    codes = [[0, 1, 2], [7, 8, 9]]
    assert vocabulary.encode(codes, bos=True, eos=True).tolist() == [1, 3, 20, 4, 21, 5, 22, 2]
    assert vocabulary.encode(codes, "delay").tolist() == [[3, 4, 5, 0], [0, 20, 21, 22]]
    assert vocabulary.encode(codes, "delay", eos=True)[:, -1].tolist() == [2, 2]
    text = Vocabulary(2, 10, offset=50000)  # behind the vocabulary of a text model
    assert text.encode(codes, eos=True).tolist() == [50003, 50020, 50004, 50021, 50005, 50022, 50002]
    assert (text.size, text.end) == (23, 50023)
    assert vocabulary.name(20) == "code 7 of codebook 1" and vocabulary.name(1) == "bos" and "no token" in vocabulary.name(23)


def test_slips() -> None:
    vocabulary = Vocabulary(2, 10)
    assert vocabulary.decode([]).shape == (2, 0) and vocabulary.decode(np.zeros((2, 0), int)).shape == (2, 0)
    assert vocabulary.decode([1, 20, 3, 4, 20, 99, -1, 5, 0, 21, 6, 2, 3, 20]).tolist() == [[0, 2], [7, 8]]
    assert vocabulary.decode([[1, 3, 4, 2, 5], [1, 0, 20, 2, 21]]).tolist() == [[0], [7]]  # what follows eos is no frame
    assert vocabulary.decode([[3, 4, 5, 0], [0, 20, 3, 22]]).tolist() == [[0, 2], [7, 9]]  # frame 1's second code is no code
    for tokens, message in [
        ([3, 4], r"token 4 at 1 is code 1 of codebook 0; codebook 1 comes next"),
        ([1, 3, 99], r"token 99 at 2 is no token of this vocabulary"),
        ([3, 20, 4], r"the last frame has 1 of 2"),
        ([[1, 3, 4, 0], [1, 0, 20, 4]], r"row 1, column 3 holds code 1 of codebook 0; codebook 1 belongs there"),
        ([[3, 4, 5], [0, 20, 21]], r"row 0, column 2 holds code 2 of codebook 0; pad belongs there"),
    ]:
        vocabulary.decode(tokens)
        with pytest.raises(CodesError, match=message):
            vocabulary.decode(tokens, strict=True)


def test_mistakes() -> None:
    vocabulary = Vocabulary(2, 10)
    for codes, pattern, message in [
        ([[10], [0]], "flat", "0 to 9"),
        ([[0], [-1]], "delay", "0 to 9"),
        ([[0.0], [1.0]], "flat", "integers"),
        (np.zeros((3, 1), int), "flat", "1 to 2"),
        (np.zeros((2, 1), int), "single", r"np\.asarray\(codes\)\[:1\]"),
        (np.zeros((1, 2, 1), int), "flat", "frames"),
        (np.array([[32768], [0]], np.uint16), "flat", "0 to 9"),
    ]:
        with pytest.raises(CodesError, match=message):
            vocabulary.encode(codes, pattern)
    for tokens, options, message in [
        ([1.5], {}, "integers"),
        ([[1], [2, 3]], {}, "no array"),
        ([3, 20], {"pattern": "delay"}, "codebooks, N"),
        ([[3], [20]], {"pattern": "flat"}, "\\[N\\]"),
        ([3], {"num_codebooks": 3}, "has 2"),
        ([[3], [13], [13]], {}, "has 2"),
        ([[3], [13]], {"num_codebooks": 1}, "asked"),
    ]:
        with pytest.raises(CodesError, match=message):
            vocabulary.decode(tokens, **options)
    for settings in (
        {"num_codebooks": 0},
        {"num_codebooks": 1.0},
        {"codebook_size": 32769},
        {"specials": "pad"},
        {"specials": ("a", "a")},
        {"offset": -1},
        {"offset": 2**31},
    ):
        with pytest.raises(ConfigError):
            Vocabulary(**settings)
    with pytest.raises(ConfigError, match="known are"):
        vocabulary.encode([[0]], "parallel")
    with pytest.raises(ConfigError, match="no 'mask'; its specials are pad, bos, eos"):
        vocabulary.id("mask")
    with pytest.raises(ConfigError, match="no 'pad'"):
        Vocabulary(2, 10, ("bos",)).encode([[0], [1]], "delay")


@given(cases())
def test_codec_bpe_s_characters_are_a_vocabulary(case: tuple[Vocabulary, np.ndarray]) -> None:
    size, codes = case[0].codebook_size, case[1]
    plain = Vocabulary(len(codes), size, (), 0xE000)
    assert [ord(character) for character in codes_to_chars(codes, size, 0xE000)] == plain.encode(codes).tolist()


@given(cases())
def test_json(case: tuple[Vocabulary, np.ndarray]) -> None:
    assert Vocabulary.from_json(case[0].to_json()) == case[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"num_codebooks": 1, "codebook_size": 2, "specials": "pad", "offset": 0}'])
def test_json_that_is_none(text: str) -> None:
    with pytest.raises(ConfigError, match=r"vocabulary|specials"):
        Vocabulary.from_json(text)


def test_codes_of_a_codec(codec: spectokenizer.Codec, speech: np.ndarray) -> None:
    info = codec.info
    vocabulary = Vocabulary(info.num_codebooks, info.codebook_size)
    codes = codec.encode(speech, 16000, info.bitrates[1])  # two codebooks of a vocabulary for all
    for pattern in ("flat", "delay"):
        back = vocabulary.decode(vocabulary.encode(codes, pattern, bos=True, eos=True), num_codebooks=2)
        np.testing.assert_array_equal(codec.decode(back, codes.num_samples), codec.decode(codes))
