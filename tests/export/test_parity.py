"""The exported graphs compute what torch computes, in any batch, any length and any cut, and carry nothing they should not."""

from __future__ import annotations

import copy
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import spectokenizer
from spectokenizer.errors import ModelError
from spectokenizer.runtime.network import GRAPHS, Network

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from spectokenizer.export import onnx as export_module  # noqa: E402
from spectokenizer.export.parity import Parity, check, to_graph, to_torch  # noqa: E402
from spectokenizer.model.spectokenizer import build  # noqa: E402

FRAMES = 12


@pytest.fixture(scope="module")
def network(tiny_folder: Path) -> Network:
    return Network(tiny_folder)


def test_the_export_s_own_check(tiny_model: Any, tiny_folder: Path) -> None:
    for frames, batch in [(6, 3), (2, 1)]:
        parity = check(tiny_model, tiny_folder, frames, batch)
        assert parity.good
        assert parity.codes_equal == 1
        assert parity.samples_error < 1e-4


@pytest.mark.parametrize(("batch", "frames"), [(1, 1), (3, 1), (1, 9), (2, 51)])
def test_runtime_equals_torch_from_a_state_mid_stream(tiny_model: Any, network: Network, batch: int, frames: int) -> None:
    config, rng = tiny_model.config, np.random.default_rng(batch)
    audio = (0.1 * rng.standard_normal((batch, (5 + frames) * config.frame_size))).astype(np.float32)
    warm, rest = audio[:, : 5 * config.frame_size], audio[:, 5 * config.frame_size :]
    codes, encoder = network.encode(warm, network.initial_state("encoder", batch))
    _, decoder = network.decode(codes, network.initial_state("decoder", batch))
    assert all(value.any() for value in (*encoder.values(), *decoder.values()))

    codes, encoder_after = network.encode(rest, encoder)
    samples, decoder_after = network.decode(codes, decoder)
    with torch.no_grad():
        expected_codes, expected_encoder = tiny_model.encode(torch.from_numpy(rest), to_torch(tiny_model, "encoder", encoder))
        expected_samples, expected_decoder = tiny_model.decode(expected_codes, to_torch(tiny_model, "decoder", decoder))
    np.testing.assert_array_equal(codes, expected_codes.numpy())
    assert np.abs(samples - expected_samples.numpy()).max() < 1e-4
    for side, got, state in (("encoder", encoder_after, expected_encoder), ("decoder", decoder_after, expected_decoder)):
        expected = to_graph(tiny_model, side, state)
        assert got.keys() == expected.keys()
        for name, value in got.items():
            np.testing.assert_allclose(value, expected[name], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_states_go_to_torch_and_back(tiny_model: Any, network: Network, side: str) -> None:
    rng = np.random.default_rng(0)
    state = {name: rng.random(value.shape, np.float32) for name, value in network.initial_state(side, 2).items()}
    there = to_torch(tiny_model, side, state)
    assert {name: value.shape for name, value in there.items()} == {
        name: value.shape for name, value in getattr(tiny_model, side).initial_state(2).items()
    }
    back = to_graph(tiny_model, side, there)
    assert all(np.array_equal(back[name], value) for name, value in state.items())


def test_absent_codes_are_torch_s(tiny_model: Any, network: Network) -> None:
    config = tiny_model.config
    codes = np.random.default_rng(0).integers(0, config.codebook_size + 1, (2, config.num_codebooks, FRAMES))
    assert (codes == config.codebook_size).any()
    samples, _ = network.decode(codes, network.initial_state("decoder", 2))
    with torch.no_grad():
        expected, _ = tiny_model.decode(torch.from_numpy(codes))
    assert np.abs(samples - expected.numpy()).max() < 1e-4


def steps(network: Network, side: str, x: np.ndarray, sizes: list[int]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Run `x` cut into pieces of so many frames; the rest in one."""
    per_frame = network.config.frame_size if side == "encoder" else 1
    state, outputs, at = network.initial_state(side, len(x)), [], 0
    for size in [*sizes, FRAMES]:
        part = x[..., at * per_frame : (at + size) * per_frame]
        at += size
        if part.shape[-1]:
            y, state = getattr(network, side.removesuffix("r"))(part, state)
            outputs.append(y)
    return np.concatenate(outputs, -1), state


@given(sizes=st.lists(st.integers(1, 5), max_size=FRAMES), batch=st.integers(1, 5), seed=st.integers(0, 1000))
def test_steps_and_chunks_agree_bit_for_bit(network: Network, sizes: list[int], batch: int, seed: int) -> None:
    """Codes, samples and every state, whatever the cuts."""
    config, rng = network.config, np.random.default_rng(seed)
    audio = (0.1 * rng.standard_normal((batch, FRAMES * config.frame_size))).astype(np.float32)
    codes = rng.integers(0, config.codebook_size + 1, (batch, config.num_codebooks, FRAMES))
    for side, x in (("encoder", audio), ("decoder", codes)):
        whole, end = steps(network, side, x, [])
        cut, state = steps(network, side, x, sizes)
        single, last = steps(network, side, x, [1] * FRAMES)
        for other, after in ((cut, state), (single, last)):
            assert np.array_equal(whole, other)
            assert all(np.array_equal(end[name], after[name]) for name in end)


@pytest.mark.parametrize(
    "geometry",
    [
        {"strides": ((1, 4), (1, 4), (1, 4), (1, 4)), "kernel_time": 2},  # a latent frame is one STFT frame
        {"strides": ((1, 4), (1, 4), (1, 4), (1, 4)), "kernel_time": 5},
        {"strides": ((1, 8), (1, 8), (2, 4)), "channels": (8, 8, 8, 16)},
        {"n_fft": 320, "strides": ((1, 4), (1, 4), (1, 5), (2, 2))},
        {"strides": ((1, 4), (1, 4), (2, 4), (2, 4))},  # 25 Hz
        {"strides": ((1, 4), (2, 4), (1, 4), (2, 4)), "channels": (8, 8, 8, 8, 16)},
        {"quantizer": "vq", "num_codebooks": 1, "codebook_size": 32768},
        {"quantizer": "pair", "num_codebooks": 1, "codebook_size": 32768},
        {"quantizer": "fsq", "num_codebooks": 1, "codebook_size": 32768, "codebook_dim": 5},
        {"quantizer": "fsq", "num_codebooks": 1, "codebook_size": 32768, "codebook_dim": 15, "strides": ((1, 4), (1, 4), (2, 4), (2, 4))},
    ],
)
def test_other_geometries(geometry: dict[str, Any], tmp_path: Path) -> None:
    config = spectokenizer.CodecConfig(
        "other", **{"channels": (8, 8, 8, 16, 16), "codebook_dim": 16, "num_codebooks": 3, "codebook_size": 64, **geometry}
    )
    assert export_module.export(build(config, seed=3).eval(), tmp_path).good
    network, rng = Network(tmp_path), np.random.default_rng(0)
    audio = (0.1 * rng.standard_normal((2, FRAMES * config.frame_size))).astype(np.float32)
    codes, encoder = steps(network, "encoder", audio, [])
    codes[:, :, 3], codes[0, -1, 5] = config.codebook_size, config.codebook_size  # absent ones, a whole frame among them
    samples, decoder = steps(network, "decoder", codes, [])
    again, encoder_again = steps(network, "encoder", audio, [1] * FRAMES)
    heard, decoder_again = steps(network, "decoder", codes, [1, 1, 2] * FRAMES)
    assert np.array_equal(again[:, :, 6:], codes[:, :, 6:]) and np.array_equal(heard, samples)
    for one, other in ((encoder, encoder_again), (decoder, decoder_again)):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["vq", "pair", "fsq"])
def test_one_codebook_s_codes_are_torch_s(kind: str, tiny_config: Any, tmp_path: Path) -> None:
    """Thousands of codes of a quantiser that fits its latents; one may differ where two entries are as near."""
    size, dim = {"vq": (512, 8), "pair": (32768, 8), "fsq": (32768, 5)}[kind]
    config = replace(tiny_config, quantizer=kind, num_codebooks=1, codebook_size=size, codebook_dim=dim)
    model, generator = build(config, seed=1).eval(), torch.Generator().manual_seed(2)
    audio = 0.1 * torch.randn(4, 500 * config.frame_size, generator=generator)
    with torch.no_grad():
        z, _ = model.latents(audio, model.encoder.initial_state(4))
        model.quantizer.initialize(z.flatten(0, 2), generator)
        expected, _ = model.encode(audio)
        decoded, _ = model.decode(expected)
    assert len(expected.unique()) > 400
    export_module.export(model, tmp_path)
    network = Network(tmp_path)
    codes, _ = network.encode(audio.numpy(), network.initial_state("encoder", 4))
    assert (codes != expected.numpy()).sum() <= 2
    samples, _ = network.decode(expected.numpy(), network.initial_state("decoder", 4))
    assert np.abs(samples - decoded.numpy()).max() < 1e-4


SWITCHES = {"compression": 1, "norm": "batch", "activation": "relu", "recurrence": "finest", "complex_stem": False}


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_model_without_a_part_of_the_paper_s_is_not_exported(switch: str, tiny_config: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{switch} = .*not exported"):
        export_module.export(build(replace(tiny_config, **{switch: SWITCHES[switch]})), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@given(batch=st.integers(2, 9), seed=st.integers(0, 1000))
def test_rows_of_a_batch_are_bit_for_bit_those_of_one_stream(network: Network, batch: int, seed: int) -> None:
    config = network.config
    audio = (0.1 * np.random.default_rng(seed).standard_normal((batch, 3 * config.frame_size))).astype(np.float32)
    codes, state = network.encode(audio, network.initial_state("encoder", batch))
    samples, _ = network.decode(codes, network.initial_state("decoder", batch))
    for row in range(batch):
        alone, end = network.encode(audio[row : row + 1], network.initial_state("encoder"))
        heard, _ = network.decode(alone, network.initial_state("decoder"))
        assert np.array_equal(codes[row], alone[0])
        assert np.array_equal(samples[row], heard[0])
        assert all(np.array_equal(state[name][row], end[name][0]) for name in end)


@pytest.mark.parametrize("name", GRAPHS)
def test_axes_are_dynamic_by_name(tiny_folder: Path, network: Network, name: str) -> None:
    config, session = network.config, network.session(name)
    side, kind = name.split("_")
    time: int | str = 1 if kind == "step" else "frames"
    audio = ["batch", config.frame_size if kind == "step" else "samples"]
    codes = ["batch", config.num_codebooks, time]
    first, *states = session.get_inputs()
    out, *new = session.get_outputs()
    assert (first.name, first.shape) == (("audio", audio) if side == "encoder" else ("codes", codes))
    assert (out.name, out.shape) == (("codes", codes) if side == "encoder" else ("audio", audio))
    assert [s.name.removesuffix("_in") for s in states] == [s.name.removesuffix("_out") for s in new]
    assert [s.shape for s in states] == [s.shape for s in new]
    assert all(s.shape[0] == "batch" and all(isinstance(n, int) for n in s.shape[1:]) for s in states)


@pytest.mark.parametrize("name", GRAPHS)
def test_nothing_of_the_exporting_machine_is_in_the_files(tiny_folder: Path, name: str) -> None:
    path = tiny_folder / f"{name}.onnx"
    model = onnx.load(str(path), load_external_data=False)
    assert not model.doc_string and not model.metadata_props and not model.graph.doc_string

    def check_graph(graph: Any) -> None:
        for node in graph.node:
            assert not node.doc_string and not node.metadata_props
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    check_graph(attribute.g)
        for tensor in graph.initializer:
            assert not tensor.doc_string
            assert {entry.value for entry in tensor.external_data if entry.key == "location"} <= {"weights.bin"}
        assert not any(value.doc_string for value in (*graph.input, *graph.output, *graph.value_info))

    check_graph(model.graph)
    data = path.read_bytes() + (tiny_folder / "config.json").read_bytes()
    for folder in (tiny_folder, Path.cwd(), Path.home(), Path(spectokenizer.__file__).parent):
        assert str(folder).encode() not in data or str(folder) == "/"
    assert b".py" not in data


def test_a_folder_holds_what_the_runtime_wants_and_no_more(tiny_folder: Path) -> None:
    assert {path.name for path in tiny_folder.iterdir()} == {"config.json", "weights.bin", *(f"{name}.onnx" for name in GRAPHS)}
    assert tuple(export_module.GRAPHS) == GRAPHS


def test_export_is_reproducible(tiny_model: Any, tiny_folder: Path, tmp_path: Path) -> None:
    export_module.export(tiny_model, tmp_path / "again", {"purpose": "tests"})
    for path in tiny_folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("layer", ["encoder.rnn3.gru.weight_hh_l0", "decoder.up3.snake.alpha"])
def test_a_difference_anywhere_is_noticed(tiny_model: Any, tiny_folder: Path, layer: str) -> None:
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        other.get_parameter(layer).mul_(1.5)
    assert not check(other, tiny_folder).good


def test_the_bundled_model_is_small() -> None:
    folder = Path(str(resources.files("spectokenizer") / "assets" / "mini"))
    if not folder.is_dir():
        pytest.skip("no bundled mini")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 5.1e6  # 1.2 M numbers, a third of them codebooks


def test_what_differs_from_torch_replaces_nothing(tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("the last good one's")
    monkeypatch.setattr(export_module, "check", lambda *_: Parity(0.9, 0.0, 0.0))
    with pytest.raises(ModelError, match=f"{tmp_path}: the exported graphs differ"):
        export_module.export(tiny_model, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"] and (tmp_path / "config.json").read_text() == "the last good one's"
