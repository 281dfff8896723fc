"""The text messages of a call over a WebSocket, `docs/server.md`, and what a server allows."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ..bitstream.packets import MAX_FRAMES, MAX_REDUNDANCY
from ..errors import ConfigError
from .engine import MODES, POLICY, Bitrate, CallError, End, Settings

if TYPE_CHECKING:
    from ..runtime.codec import Info

UNSUPPORTED = 1003  # close code
LONGEST_REASON = 123  # bytes: what a close frame holds
ABOUT = ("sample_rate", "frame_size", "frame_rate", "num_codebooks", "bits_per_code", "bitrates", "delay_samples")


@dataclass(frozen=True)
class Limits:
    """What one server allows. Times in seconds."""

    slots: int = 64  # streams per direction
    message_bytes: int = 65536
    ahead: float = 2.0  # how far a client may be ahead of real time before it is not read from
    waiting: int = 100  # frames that wait to be stepped, before it is not read from either
    outbox: int = 100  # messages that it has yet to read, the same
    idle: float = 30.0  # without a message
    stall: float = 10.0  # without reading
    hello: float = 10.0  # from the connection to the first message
    tick: float = 0.005  # between two steps, so that streams meet in one; adds as much delay at most
    grace: float = 10.0  # from the request to stop until calls are closed

    def __post_init__(self) -> None:
        wrong = [name for name, value in asdict(self).items() if not value > 0 and name not in ("tick", "grace")]
        if wrong or self.tick < 0 or self.grace < 0:
            raise ConfigError(f"{', '.join(wrong) or 'tick and grace'} of a server must be positive: {self}")


def first_message(info: Info, message: str | bytes) -> Settings:
    """What a client wants. Raises CallError for anything but what it may want."""
    wishes = _object(message, "the first message")
    if unknown := set(wishes) - {"mode", "bitrate", "redundancy", "packet_frames"}:
        raise CallError(POLICY, f"unknown: {json.dumps(sorted(unknown))}")
    mode = wishes.get("mode")
    if mode not in MODES:
        raise CallError(POLICY, f"mode {_shown(mode)}; there are {', '.join(MODES)}")
    bitrate = _bitrate(info, wishes.get("bitrate", info.default_bitrate))
    redundancy = _number(wishes, "redundancy", 0, MAX_REDUNDANCY)
    return Settings(mode, bitrate, redundancy, _number(wishes, "packet_frames", 1, MAX_FRAMES))


def text_message(info: Info, message: str) -> End | Bitrate:
    """A text message in a call. Raises CallError for any other."""
    wishes = _object(message, "a text message")
    if wishes == {"end": True}:
        return End()
    if set(wishes) == {"bitrate"}:
        return Bitrate(_bitrate(info, wishes["bitrate"]))
    raise CallError(POLICY, 'text in a call is {"end": true} or {"bitrate": …}; all else is binary')


def welcome(info: Info, settings: Settings, limits: Limits) -> str:
    """The answer to the first message: what a client needs to know about the model and its call."""
    allowed = {"message_bytes": limits.message_bytes, "ahead": limits.ahead, "idle": limits.idle}
    about = {name: getattr(info, name) for name in ABOUT}
    return json.dumps({"model": info.name, "model_hash": info.model_hash, **about, **asdict(settings), "limits": allowed})


def farewell(end: End) -> str:
    """The last message of a call."""
    return json.dumps({"end": True, "frames": end.frames, "samples": end.samples})


def shortened(reason: str) -> str:
    """As much of it as a close frame holds."""
    data = reason.encode()
    return reason if len(data) <= LONGEST_REASON else data[: LONGEST_REASON - 3].decode(errors="ignore") + "…"


def _object(message: str | bytes, what: str) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise CallError(UNSUPPORTED, f"{what} must be JSON text, not binary")
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise CallError(POLICY, f"{what} must be a JSON object")
    return found


def _bitrate(info: Info, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value not in info.bitrates:
        raise CallError(POLICY, f"bitrate {_shown(value)}; there are {', '.join(map(str, info.bitrates))}")
    return value


def _number(wishes: dict[str, Any], name: str, low: int, high: int) -> int:
    value = wishes.get(name, low)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise CallError(POLICY, f"{name} {_shown(value)}; give {low} to {high}")
    return value


def _shown(value: object) -> str:
    return json.dumps(value)[:40]
