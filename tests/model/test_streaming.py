"""Any split into calls gives what one call gives."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

FRAMES = 24

splits = st.lists(st.integers(1, 8), min_size=1, max_size=FRAMES)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pieces(x: Any, sizes: list[int], axis: int, per_frame: int) -> Any:
    """`x` cut into as many frames as `sizes` say, the last piece taking the rest."""
    cuts, total = [], 0
    for size in sizes:
        total += size
        if total >= FRAMES:
            break
        cuts.append(total * per_frame)
    return torch.tensor_split(x, cuts, axis)


@given(sizes=splits, batch=st.integers(1, 3), seed=st.integers(0, 1000))
def test_encoder(tiny_model: Any, sizes: list[int], batch: int, seed: int) -> None:
    audio = 0.1 * torch.randn(batch, FRAMES * tiny_model.config.frame_size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        whole, end = tiny_model.encoder(audio, tiny_model.encoder.initial_state(batch))
        state, latents = tiny_model.encoder.initial_state(batch), []
        for part in pieces(audio, sizes, 1, tiny_model.config.frame_size):
            z, state = tiny_model.encoder(part, state)
            latents.append(z)
    assert whole.shape == (FRAMES, batch, 1, tiny_model.config.latent_dim)
    torch.testing.assert_close(torch.cat(latents), whole, atol=1e-5, rtol=1e-5)
    for name, value in end.items():
        torch.testing.assert_close(state[name], value, atol=1e-5, rtol=1e-5)


@given(sizes=splits, batch=st.integers(1, 3), seed=st.integers(0, 1000))
def test_decoder(tiny_model: Any, sizes: list[int], batch: int, seed: int) -> None:
    config = tiny_model.config
    shape = (batch, config.num_codebooks, FRAMES)
    codes = torch.randint(config.codebook_size + 1, shape, generator=torch.Generator().manual_seed(seed))  # some absent
    with torch.no_grad():
        whole, _ = tiny_model.decode(codes)
        state, samples = tiny_model.decoder.initial_state(batch), []
        for part in pieces(codes, sizes, 2, 1):
            audio, state = tiny_model.decode(part, state)
            samples.append(audio)
    assert whole.shape == (batch, FRAMES * config.frame_size)
    torch.testing.assert_close(torch.cat(samples, 1), whole, atol=1e-5, rtol=1e-5)


def test_batch_rows_do_not_see_each_other(tiny_model: Any) -> None:
    audio = 0.1 * torch.randn(3, FRAMES * tiny_model.config.frame_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        together, _ = tiny_model.encoder(audio, tiny_model.encoder.initial_state(3))
        for row in range(3):
            alone, _ = tiny_model.encoder(audio[row : row + 1], tiny_model.encoder.initial_state(1))
            torch.testing.assert_close(together[:, row : row + 1], alone, atol=1e-5, rtol=1e-5)


def test_a_state_is_a_value(tiny_model: Any) -> None:
    """Running on from a state leaves it as it was: it can be used again."""
    audio = 0.1 * torch.randn(1, 4 * tiny_model.config.frame_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        codes, state = tiny_model.encode(audio)
        kept = {name: value.clone() for name, value in state.items()}
        first, _ = tiny_model.encode(audio, state)
        assert all(torch.equal(state[name], kept[name]) for name in kept)
        again, _ = tiny_model.encode(audio, state)
    assert torch.equal(first, again)
    assert codes.shape == first.shape
