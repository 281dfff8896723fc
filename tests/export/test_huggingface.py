"""The folder for transformers: its own code computes what the model computes, for a batch as for one; the runtime reads it, too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import spectokenizer
from spectokenizer.errors import ModelError

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from spectokenizer.export import huggingface  # noqa: E402


@pytest.fixture(scope="module")
def folder(tiny_model: Any, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "tiny-model"
    return huggingface.export(tiny_model, out, tiny_folder, {"data": "noise", "licence": "cc0-1.0"}, "| PESQ |\n|---|\n| 1.0 |")


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [(0.1 * rng.standard_normal(n)).astype(np.float32) for n in (4000, 1, 0, 9999, 320, 159)]


def test_the_runtime_reads_it(folder: Path, tiny_folder: Path, clips: list[np.ndarray]) -> None:
    codec, original = spectokenizer.load(folder), spectokenizer.load(tiny_folder)
    assert codec.info == original.info  # the model's hash, too
    np.testing.assert_array_equal(
        codec.encode(clips[0], 16000, codec.info.bitrates[-1]).array, original.encode(clips[0], 16000, None).array
    )


def test_what_is_in_it(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"]["AutoModelForAudioTokenization"] and config["about"]["data"] == "noise"
    page = (folder / "README.md").read_text()
    assert page.startswith("---\nlicense: cc0-1.0\n") and "| PESQ |" in page and "- data: noise" in page
    for path in folder.glob("*.py"):
        text = path.read_text()
        compile(text, path.name, "exec")
        assert not re.search(r"^\s*(from \.\.|import spectokenizer|from spectokenizer)", text, re.MULTILINE), path
        assert str(Path(spectokenizer.__file__).parent) not in text


def test_an_unstated_origin_is_said_to_be_one(tiny_model: Any) -> None:
    page = huggingface.card(tiny_model.config, {}, "", "")
    assert "license: other" in page and "data: not stated" in page and "Not measured" in page
    assert huggingface.UNMEASURED not in huggingface.card(tiny_model.config, {}, "measured", "")


def test_results_from_a_summary(tmp_path: Path) -> None:
    (tmp_path / "summary.csv").write_text("kbps,pesq\n4,1.99\n")
    assert huggingface.measured(tmp_path / "summary.csv") == "| kbps | pesq |\n| --- | --- |\n| 4 | 1.99 |"
    assert "PESQ" in huggingface.measured()


def test_graphs_of_another_model_are_refused(tiny_model: Any, tmp_path: Path) -> None:
    if "mini" not in spectokenizer.bundled():
        pytest.skip("no other model here")
    with pytest.raises(ModelError):
        huggingface.export(tiny_model, tmp_path / "x", spectokenizer.load("mini").network.folder)


LOAD = """
import sys
for name in ("spectokenizer", "onnxruntime", "soundfile", "soxr"):
    sys.modules[name] = None
import numpy as np, torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization
folder, clips_file, out = sys.argv[1:]
torch.set_num_threads(1)
clips = list(np.load(clips_file).values())
model = AutoModelForAudioTokenization.from_pretrained(folder, trust_remote_code=True).eval()
features = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
inputs = features(clips, sampling_rate=16000, return_tensors="pt")
assert inputs["input_values"].shape == (len(clips), 1, max(map(len, clips)))
with torch.no_grad():
    batch = model.encode(**inputs)
    audio = model.decode(batch.audio_codes, inputs["padding_mask"]).audio_values
    for i, clip in enumerate(clips):
        if not len(clip):
            assert not batch.audio_codes_mask[i].any() and (batch.audio_codes[i] == model.config.codebook_size).all()
            continue
        one = model.encode(**features(clip, sampling_rate=16000, return_tensors="pt")).audio_codes
        t = int(batch.audio_codes_mask[i].sum())
        assert torch.equal(batch.audio_codes[i, :, :t], one[0]), i
        assert (batch.audio_codes[i, :, t:] == model.config.codebook_size).all()
        alone = model.decode(one).audio_values[0, 0, : len(clip)]
        assert torch.equal(audio[i, 0, : len(clip)], alone) and not audio[i, 0, len(clip) :].any()
    assert torch.equal(model.encode(**inputs, num_quantizers=2).audio_codes, batch.audio_codes[:, :2])
    both = model(**inputs)
    assert torch.equal(both.audio_codes, batch.audio_codes) and torch.equal(both.audio_values, audio)
    model.config.exact = False
    at_once = model.encode(**inputs).audio_codes
    assert (at_once == batch.audio_codes).float().mean() > 0.99
for wrong in (lambda: features(clips, sampling_rate=8000), lambda: features(np.zeros((2, 5))), lambda: model.encode(torch.zeros(1, 2, 5)),
              lambda: model.encode(torch.zeros(1, 1, 5), num_quantizers=99)):
    try:
        wrong()
    except ValueError:
        continue
    raise AssertionError("no ValueError")
np.savez(out, codes=batch.audio_codes.numpy(), mask=batch.audio_codes_mask.numpy(), audio=audio.numpy())
assert type(AutoModel.from_pretrained(folder, trust_remote_code=True)).__name__ == "SpectokModel"
assert AutoConfig.from_pretrained(folder, trust_remote_code=True).frame_rate == 50
model.save_pretrained(out + ".saved")
again = AutoModel.from_pretrained(out + ".saved", trust_remote_code=True)
assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()) if a.numel() not in (256, 1024))
"""


def test_transformers_loads_it_offline(
    folder: Path, clips: list[np.ndarray], tmp_path: Path, subprocess_environment: dict[str, str]
) -> None:
    """In a process of its own, where this package and its runtime cannot be imported."""
    pytest.importorskip("transformers")
    np.savez(tmp_path / "clips.npz", *clips)
    environment = {**subprocess_environment, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": ""}
    words = [str(folder), str(tmp_path / "clips.npz"), str(tmp_path / "out.npz")]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *words], env=environment, cwd=tmp_path, capture_output=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr.decode()
    found, codec = np.load(tmp_path / "out.npz"), spectokenizer.load(folder)
    for i, clip in enumerate(clips):
        wanted = codec.encode(clip, 16000, codec.info.bitrates[-1])
        t = int(found["mask"][i].sum())
        assert t == wanted.num_frames
        assert (found["codes"][i, :, :t] == wanted.array).mean() > 0.999 if t else True
        decoded = codec.decode(found["codes"][i, :, :t], len(clip))
        np.testing.assert_allclose(found["audio"][i, 0, : len(clip)], decoded, atol=1e-4)


def test_the_command(tmp_path: Path, tiny_model: Any) -> None:
    from spectokenizer.cli.huggingface import export
    from spectokenizer.training.checkpoint import save_model

    save_model(tmp_path / "run", tiny_model, tiny_model.config, {"steps": 3, "audio_seconds": 4})
    result = CliRunner().invoke(export, ["hf", str(tmp_path / "out"), "--run", str(tmp_path / "run"), "--about", "licence=mit"])
    assert result.exit_code == 0, result.output
    assert "license: mit" in (tmp_path / "out" / "README.md").read_text()
    assert spectokenizer.load(tmp_path / "out").network.about["trained_steps"] == 3
    result = CliRunner().invoke(export, [str(tmp_path / "none"), str(tmp_path / "onnx")])  # a run's folder first: the graphs alone
    assert "is this the folder of a training run" in str(result.exception)
    assert "hf" in CliRunner().invoke(export, ["--help"]).output
