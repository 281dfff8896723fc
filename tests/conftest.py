"""Fixtures that several test modules share: a small model, the bundled one if there is one, speech, and a clean Python beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, settings

import spectokenizer
from spectokenizer import CodecConfig

settings.register_profile("spectokenizer", deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("spectokenizer")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_config() -> CodecConfig:
    return CodecConfig("tiny", channels=(8, 8, 8, 16, 16), num_codebooks=4, codebook_size=64, codebook_dim=4)


@pytest.fixture(scope="session")
def tiny_model(tiny_config: CodecConfig) -> Any:
    """A torch model with random weights, biases and slopes included, and codebooks that fit its latents. Do not change it."""
    torch = pytest.importorskip("torch")
    from spectokenizer.model.spectokenizer import build

    model = build(tiny_config, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.uniform_(-0.1, 0.1, generator=generator)
            elif name.endswith("alpha"):
                parameter.uniform_(0.5, 2, generator=generator)
        audio = 0.1 * torch.randn(4, 50 * tiny_config.frame_size, generator=generator)
        z, _ = model.encoder(audio, model.encoder.initial_state(4))
        model.quantizer.initialize(z.flatten(0, 2), generator)
    return model


@pytest.fixture(scope="session")
def tiny_folder(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_model`, exported."""
    pytest.importorskip("onnx")
    from spectokenizer.export.onnx import export

    folder = tmp_path_factory.mktemp("models") / "tiny"
    export(tiny_model, folder, {"purpose": "tests"})
    return folder


@pytest.fixture(scope="session")
def tiny_codec(tiny_folder: Path) -> spectokenizer.Codec:
    return spectokenizer.load(tiny_folder)


@pytest.fixture(scope="session")
def codec(request: pytest.FixtureRequest) -> spectokenizer.Codec:
    """The bundled mini when there is one, else the tiny model."""
    return spectokenizer.load("mini") if "mini" in spectokenizer.bundled() else request.getfixturevalue("tiny_codec")


@pytest.fixture(scope="session")
def speech() -> npt.NDArray[np.float32]:
    """2.6 s that sound a little like speech, at 16 kHz: voiced with gliding pitch, hissing, pausing. Read-only."""
    rng = np.random.default_rng(0)
    rate, parts = 16000, []
    for voiced, seconds in [(True, 0.5), (False, 0.15), (True, 0.35), (None, 0.3), (False, 0.1), (True, 0.6), (None, 0.2), (True, 0.4)]:
        n = round(seconds * rate)
        t = np.arange(n) / rate
        envelope = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 0.5
        if voiced:
            glide = rng.uniform(90, 220) + rng.uniform(-60, 60) * t / seconds  # Hz
            phase = 2 * np.pi * np.cumsum(glide) / rate
            formants, order = rng.uniform([300, 900, 2200], [800, 2000, 3200]), np.arange(1, 30)
            level = sum(1 / (1 + ((order * glide.mean() - f) / 150) ** 2) for f in formants)
            parts.append(0.2 * envelope * (level[:, None] * np.sin(order[:, None] * phase)).sum(0))
        elif voiced is None:
            parts.append(1e-4 * rng.standard_normal(n))
        else:
            parts.append(0.05 * envelope * np.diff(rng.standard_normal(n + 1)))
    audio = np.concatenate(parts)
    audio = (0.5 * audio / np.abs(audio).max()).astype(np.float32)
    audio.setflags(write=False)
    return audio


@pytest.fixture(scope="session")
def real_speech() -> list[Path]:
    """Files of recorded speech; set SPECTOKENIZER_DATA to a folder with some to run the tests that want them."""
    folder = Path(os.environ.get("SPECTOKENIZER_DATA", ROOT.parent / "shared" / "data" / "eval"))
    found = sorted(path for path in folder.rglob("*") if path.suffix in {".flac", ".wav"}) if folder.is_dir() else []
    if not found:
        pytest.skip("no recorded speech; give a folder in SPECTOKENIZER_DATA")
    return found


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run another Python on this package: python("-m", "spectokenizer", "info", input=b"...", cwd=...)."""

    def run(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[bytes]:
        options = {"capture_output": True, "timeout": 120, "check": False, "env": environment(), **options}
        return subprocess.run([sys.executable, *map(str, arguments)], **options)

    return run


@pytest.fixture(scope="session")
def subprocess_environment() -> dict[str, str]:
    return environment()


def environment() -> dict[str, str]:
    """With this very package importable from any folder."""
    package = str(Path(spectokenizer.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": package, "PYTHONWARNINGS": "default", "OMP_NUM_THREADS": "1"}
