"""The step graph run in place does what it does on values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spectokenizer
from spectokenizer import Codec
from spectokenizer.runtime.network import Stepper


def pieces(codec: Codec, side: str, batch: int, frames: int) -> list[np.ndarray]:
    rng, info = np.random.default_rng(batch), codec.info
    if side == "encoder":
        return [(0.1 * rng.standard_normal((batch, info.frame_size))).astype(np.float32) for _ in range(frames)]
    return [rng.integers(0, info.codebook_size + 1, (batch, info.num_codebooks, 1)) for _ in range(frames)]


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("batch", [1, 3])
def test_stepping_in_place_is_bit_for_bit_stepping_by_value(codec: Codec, side: str, batch: int) -> None:
    network = codec.network
    stepper, state = Stepper(network, side, batch), network.initial_state(side, batch)
    kept = []
    for x in pieces(codec, side, batch, 5):  # odd: both sets of buffers have been read and written
        expected, state = getattr(network, side.removesuffix("r"))(x, state)
        kept.append((stepper.step(x), expected))
        assert stepper.state.keys() == state.keys()
        assert all(np.array_equal(stepper.state[name], state[name]) for name in state)
    assert all(np.array_equal(got, expected) for got, expected in kept)  # nothing given out was written to later


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_rows_can_be_carried_in_and_reset(codec: Codec, side: str) -> None:
    network, x = codec.network, pieces(codec, side, 2, 4)
    stepper = Stepper(network, side, 2)
    first = [stepper.step(part) for part in x]
    elsewhere = Stepper(network, side, 2)
    elsewhere.step(x[0])
    elsewhere.step(x[1])
    for name, state in elsewhere.state.items():
        state[0] = 0  # a new stream in row 0; row 1 goes on
        assert state[1].any(), name
    again = [elsewhere.step(np.stack([x[i][0], x[i + 2][1]])) for i in range(2)]
    assert all(np.array_equal(got[0], expected[0]) for got, expected in zip(again, first[:2], strict=True))
    assert all(np.array_equal(got[1], expected[1]) for got, expected in zip(again, first[2:], strict=True))


def test_steppers_share_nothing_but_the_session(codec: Codec) -> None:
    x = pieces(codec, "encoder", 1, 2)
    one, two = (Stepper(codec.network, "encoder") for _ in range(2))
    expected = [one.step(part) for part in x]
    assert not np.array_equal(two.step(x[1]), expected[1])
    two = Stepper(codec.network, "encoder")
    assert all(np.array_equal(two.step(part), other) for part, other in zip(x, expected, strict=True))


def test_the_page_about_the_graphs() -> None:
    """What docs/onnx.md shows is the codec, to the bit."""
    page = (Path(__file__).parents[2] / "docs" / "onnx.md").read_text(encoding="utf-8")
    codec = spectokenizer.load("mini")
    audio = (0.1 * np.random.default_rng(0).standard_normal(20 * 320)).astype(np.float32)
    names: dict[str, Any] = {"folder": codec.network.folder, "audio": audio}
    exec(page.split("```python\n")[1].split("```")[0], names)
    expected = codec.decoder().push(codec.encoder(4000).push(audio))
    np.testing.assert_array_equal(np.concatenate(names["heard"]), expected)
