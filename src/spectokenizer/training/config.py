"""A training run as a TOML file: the codec, the data, the optimiser, and stages with their losses."""

from __future__ import annotations

import dataclasses
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import PRESETS, CodecConfig
from ..errors import ConfigError

RANGES = {  # least and greatest of the numbers at the top of a file
    "batch_size": (1, 1 << 20),
    "segment_seconds": (0.0, 3600.0),
    "seed": (0, 1 << 62),
    "warmup_steps": (0, 1 << 40),
    "gradient_clip": (1e-9, 1e9),
    "discriminator_width": (1e-3, 16.0),
    "discriminator_compression": (0.05, 1.0),
    "weight_decay": (0.0, 1e6),
    "ema_decay": (0.0, 1.0),
    "quantizer_dropout": (0.0, 1.0),
    "frame_loss": (0.0, 1.0),
    "init_batches": (1, 1 << 20),
    "log_every": (1, 1 << 40),
    "validate_every": (1, 1 << 40),
    "validation_share": (1e-6, 0.5),
    "tensorboard_audio": (0, 1 << 20),
    "save_minutes": (0.0, 1e6),
}
LOSSES = ("waveform", "bands", "coherence", "complex", "magnitude", "mel", "disturbance", "commitment", "adversarial", "feature")


def _is(value: object, kind: type) -> bool:
    """Whether a TOML value is of this kind, as Python's annotations mean it: a whole number is a float, too, but a bool is none."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return type(value) is kind


LEAST_SAMPLES = 512  # the window of the loss `disturbance`


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
    new_codebooks: bool = False  # it begins with k-means on today's latents: averages keep what suited those of long ago
    lr_discriminator: float = 1e-4  # used when `adversarial` or `feature` has a weight

    def __post_init__(self) -> None:
        weights = self.losses if isinstance(self.losses, dict) else {}
        numbers = (self.lr, self.lr_end, self.lr_discriminator, *weights.values())
        learned = {name for name, weight in weights.items() if weight}
        checks = {
            f"losses, by name, out of {list(LOSSES)}": isinstance(self.losses, dict) and not set(self.losses) - set(LOSSES),
            "steps, a whole number from 1": _is(self.steps, int) and self.steps >= 1,
            "positive learning rates and weights from 0": all(_is(n, float) for n in numbers)
            and min(numbers) >= 0
            and min(numbers[:3]) > 0,
            "quantize, freeze_encoder and new_codebooks true or false": all(
                _is(flag, bool) for flag in (self.quantize, self.freeze_encoder, self.new_codebooks)
            ),
            "quantize = true where new_codebooks is": bool(self.quantize) or not self.new_codebooks,
            "a loss with a weight, and not commitment alone where nothing can commit": learned
            - (set() if self.quantize and not self.freeze_encoder else {"commitment"}),
        }
        broken = [rule for rule, holds in checks.items() if not holds]
        if broken:
            unknown = sorted(set(map(str, weights)) - set(LOSSES))
            raise ConfigError(f"stage '{self.name}' needs {'; '.join(broken)}" + (f"; unknown: {unknown}" if unknown else ""))

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
            if not (isinstance(value, (int, float)) and 0 <= value <= 1):  # true and false, too
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
    discriminator_compression: float = 1.0  # exponent of the magnitudes that MBMS-STFT sees; published: 1, learns sooner: 0.3
    mpd: bool = True
    mbms_stft: bool = True
    weight_decay: float = 0.0
    muon: bool = True  # for the matrices; AdamW for the rest
    ema_decay: float = 0.999
    quantizer_dropout: float = 0.5
    frame_loss: float = 0.0  # of the quantised clips lose frames on the way to the decoder, in bursts
    expire: bool = True  # entries that nothing chooses are replaced (rvq, vq, pair)
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
        for name in ("codec", "augment"):
            if not isinstance(values.get(name, {}), dict):
                raise ConfigError(f"{name} is {values[name]!r}; make it a table, [{name}]")
        codec = dict(values.pop("codec", {}))
        preset = codec.pop("preset", "mini")
        if preset not in PRESETS:
            raise ConfigError(f"codec preset '{preset}'; known are {sorted(PRESETS)}")
        stages = values.pop("stage", [])
        if not stages or not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise ConfigError("no [[stage]] in the training file")
        for name, (least, greatest) in RANGES.items():
            value = values.get(name, least)
            if not (_is(value, type(least)) and least <= value <= greatest):
                kind = "a whole number" if isinstance(least, int) else "a number"
                raise ConfigError(f"{name} is {value!r}; give {kind} from {least:g} to {greatest:g}")
        for name in ("balance", "mpd", "mbms_stft", "muon", "expire", "data_pool"):
            if not _is(values.get(name, True), bool):
                raise ConfigError(f"{name} is {values[name]!r}; give true or false")
        try:
            config = CodecConfig.from_dict({**PRESETS[preset].to_dict(), **codec})
            values["augment"] = AugmentConfig(**values.get("augment", {}))
            built = cls(codec=config, stages=tuple(Stage(**stage) for stage in stages), raw=raw, **values)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"training file: {error}") from error
        left = built.segment_length - built.codec.delay_samples
        if left < LEAST_SAMPLES:
            raise ConfigError(
                f"segment_seconds is {built.segment_seconds}, of which the losses see {max(0, left)} samples; they need {LEAST_SAMPLES}"
            )
        if any(stage.adversarial for stage in built.stages) and not (built.mpd or built.mbms_stft):
            raise ConfigError("an adversarial stage, but mpd and mbms_stft are both off; it needs a discriminator")
        if built.codec.sample_rate != 16000 and any(stage.losses.get("disturbance") for stage in built.stages):
            raise ConfigError(f"the loss disturbance is made for 16 kHz, the codec has {built.codec.sample_rate} Hz; leave it out")
        if not built.expire and built.codec.quantizer == "fsq":
            raise ConfigError("expire is off, but fsq has no entries that could expire; it is for rvq, vq and pair")
        if not built.data_pool and built.codec.quantizer != "vq":
            raise ConfigError(f"data_pool is off, but {built.codec.quantizer} has none; it is for vq")
        return built

    def to_dict(self) -> dict[str, Any]:
        values = dataclasses.asdict(self)
        values.pop("raw")
        return {**values, "codec": self.codec.to_dict()}
