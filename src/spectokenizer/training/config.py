"""A training run as a TOML file: the codec, the data, the optimiser, and stages with their losses."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import PRESETS, CodecConfig
from ..errors import ConfigError

LOSSES = ("waveform", "bands", "coherence", "complex", "magnitude", "mel", "loudness", "commitment", "adversarial", "feature")


@dataclass(frozen=True)
class Stage:
    """One part of a run. The learning rate falls exponentially from `lr` to `lr_end` over its steps."""

    name: str
    steps: int
    quantize: bool
    lr: float
    lr_end: float
    losses: dict[str, float]  # weights by name, of those in LOSSES
    freeze_encoder: bool = False  # encoder and quantiser stay as they are, and with them every code
    lr_discriminator: float = 1e-4  # used when `adversarial` or `feature` has a weight

    @property
    def adversarial(self) -> bool:
        return bool(self.losses.get("adversarial") or self.losses.get("feature"))


@dataclass(frozen=True)
class AugmentConfig:
    """How probable each augmentation is for a segment, 0 to 1; what they do is in augment.py."""

    gain: float = 1.0
    band_limit: float = 0.0
    mu_law: float = 0.0
    noise: float = 0.0
    reverberation: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise ConfigError(f"[augment] {name} is {value!r}; give a probability from 0 to 1")


@dataclass(frozen=True)
class TrainConfig:
    codec: CodecConfig
    stages: tuple[Stage, ...]
    batch_size: int = 8  # clips per step and process
    segment_seconds: float = 1.0
    seed: int = 0
    warmup_steps: int = 100  # after the start of each stage
    gradient_clip: float = 1.0
    balance: bool = False  # weights are shares of the gradient (EnCodec's balancer) rather than factors
    discriminator_width: float = 1.0  # of the published discriminators
    mpd: bool = True
    mbms_stft: bool = True
    weight_decay: float = 0.0
    muon: bool = True  # for the matrices; AdamW for the rest
    ema_decay: float = 0.999
    quantizer_dropout: float = 0.5
    frame_loss: float = 0.0  # of the quantised clips lose frames on the way to the decoder, in bursts
    expire: bool = True  # entries that nothing chooses are replaced (rvq, vq)
    data_pool: bool = True  # by past latents rather than by the batch's (vq)
    init_batches: int = 50  # whose latents initialise the codebooks; more where a codebook has fewer than 4 latents per entry (vq)
    log_every: int = 20
    validate_every: int = 1000
    validation_share: float = 0.01  # of the clips, when no validation data is given
    tensorboard_audio: int = 3  # held-out clips to hear and see in TensorBoard at each validation
    save_minutes: float = 3.0
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    raw: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def segment_length(self) -> int:
        """Samples per segment, whole frames."""
        return round(self.segment_seconds * self.codec.frame_rate) * self.codec.frame_size

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def first_quantized_step(self) -> int:
        """Where the codebooks are initialised."""
        before = [not stage.quantize for stage in self.stages]
        return sum(stage.steps for stage in self.stages[: before.index(False)]) if False in before else self.steps

    def stage_at(self, step: int) -> tuple[Stage, int]:
        """The stage that step belongs to and the step's number in it."""
        for stage in self.stages:
            if step < stage.steps:
                return stage, step
            step -= stage.steps
        return self.stages[-1], self.stages[-1].steps - 1

    @classmethod
    def load(cls, path: str | Path) -> TrainConfig:
        """Read a TOML file; raises ConfigError on anything unknown, missing or impossible."""
        try:
            raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ConfigError(f"{path}: no such file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: not valid TOML ({error})") from error
        return cls.from_dict(raw)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> TrainConfig:
        values = dict(raw)
        codec = dict(values.pop("codec", {}))
        preset = codec.pop("preset", "mini")
        if preset not in PRESETS:
            raise ConfigError(f"codec preset '{preset}'; known are {sorted(PRESETS)}")
        stages = values.pop("stage", [])
        if not stages:
            raise ConfigError("no [[stage]] in the training file")
        try:
            config = CodecConfig.from_dict({**PRESETS[preset].to_dict(), **codec})
            values["augment"] = AugmentConfig(**values.get("augment", {}))
            built = cls(codec=config, stages=tuple(Stage(**stage) for stage in stages), raw=raw, **values)
        except TypeError as error:
            raise ConfigError(f"training file: {error}") from error
        for stage in built.stages:
            unknown = sorted(set(stage.losses) - set(LOSSES))
            if unknown or stage.steps < 1 or stage.lr <= 0 or stage.lr_end <= 0:
                raise ConfigError(
                    f"stage '{stage.name}': needs steps ≥ 1, positive learning rates and losses out of {list(LOSSES)}"
                    + (f"; unknown {unknown}" if unknown else "")
                )
        if built.segment_length < built.codec.frame_size or built.batch_size < 1:
            raise ConfigError("batch_size must be at least 1 and segment_seconds at least one frame")
        if not built.expire and built.codec.quantizer == "fsq":
            raise ConfigError("expire is off, but fsq has no entries that could expire; it is for rvq and vq")
        if not built.data_pool and built.codec.quantizer != "vq":
            raise ConfigError(f"data_pool is off, but {built.codec.quantizer} has none; it is for vq")
        if not isinstance(built.tensorboard_audio, int) or built.tensorboard_audio < 0:
            raise ConfigError(f"tensorboard_audio is {built.tensorboard_audio!r}; give a number of clips, or 0 for none")
        return built

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        values.pop("raw")
        return {**values, "codec": self.codec.to_dict()}
