"""Saving and loading a run. Files are replaced atomically: a kill at any moment leaves the last complete state."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from ..config import CodecConfig
from ..disk import replace_text, replacing
from ..errors import ConfigError, ModelError
from ..model.spectokenizer import SpecTokenizer, build

STATE = "state.pt"  # everything needed to go on; for this machine, read with weights_only
WEIGHTS = "weights.safetensors"  # averaged weights; for people
CONFIG = "config.json"


def save_state(run: Path, state: dict[str, Any]) -> None:
    with replacing(run / STATE) as file:
        torch.save(state, file)


def load_state(run: Path) -> dict[str, Any] | None:
    """The state of a run, or None when it has none yet."""
    path = run / STATE
    if not path.exists():
        return None
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch raises many kinds for a file that is not a state
        raise ModelError(f"{path}: not a training state ({type(error).__name__}); move it away to start afresh") from error


def save_model(folder: Path, model: nn.Module, config: CodecConfig, about: dict[str, Any]) -> None:
    """Weights (safetensors) and configuration (JSON) of a model."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    with replacing(folder / WEIGHTS) as file:
        file.write(save(tensors))
    text = json.dumps({"codec": config.to_dict(), "training": about}, indent=1)
    replace_text(folder / CONFIG, text + "\n")


def load_model(folder: str | Path) -> SpecTokenizer:
    """The model saved in a folder (a run's, too). Raises ModelError when it is not there or does not fit."""
    folder = Path(folder)
    try:
        config = CodecConfig.from_json(folder / CONFIG)
        model = SpecTokenizer(config)
        model.load_state_dict(load_file(folder / WEIGHTS))
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: no {Path(error.filename or WEIGHTS).name}; is this the folder of a training run?") from error
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: weights and configuration do not fit ({error})") from error
    return model.eval()


def differences(there: CodecConfig, here: CodecConfig) -> str:
    """What of a codec there differs from ours, its name apart; "" when nothing does."""
    names = [field.name for field in dataclasses.fields(CodecConfig) if field.name != "name"]
    pairs = [(name, getattr(there, name), getattr(here, name)) for name in names]
    return "; ".join(f"{name} {a} instead of {b}" for name, a, b in pairs if a != b)


def begin_with(folder: str | Path, config: CodecConfig, seed: int = 0) -> tuple[SpecTokenizer, str]:
    """A model of `config` with the weights in a folder, and what of the codec differs there ("" when nothing does).

    Where anything differs but the name, only encoder and decoder are taken, if all their tensors fit; the quantiser is a fresh one.
    Raises ConfigError when they do not.
    """
    source = load_model(folder)
    model = build(config, seed)
    differs = differences(source.config, config)
    if not differs:
        model.load_state_dict(source.state_dict())
        return model, ""
    for side in ("encoder", "decoder"):
        tensors = getattr(source, side).state_dict()
        wanted = {name: value.shape for name, value in getattr(model, side).state_dict().items()}
        given = {name: value.shape for name, value in tensors.items()}
        if given != wanted:
            name = next(name for name in {**wanted, **given} if wanted.get(name) != given.get(name))
            shapes = " instead of ".join("none" if s is None else str(tuple(s)) for s in (given.get(name), wanted.get(name)))
            raise ConfigError(f"{folder} holds another network: {differs}; {side}.{name} is {shapes}")
        getattr(model, side).load_state_dict(tensors)
    return model, differs


def load_about(folder: str | Path) -> dict[str, Any]:
    """What a run notes about itself: steps and seconds of audio seen."""
    about = _training(folder)
    return {"trained_steps": about.get("steps"), "trained_audio_seconds": about.get("audio_seconds")}


def codebooks_ready(folder: str | Path) -> bool:
    """False for a run whose codebooks do not fit its latents yet, or no longer."""
    return bool(_training(folder).get("codebooks_ready", True))


def _training(folder: str | Path) -> dict[str, Any]:
    try:
        return dict(json.loads((Path(folder) / CONFIG).read_text(encoding="utf-8")).get("training", {}))
    except (FileNotFoundError, ValueError) as error:
        raise ModelError(f"{folder}: no readable {CONFIG}; is this the folder of a training run?") from error
