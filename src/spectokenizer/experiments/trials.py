"""The three experiments as data: a list of trials, each a few settings away from the others, one budget for all, what to measure.

A trial's recipe is what `TrainConfig.from_dict` takes: the settings that all share, with the trial's own laid over them. It holds
nothing but what is set on purpose, so that a default added later does not make another trial of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import PRESETS, CodecConfig
from ..errors import ConfigError
from ..training.config import TrainConfig

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Trial:
    """One variant: `codec` and `training` are what differs from the experiment's own settings."""

    name: str  # its folder
    label: str  # its row
    codec: Settings = field(default_factory=dict)
    training: Settings = field(default_factory=dict)
    paper: Settings = field(default_factory=dict)  # column: what the paper says of it


@dataclass(frozen=True)
class Budget:
    """What each trial gets, the same for all."""

    steps: int
    batch_size: int = 8  # clips
    segment_seconds: float = 1.0

    @property
    def audio_seconds(self) -> float:
        return self.steps * self.batch_size * self.segment_seconds


@dataclass(frozen=True)
class Part:
    """A stage of every trial: `share` of the budget's steps, and its settings."""

    name: str
    share: float
    settings: Settings


@dataclass(frozen=True)
class Experiment:
    name: str
    title: str
    question: str
    trials: tuple[Trial, ...]
    reference: str  # the trial that the others are compared with; it runs with every seed
    codebooks: int  # how many of a codec's codebooks are used when it is measured
    parts: tuple[Part, ...]
    budget: Budget  # about ten hours on two CPU cores at 2 GHz, see docs/experiments/README.md
    paper: str = ""  # where the paper's columns come from
    codec: Settings = field(default_factory=dict)
    training: Settings = field(default_factory=dict)

    def trial(self, name: str) -> Trial:
        return next(trial for trial in self.trials if trial.name == name)

    def recipe(self, trial: Trial, seed: int, with_autoencoder: bool = True) -> dict[str, Any]:
        """The training file of a trial, as a dict. A run that begins with a trained network does not need the autoencoder again:
        its steps go to the other stages.

        Raises ConfigError when the budget has fewer steps than stages.
        """
        parts = [part for part in self.parts if with_autoencoder or part.settings["quantize"]]
        if not with_autoencoder:  # codebooks begin afresh in every trial, also where those of the network's folder would fit
            parts[0] = dataclasses.replace(parts[0], settings={**parts[0].settings, "new_codebooks": True})
        if self.budget.steps < len(parts):
            raise ConfigError(f"{self.budget.steps} steps for {len(parts)} stages; give at least {len(parts)}")
        whole, steps = sum(part.share for part in parts), list[int]()
        for i, part in enumerate(parts):
            left, later = self.budget.steps - sum(steps), len(parts) - 1 - i
            steps.append(min(max(1, round(self.budget.steps * part.share / whole)), left - later) if later else left)
        return {
            **COMMON,
            "warmup_steps": min(100, self.budget.steps // 10 + 1),
            "validate_every": self.budget.steps,
            "batch_size": self.budget.batch_size,
            "segment_seconds": self.budget.segment_seconds,
            "seed": seed,
            **self.training,
            **trial.training,
            "codec": {"preset": "mini", "name": trial.name, **self.codec, **trial.codec},
            "stage": [{"name": part.name, "steps": n, **part.settings} for part, n in zip(parts, steps, strict=True)],
        }

    def config(self, trial: Trial, seed: int = 0) -> TrainConfig:
        """Raises ConfigError for settings that do not go together."""
        return TrainConfig.from_dict(self.recipe(trial, seed))

    def codec_config(self, trial: Trial) -> CodecConfig:
        codec: CodecConfig = self.config(trial).codec
        return codec

    def with_steps(self, steps: int) -> Experiment:
        return dataclasses.replace(self, budget=dataclasses.replace(self.budget, steps=steps))

    def with_audio(self, seconds: float) -> Experiment:
        """The budget as seconds of audio per trial."""
        return self.with_steps(max(1, round(seconds / (self.budget.batch_size * self.budget.segment_seconds))))

    def smoke(self) -> Experiment:
        """Every trial and stage with next to no steps, data and codes: shows that all of it runs, and nothing else."""
        small = {"codebook_size": 64, "codebook_dim": 3}
        narrow = {"channels": (4, 8, 8, 8, 16), "num_codebooks": 2}

        def shrink(codec: Settings) -> dict[str, Any]:
            return {k: small.get(k, min(v, 2) if k == "num_codebooks" else v) for k, v in codec.items()}

        return dataclasses.replace(
            self,
            title=f"{self.title} (smoke)",
            budget=Budget(len(self.parts) + 1, 2, 0.4),
            codec=shrink({**small, **narrow, **self.codec}),
            trials=tuple(dataclasses.replace(trial, codec=shrink(trial.codec)) for trial in self.trials),
            training={**self.training, "init_batches": 2, "log_every": 1, "discriminator_width": 0.05},
        )


# Discriminators of full width are too much for a CPU, and with the spectrum as it is they learn nothing in so short a time.
COMMON = {"tensorboard_audio": 0, "discriminator_width": 0.25, "discriminator_compression": 0.3}

# Most of what phases are worth is learnt here: 47 MMAC/s with 300 steps of it and 1 700 quantised ones had an SI-SDR of −34 dB.
AUTOENCODER = {
    "quantize": False,
    "lr": 2e-3,
    "lr_end": 1e-3,
    "losses": {"waveform": 1.0, "bands": 3.0, "complex": 5.0, "magnitude": 1.0, "mel": 0.5},
}
QUANTIZED = {
    "quantize": True,
    "lr": 1e-3,
    "lr_end": 1e-4,
    "losses": {"waveform": 1.5, "coherence": 1.0, "complex": 5.0, "magnitude": 6.0, "mel": 4.0, "disturbance": 1.5, "commitment": 0.1},
}
ADVERSARIAL = {
    "quantize": True,
    "lr": 2e-4,
    "lr_end": 5e-5,
    "lr_discriminator": 2e-3,
    "losses": {**QUANTIZED["losses"], "adversarial": 1.0, "feature": 2.0},  # type: ignore[dict-item]
}

# Mini's proportions, narrower. The C loops want multiples of 8 from channels[1] on; the rung at 80 is `micro`.
LADDER = {  # wanted MMAC/s: channels
    20: (4, 8, 8, 16, 24),  # 21.8: with channels[0] a multiple of 8, too, nothing is below 28
    45: (8, 8, 16, 32, 40),  # 46.9
    80: PRESETS["micro"].channels,  # 81.5
    150: (12, 16, 32, 56, 80),  # 150.7
    234: PRESETS["mini"].channels,  # 234.2
}


def rung(wanted: int, channels: Sequence[int]) -> Trial:
    directions = min(PRESETS["mini"].codebook_dim, channels[-1])  # a stage cannot see more than there are
    macs = CodecConfig(channels=tuple(channels), codebook_dim=directions).macs_per_second / 1e6
    codec = {"channels": list(channels), "codebook_dim": directions}
    return Trial(f"mmac{wanted}", f"{macs:.0f} MMAC/s: {', '.join(map(str, channels))}", codec)


MINIATURISE = Experiment(
    name="miniaturise",
    title="Miniaturisation",
    question="How much quality does a multiply-accumulate buy? Widths from a tenth of mini's cost up, one budget, 4 kbit/s.",
    trials=tuple(rung(wanted, channels) for wanted, channels in LADDER.items()),
    reference="mmac234",
    codebooks=8,
    parts=(Part("autoencoder", 0.35, AUTOENCODER), Part("quantized", 0.65, QUANTIZED)),
    budget=Budget(14000),
)

ABLATION = Experiment(
    name="ablation",
    title="Ablation",
    question="What is each part of the codec and of its training worth? One changed at a time, one budget, 6 kbit/s.",
    trials=(
        Trial("full", "full model", paper={"pesq_wb": 3.47, "si_sdr": 10.47}),
        Trial("no-compression", "without DRC/DRE", {"compression": 1.0}, paper={"pesq_wb": 3.39, "si_sdr": 10.26}),
        Trial("batchnorm", "FLNorm → BatchNorm", {"norm": "batch"}, paper={"pesq_wb": 3.39, "si_sdr": 10.24}),
        Trial("relu", "Snake2D → ReLU", {"activation": "relu"}, paper={"pesq_wb": 3.15, "si_sdr": 8.88}),
        Trial("one-scale", "RNN2D at the largest scale only", {"recurrence": "finest"}, paper={"pesq_wb": 3.31, "si_sdr": 9.69}),
        Trial("real-stem", "real first convolution", {"complex_stem": False}),
        Trial("no-mpd", "without MPD", training={"mpd": False}),
        Trial("no-mbms-stft", "without MBMS-STFT", training={"mbms_stft": False}),
    ),
    reference="full",
    codebooks=12,
    parts=(Part("autoencoder", 0.35, AUTOENCODER), Part("quantized", 0.55, QUANTIZED), Part("adversarial", 0.1, ADVERSARIAL)),
    budget=Budget(4000),
    paper="Wan et al., INTERSPEECH 2025: base at 6 kbit/s on Codec-SUPERB, its SDR not scale-invariant: to compare signs, not sizes",
)

_SINGLE = {"num_codebooks": 1, "codebook_size": 32768, "codebook_dim": 8, "quantizer": "vq"}

SINGLE_CODEBOOK = Experiment(
    name="single-codebook",
    title="Single codebook",
    question="What makes one large codebook work? 32768 entries, 750 bit/s, taken apart as in the paper.",
    trials=(
        Trial("rvq-1", "RVQ, one codebook of 1024", {**_SINGLE, "codebook_size": 1024, "quantizer": "rvq"}),
        Trial("vq", "VQ plain", _SINGLE, {"expire": False, "data_pool": False}, paper={"utilisation": 62.0, "pesq_wb": 1.63}),
        Trial("vq-expiration", "VQ + expiration", _SINGLE, {"data_pool": False}, paper={"utilisation": 93.4, "pesq_wb": 1.65}),
        Trial("vq-pool", "VQ + expiration + data pool", _SINGLE, paper={"utilisation": 94.8, "pesq_wb": 1.72}),
        Trial("vq-32", "VQ + both, 32 directions instead of 8", {**_SINGLE, "codebook_dim": 32}),
        Trial("pair", "sums of two small tables, 32 directions", {**_SINGLE, "codebook_dim": 32, "quantizer": "pair"}),
        Trial("fsq", "FSQ, 5 numbers of 8 levels", {**_SINGLE, "codebook_dim": 5, "quantizer": "fsq"}),
    ),
    reference="vq",
    codebooks=1,
    parts=(Part("autoencoder", 0.35, AUTOENCODER), Part("quantized", 0.65, QUANTIZED)),
    budget=Budget(10000),
    paper="Wan et al., INTERSPEECH 2025: base, 32k entries, LibriTTS test",
)

EXPERIMENTS = {experiment.name: experiment for experiment in (SINGLE_CODEBOOK, MINIATURISE, ABLATION)}
