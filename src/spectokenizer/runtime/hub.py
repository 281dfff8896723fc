"""Models from the Hugging Face hub, when huggingface_hub is installed and the hub, or its cache on this machine, is reachable."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import ModelError

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")
FILES = ["config.json", "*.onnx", "*.bin"]  # the runtime's part of the folder


def is_name(model: str) -> bool:
    """Whether `model` looks like "org/name" or "org/name@revision"."""
    return NAME.fullmatch(model) is not None


def download(model: str) -> Path:
    """The folder of the model "org/name", from the cache if it is there. Raises ModelError saying what is in the way."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModelError(f"no folder '{model}'; to take it from the Hugging Face hub: pip install \"spectokenizer[hf]\"") from error
    name, _, revision = model.partition("@")
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision or None, allow_patterns=FILES)
    except Exception as error:  # its own kinds, the network's, the file system's
        reason = " ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
        raise ModelError(
            f"'{model}' is no folder here and cannot be had from the Hugging Face hub ({reason}); "
            "check the name and the network, or give a folder"
        ) from error
    return Path(folder)
