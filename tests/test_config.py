"""The published sizes and costs, the torch model's agreement with them, and configurations that cannot work."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from spectokenizer.config import PRESETS, CodecConfig
from spectokenizer.errors import ConfigError


@pytest.mark.parametrize(
    ("name", "millions", "tolerance"), [("mini", 0.464, 0.001), ("mini-paper", 0.45, 0.005), ("base", 70.6, 0.1), ("micro", 0.16, 0.005)]
)
def test_published_sizes(name: str, millions: float, tolerance: float) -> None:
    assert PRESETS[name].name == name
    assert PRESETS[name].parameters / 1e6 == pytest.approx(millions, abs=tolerance)


def test_published_cost_and_geometry() -> None:
    mini = PRESETS["mini"]
    assert mini.macs_per_second / 1e9 == pytest.approx(0.234, rel=0.01)
    assert (mini.frame_size, mini.frame_rate, mini.delay_samples, mini.latency_samples) == (320, 50.0, 160, 480)
    assert mini.bands == (256, 64, 16, 4, 1)
    assert mini.bitrates == tuple(range(500, 6001, 500))


ABLATIONS: dict[str, dict[str, Any]] = {
    "batch": {"norm": "batch"},
    "relu": {"activation": "relu"},
    "finest": {"recurrence": "finest"},
    "real": {"complex_stem": False},
    "uncompressed": {"compression": 1},
    "all": {"norm": "batch", "activation": "relu", "recurrence": "finest", "complex_stem": False, "compression": 1},
    "vq": {"quantizer": "vq", "num_codebooks": 1, "codebook_size": 32768},
    "fsq": {"quantizer": "fsq", "num_codebooks": 1, "codebook_size": 32768, "codebook_dim": 5},
}
CONFIGS = {**PRESETS, **{name: dataclasses.replace(PRESETS["mini"], name=name, **values) for name, values in ABLATIONS.items()}}


@pytest.mark.parametrize("name", [*CONFIGS, "tiny"])
def test_torch_model_has_the_parameters_that_the_table_says(name: str, tiny_config: CodecConfig) -> None:
    torch = pytest.importorskip("torch")
    from spectokenizer.model.spectokenizer import SpecTokenizer, parameters

    config = CONFIGS.get(name, tiny_config)
    with torch.device("meta"):
        model = SpecTokenizer(config)
    assert parameters(model) == sum(cost.parameters for cost in config.costs())
    assert config.table_numbers == sum(value.numel() for name, value in model.quantizer.named_buffers() if name.endswith("codebooks"))
    by_layer = {cost.name: cost.parameters for cost in config.costs()}
    for side in ("encoder", "decoder"):
        for layer, module in getattr(model, side).items():
            if layer in ("stft", "istft"):
                assert parameters(module) == 0
            elif layer == "conv":
                assert parameters(module) == by_layer["decoder.complex_conv"]
            elif (side, layer) == ("encoder", "down0"):  # the stem holds the complex convolution, too
                assert parameters(module) == by_layer["encoder.complex_conv"] + by_layer["encoder.down0"]
            else:
                assert parameters(module) == by_layer[f"{side}.{layer}"]


@pytest.mark.parametrize("name", sorted({*CONFIGS} - {"base"}))
def test_macs_counted_while_one_second_runs_through_torch(name: str) -> None:
    """Every weight times how often it is used, from the shapes that the layers really see."""
    torch = pytest.importorskip("torch")
    from spectokenizer.model.layers import RNN2D, ComplexConv, Down, RealStem, Stem, Up
    from spectokenizer.model.spectokenizer import build

    config, counted = CONFIGS[name], []

    def count(module: Any, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
        t_in, _, f_in, _ = inputs[0].shape
        t_out, _, f_out, _ = outputs[0].shape
        if isinstance(module, RealStem):
            counted.append(module.real_weight.numel() * t_in * f_in + module.weight.numel() * t_out * f_out)
        elif isinstance(module, Stem):  # a complex weight has two numbers and takes part in four products
            counted.append(2 * module.complex_weight.numel() * t_in * f_in + module.weight.numel() * t_out * f_out)
        elif isinstance(module, Down):
            counted.append(module.weight.numel() * t_out * f_out)
        elif isinstance(module, Up):  # each of its weights sees each input once
            counted.append(module.weight.numel() * t_in * f_in)
        elif isinstance(module, ComplexConv):
            counted.append(2 * module.complex_weight.numel() * t_in * f_in)
        elif isinstance(module, RNN2D):
            matrices = (module.gru.weight_ih_l0, module.gru.weight_hh_l0, module.conv.weight)
            counted.append(sum(m.numel() for m in matrices) * t_in * f_in)

    model = build(config)
    for layer in (*model.encoder.values(), *model.decoder.values()):
        if isinstance(layer, (Stem, Down, Up, ComplexConv, RNN2D)):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, config.sample_rate), quantize=False)
    assert len(counted) == 2 * len(config.strides) + 2 * len(config.recurrent_levels) + 1  # and the decoder's complex convolution
    assert sum(counted) == config.macs_per_second


def test_single_codebooks_and_half_the_tokens() -> None:
    single, halved = PRESETS["mini-single"], PRESETS["mini-single-25hz"]
    assert (single.bits_per_code, single.bitrates, single.frame_size) == (15, (750,), 320)
    assert (halved.bitrates, halved.frame_size, halved.frame_rate, halved.latency_samples) == ((375,), 640, 25.0, 800)


def test_switches_that_are_as_ever_are_not_written() -> None:
    """A model's hash is of its configuration, among others: files written before there were switches name the same one."""
    assert set(PRESETS["mini"].to_dict()) == {
        *("name", "sample_rate", "hop_length", "window_length", "n_fft", "compression", "channels", "strides", "kernel_time"),
        *("num_codebooks", "codebook_size", "codebook_dim"),
    }
    assert PRESETS["mini-single"].to_dict()["quantizer"] == "pair"


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_json_round_trip(config: CodecConfig, tmp_path: Path) -> None:
    assert CodecConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    (tmp_path / "config.json").write_text(json.dumps({"codec": config.to_dict(), "about": {}}))
    assert CodecConfig.from_json(tmp_path / "config.json") == config


@pytest.mark.parametrize(
    ("values", "rule"),
    [
        ({"compression": 3.0}, "compression"),
        ({"channels": (16, 24, 32)}, "one entry more"),
        ({"channels": ()}, "one entry more"),
        ({"channels": (15, 24, 32, 64, 96)}, "even"),
        ({"channels": (16, 0, 32, 64, 96)}, "whole numbers"),
        ({"strides": ((1, 4), (1, 4), (1, 4), (2, 2))}, "256 bins"),
        ({"strides": ((2, 4), (1, 4), (1, 4), (1, 4))}, "first level does not stride in time"),
        ({"strides": ((1, 4), (1, 4), (1, 4), (4, 4))}, "stride in time by 1, or by 2"),
        ({"strides": (), "channels": (16,)}, "they fold 1"),
        ({"kernel_time": 5}, "kernel_time"),
        ({"hop_length": 128}, "twice hop_length"),
        ({"hop_length": 320, "window_length": 640}, "at least window_length"),
        ({"sample_rate": 0}, "sample_rate is 0; give a whole number"),
        ({"sample_rate": 16000.5}, "whole number"),
        ({"codebook_size": 1000}, "power of two"),
        ({"codebook_size": 0}, "whole number"),
        ({"codebook_size": 1 << 16}, "int16|32768"),
        ({"codebook_dim": 0}, "whole number"),
        ({"codebook_dim": 97}, "at most the last of channels"),
        ({"quantizer": "pair"}, "with one codebook"),
        ({"quantizer": "pair", "num_codebooks": 1, "codebook_size": 2}, "4 or more"),
        ({"scatter": 8001.0}, "up to half"),
        ({"quantizer": "pq"}, "quantizer is rvq"),
        ({"quantizer": "vq"}, "with one codebook"),
        ({"quantizer": "fsq"}, "with one codebook"),
        ({"quantizer": "fsq", "num_codebooks": 1, "codebook_dim": 4}, "divides the 10 bits"),
        ({"norm": "layer"}, "norm is frame or batch"),
        ({"activation": "gelu"}, "activation is snake or relu"),
        ({"recurrence": "none"}, "recurrence is all or finest"),
        ({"num_codebooks": 0}, "whole number"),
        ({"num_codebooks": 33}, "at most 32"),
    ],
)
def test_a_broken_rule_is_named(values: dict[str, Any], rule: str) -> None:
    with pytest.raises(ConfigError, match=rule):
        CodecConfig(**values)


def test_all_broken_rules_are_listed_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        CodecConfig("odd", compression=3.0, channels=(7, 8), codebook_size=3, num_codebooks=99)
    message = str(caught.value)
    assert message.startswith("codec 'odd' needs: ")
    assert [word in message for word in ("compression", "one entry more", "even", "power of two", "at most 32")] == [True] * 5
    assert message.count(";") == 5  # and more directions than the latent has


@pytest.mark.parametrize(
    "values",
    [
        {"colour": 1},
        {"channels": 5},
        {"channels": "abc"},
        {"channels": [16.9, 24, 32, 64, 96]},
        {"strides": [1, 2]},
        {"strides": [[1, 4], [1, 4], [1, 4], [2, 4.0]]},
        {"n_fft": "512"},
        {"num_codebooks": None},
        {"num_codebooks": 8.0},
        {"num_codebooks": True},
        {"codebook_size": 1024.0},
        {"window_length": 320.0},
        {"quantizer": "fsq", "num_codebooks": 1, "codebook_dim": 0},
        {"complex_stem": "no"},
        {"compression": True},
        {"scatter": "2000"},
    ],
)
def test_foreign_values_are_config_errors(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CodecConfig.from_dict(values)


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        PRESETS["mini"].name = "other"  # type: ignore[misc]


def test_a_frame_rate_that_is_no_whole_number_is_not_rounded() -> None:
    config = dataclasses.replace(PRESETS["mini"], hop_length=128, window_length=256)
    for ours, published in zip(config.costs(), PRESETS["mini"].costs(), strict=True):
        assert ours.macs_per_second == pytest.approx(1.25 * published.macs_per_second)
