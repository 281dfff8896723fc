"""SpecTokenizer: a streaming neural speech codec and tokenizer in the compressed complex-spectrum domain.

codec = spectokenizer.load("mini")
codes = codec.encode(audio, sample_rate, bitrate=4000)  # Codes [K, T], 50 frames per second
audio = codec.decode(codes)                             # float32 at codec.info.sample_rate
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .codes import Codes
from .config import PRESETS, CodecConfig
from .errors import (
    AudioError,
    BitrateError,
    CodesError,
    ConfigError,
    CorruptedError,
    FormatError,
    ModelError,
    SpecTokenizerError,
    StreamError,
    TruncatedError,
    VersionError,
)

if TYPE_CHECKING:
    from .runtime.batch import DecoderBatch, EncoderBatch
    from .runtime.codec import Codec, Info, bundled, load
    from .runtime.receiver import Receiver
    from .runtime.streams import Decoder, Encoder
    from .tokens import Vocabulary

__version__ = "0.1.0"

_LAZY = {
    **dict.fromkeys(("Codec", "Info", "load", "bundled"), "runtime.codec"),
    **dict.fromkeys(("Encoder", "Decoder"), "runtime.streams"),
    **dict.fromkeys(("EncoderBatch", "DecoderBatch"), "runtime.batch"),
    "Receiver": "runtime.receiver",
    "Vocabulary": "tokens",
}

__all__ = [
    "PRESETS",
    "AudioError",
    "BitrateError",
    "Codec",
    "CodecConfig",
    "Codes",
    "CodesError",
    "ConfigError",
    "CorruptedError",
    "Decoder",
    "DecoderBatch",
    "Encoder",
    "EncoderBatch",
    "FormatError",
    "Info",
    "ModelError",
    "Receiver",
    "SpecTokenizerError",
    "StreamError",
    "TruncatedError",
    "VersionError",
    "Vocabulary",
    "bundled",
    "load",
]


def __getattr__(name: str) -> Any:
    """onnxruntime and soxr are imported with the first use of what needs them: `import spectokenizer` stays quick."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
