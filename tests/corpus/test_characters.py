"""Codes as text, against the package whose mapping it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from spectokenizer import CodesError
from spectokenizer.corpus import Row, chars_to_codes, codes_to_chars, formats

codes = hnp.arrays(np.int16, st.tuples(st.integers(1, 12), st.integers(0, 30)), elements=st.integers(0, 1023))


@given(codes)
def test_round_trip(array: np.ndarray) -> None:
    text = codes_to_chars(array, 1024)
    assert len(text) == array.size and "".join(dict.fromkeys(text[: len(array)])) == text[: len(array)]  # a codebook, a range of its own
    np.testing.assert_array_equal(chars_to_codes(text, len(array), 1024), array)


@given(codes.filter(lambda array: array.size > 0), st.data())
def test_as_codec_bpe_has_it(array: np.ndarray, data: st.DataObject) -> None:
    codec_bpe = pytest.importorskip("codec_bpe", exc_type=ImportError)
    text = codec_bpe.codes_to_chars(array.astype(np.int64), 1024)
    assert codes_to_chars(array, 1024) == text
    np.testing.assert_array_equal(codec_bpe.chars_to_codes(text, len(array), 1024, return_tensors="np"), array)
    drop = data.draw(st.sets(st.integers(len(array), max(len(array), len(text) - 1)), max_size=4))  # a model's slips, after a whole frame
    slips = "".join(c for i, c in enumerate(text) if i not in drop)
    theirs = np.asarray(codec_bpe.chars_to_codes(slips, len(array), 1024), np.int16).reshape(len(array), -1)
    np.testing.assert_array_equal(chars_to_codes(slips, len(array), 1024), theirs)


def test_the_mapping_itself() -> None:
    """Codec-bpe's, written out: from 0x4E00 on, a range of its own for each codebook, frame by frame."""
    assert codes_to_chars([[0, 1], [2, 3]], 1024) == "\u4e00\u5202\u4e01\u5203"
    theirs = {  # what codec-bpe 1.4.1 makes of the codes below, for where it is not installed
        1: "\u4e00\u51e5\u51ca",
        3: "\u4e00\u5373\u58e6\u51e5\u5358\u58cb\u51ca\u533d\u58b0",
        12: "\u4e00\u5373\u58e6\u5a59\u5fcc\u653f\u66b2\u6c25\u7198\u730b\u787e\u7df1\u51e5\u5358\u58cb\u5a3e\u5fb1\u6524\u6697"
        "\u6c0a\u717d\u72f0\u7863\u7dd6\u51ca\u533d\u58b0\u5a23\u5f96\u6509\u667c\u6bef\u7162\u72d5\u7848\u7dbb",
    }
    for codebooks, text in theirs.items():
        assert codes_to_chars((371 * np.arange(codebooks)[:, None] + 997 * np.arange(3)) % 1024, 1024) == text


def test_other_text_is_dropped() -> None:
    assert chars_to_codes("so: " + codes_to_chars([[5], [7]], 1024) + " \ud800!", 2, 1024).tolist() == [[5], [7]]
    assert chars_to_codes("", 3, 1024).shape == (3, 0)


def test_mistakes() -> None:
    with pytest.raises(CodesError, match="0 to 1023"):
        codes_to_chars([[1024]], 1024)
    with pytest.raises(CodesError, match="0xe000"):
        codes_to_chars(np.zeros((2, 1), int), 32768)
    with pytest.raises(CodesError, match="frames"):
        codes_to_chars([1, 2], 1024)
    assert codes_to_chars([[32767], [0]], 32768, 0xE000)


def test_codec_bpe_trains_on_our_files(tmp_path: Path) -> None:
    """Its trainer reads the .npy of a corpus, and what its tokenizer writes goes back to the same codes."""
    trainer = pytest.importorskip("codec_bpe.core.trainer", exc_type=ImportError)
    utils = pytest.importorskip("codec_bpe.core.utils", exc_type=ImportError)
    rng = np.random.default_rng(0)
    phrases = rng.integers(0, 16, (5, 2, 4))
    rows = []
    for i, length in enumerate((30, 0, 12)):
        array = np.concatenate([phrases[j] for j in rng.integers(0, 5, length)] or [np.zeros((2, 0), int)], 1).astype(np.int16)
        rows.append(Row(f"spk/{i}", array, 2, 50.0, max(0, 320 * array.shape[1] - 160), 16000, "", ""))
    formats.write("npy", tmp_path, "train-00000-of-00001", rows)
    (tmp_path / "codes" / "codec_info.json").write_text(json.dumps(formats.codec_info(2, 16, 50.0, 16000, "mini")))
    info = utils.get_codec_info(str(tmp_path / "codes"))
    tokenizer = trainer.Trainer(info["num_codebooks"], info["codebook_size"], info["framerate"], 1, 80, pad_token="<pad>").train(
        str(tmp_path / "codes")
    )
    tokens = tokenizer.encode(codes_to_chars(rows[0].codes, 16))
    assert len(tokens) < rows[0].codes.size / 2  # it found the phrases
    np.testing.assert_array_equal(chars_to_codes(tokenizer.decode(tokens), 2, 16), rows[0].codes)
