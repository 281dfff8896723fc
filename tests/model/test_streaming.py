"""Any split into calls gives what one call gives."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from spectokenizer.model.spectokenizer import build  # noqa: E402

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


OTHERS = {
    "fsq": {"quantizer": "fsq", "num_codebooks": 1, "codebook_size": 4096},
    "vq": {"quantizer": "vq", "num_codebooks": 1, "codebook_size": 256},
    "pair": {"quantizer": "pair", "num_codebooks": 1, "codebook_size": 256},
    "unscattered": {"scatter": 8000.0},
    "25 Hz": {"strides": ((1, 4), (1, 4), (2, 4), (2, 4))},
    "batch": {"norm": "batch"},
    "relu": {"activation": "relu"},
    "finest": {"recurrence": "finest"},
    "real": {"complex_stem": False},
    "uncompressed": {"compression": 1},
}


@pytest.mark.parametrize("values", OTHERS.values(), ids=OTHERS)
def test_every_kind_of_codec_streams(tiny_config: Any, values: dict[str, Any]) -> None:
    model = build(replace(tiny_config, **values), seed=1)
    size, generator = model.config.frame_size, torch.Generator().manual_seed(0)
    audio = 0.1 * torch.randn(2, FRAMES * size, generator=generator)
    with torch.no_grad():
        model(audio)  # BatchNorm has seen something
        model.eval()
        z, _ = model.latents(audio, model.encoder.initial_state(2))
        model.quantizer.initialize(z.flatten(0, 2), generator)
        codes, end = model.encode(audio)
        samples, _ = model.decode(codes)
        heard, _, quantized = model(audio)
        state, parts = model.encoder.initial_state(2), []
        for part in pieces(audio, [1, 5, 2, 1], 1, size):
            z_part, state = model.latents(part, state)
            parts.append(z_part)
        after, outputs = model.decoder.initial_state(2), []
        for part in pieces(codes, [3, 1, 1, 7], 2, 1):
            y, after = model.decode(part, after)
            outputs.append(y)
        nothing = model.quantizer.decode(torch.full((3, model.config.num_codebooks), model.config.codebook_size))
    assert codes.shape == (2, model.config.num_codebooks, FRAMES)
    assert torch.equal(quantized.codes.unflatten(0, (FRAMES, 2)).permute(1, 2, 0), codes)
    torch.testing.assert_close(heard, samples[:, model.config.delay_samples :], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(parts), z, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(outputs, 1), samples, atol=1e-5, rtol=1e-5)
    assert all(torch.allclose(state[name], end[name], atol=1e-5) for name in end)
    assert not nothing.any()


def test_frozen_statistics_stay(tiny_config: Any) -> None:
    model = build(replace(tiny_config, norm="batch"))
    model.freeze_encoder()
    model(torch.randn(1, 4 * tiny_config.frame_size))
    assert not model.encoder["rnn0"].norm.running_mean.any()
    assert model.decoder["rnn0"].norm.running_mean.any()
    model.freeze_encoder(False)
    model(torch.randn(1, 4 * tiny_config.frame_size))
    assert model.encoder["rnn0"].norm.running_mean.any()


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
