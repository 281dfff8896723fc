"""Training, top to bottom in one file: run() sets up, loops over steps, logs, validates and saves.

Everything a step depends on is its number and the state on disk, so a killed run goes on where it was:
    spectok train --config configs/mini.toml --data DIR --out RUN          start, or go on
    spectok train ... --devices 2                                          one process per core or GPU (DDP)
    torchrun --nnodes 4 --nproc-per-node 8 ... -m spectokenizer train ...  many machines: torchrun says how many processes
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.progress
import torch
from lightning_fabric import Fabric
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from torch.utils.tensorboard import SummaryWriter

from ..codes import codebook_usage
from ..config import CodecConfig
from ..disk import cache_folder, lock, replace_text
from ..errors import ConfigError, TrainingError
from ..model import kernels
from ..model.discriminators import Discriminators
from ..model.spectokenizer import SpecTokenizer, build
from . import augment, checkpoint, data, losses
from .balancer import Balancer
from .config import Stage, TrainConfig
from .muon import Muon
from .samples import Samples, rate_name

MAX_ROLLBACKS, FORGIVEN = 3, 1000  # so many returns to an earlier state within so many steps
FEWEST_TOKENS = 500  # from fewer nobody can tell that a codebook has collapsed


@dataclass
class State:
    """All that changes while training."""

    model: Any  # SpecTokenizer as wrapped by Fabric
    averaged: AveragedModel
    optimizers: list[Any]
    balancer: Balancer
    discriminators: Any = None  # made when the first adversarial stage begins
    discriminator_optimizer: Any = None
    step: int = 0
    seconds: float = 0.0  # of audio seen, over all processes
    rollbacks: list[int] = field(default_factory=list)  # steps at which a loss that was no number sent it back to its last saved state
    codebooks_ready: bool = False  # they fit the latents: initialised, and no unquantised step came after

    def save(self, run: Path, config: TrainConfig) -> None:
        checkpoint.save_state(
            run,
            {
                "model": _plain(self.model).state_dict(),
                "quantizer_memory": _plain(self.model).quantizer.memory(),
                "averaged": self.averaged.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "balancer": self.balancer.state_dict(),
                "discriminators": self.discriminators and _plain(self.discriminators, Discriminators).state_dict(),
                "discriminator_optimizer": self.discriminator_optimizer and self.discriminator_optimizer.state_dict(),
                "step": self.step,
                "seconds": self.seconds,
                "rollbacks": self.rollbacks,
                "codebooks_ready": self.codebooks_ready,
                "codec": config.codec.to_dict(),
            },
        )
        about = {
            "steps": self.step,
            "audio_seconds": round(self.seconds),
            "codebooks_ready": self.codebooks_ready,
            "recipe": config.to_dict(),
        }
        checkpoint.save_model(run, self.averaged.module, config.codec, about)

    def load(self, saved: dict[str, Any], config: TrainConfig) -> None:
        if differs := checkpoint.differences(CodecConfig.from_dict(saved.get("codec", config.codec.to_dict())), config.codec):
            raise ValueError(differs)
        _plain(self.model).load_state_dict(saved["model"])
        _plain(self.model).quantizer.load_memory(saved.get("quantizer_memory", {}))
        self.averaged.load_state_dict(saved["averaged"])
        for optimizer, values in zip(self.optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
            for group in optimizer.param_groups:
                group["weight_decay"] = config.weight_decay  # the file may have changed since
        self.balancer.load_state_dict(saved.get("balancer", self.balancer.state_dict()))
        self.step, self.seconds, rollbacks = saved["step"], saved["seconds"], saved.get("rollbacks", [])
        self.rollbacks = [0] * rollbacks if isinstance(rollbacks, int) else rollbacks  # a number once
        self.codebooks_ready = saved.get("codebooks_ready", self.step > config.first_quantized_step)
        if not saved.get("discriminators"):
            self.discriminators = self.discriminator_optimizer = None
        elif self.discriminators is not None:
            self._load_discriminators(saved)

    def add_discriminators(self, fabric: Fabric, config: TrainConfig, saved: dict[str, Any] | None = None) -> None:
        """The second player of the adversarial stages, as it was saved when it was."""
        module = Discriminators(config.discriminator_width, config.mpd, config.mbms_stft, config.discriminator_compression)
        optimizer = torch.optim.AdamW(module.parameters(), lr=1.0, betas=(0.8, 0.99))
        self.discriminators, self.discriminator_optimizer = fabric.setup(module, optimizer)
        if saved:
            self._load_discriminators(saved)

    def _load_discriminators(self, saved: dict[str, Any]) -> None:
        _plain(self.discriminators, Discriminators).load_state_dict(saved["discriminators"])
        self.discriminator_optimizer.load_state_dict(saved["discriminator_optimizer"])


def make_optimizers(model: torch.nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of encoder and decoder, whatever their size (and the first level's bias per band and channel: so all
    bundled models were trained), AdamW for everything else."""
    matrices, rest = [], []
    for name, parameter in model.named_parameters():
        (matrices if parameter.ndim == 2 and not name.startswith("quantizer.") else rest).append(parameter)
    adam = torch.optim.AdamW(rest, lr=1.0, betas=(0.8, 0.99), weight_decay=config.weight_decay)
    if not config.muon:
        return [torch.optim.AdamW([*model.parameters()], lr=1.0, betas=(0.8, 0.99), weight_decay=config.weight_decay)]
    return [adam, Muon(matrices, lr=1.0, weight_decay=config.weight_decay)]


def exponential_average(decay: float) -> Any:
    """Moving average of the weights that forgets its first steps: the decay rises to its value over ten times 1/(1 − decay) steps."""

    def update(averaged: list[Tensor], current: list[Tensor], count: Tensor) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(averaged, current, 1 - now)

    return update


def learning_rate(stage: Stage, step: int, warmup: int) -> float:
    """Exponential from `lr` to `lr_end`, after a linear warm-up at the start of the stage."""
    decay = (stage.lr_end / stage.lr) ** (step / max(1, stage.steps))
    return stage.lr * decay * min(1.0, (step + 1) / max(1, warmup))


def draw_active(config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """Codebooks per clip: all of them, or with probability `quantizer_dropout` any number from 1."""
    k = config.codec.num_codebooks
    return np.where(rng.random(config.batch_size) < config.quantizer_dropout, rng.integers(1, k + 1, config.batch_size), k)


def draw_lost(config: TrainConfig, rng: np.random.Generator) -> np.ndarray:
    """Which frames [T, B] never arrive: of each `frame_loss`-th clip 5 to 30 %, in bursts of 1 to 6 frames on average."""
    frames, clips = config.segment_length // config.codec.frame_size, config.batch_size
    rate, burst = rng.uniform(0.05, 0.3, clips), rng.uniform(1, 6, clips)
    return augment.bursts(frames, rate * (rng.random(clips) < config.frame_loss), burst, rng)


def compute_losses(
    model: Any,
    x: Tensor,
    stage: Stage,
    active: Tensor | None,
    update: bool,
    generator: torch.Generator | None,
    sample_rate: int,
    lost: Tensor | None = None,
) -> tuple[dict[str, Tensor], Tensor, Tensor | None]:
    """Losses by name, the output, and the codes [N, K] of a batch x [B, N]."""
    y, _, quantized = model(x, active, stage.quantize, update, lost)
    target = x[:, : y.shape[1]]
    values = losses.reconstruction(target, y, sample_rate, generator)
    if quantized is not None:
        values["commitment"] = quantized.commitment
    return values, y, None if quantized is None else quantized.codes


def train_discriminators(fabric: Fabric, state: State, real: Tensor, fake: Tensor, lr: float, clip: float) -> Tensor:
    """One step of the second player; returns its loss."""
    features = state.discriminators(torch.cat([real, fake.detach()]))  # one pass: DDP wants one per backward
    halves = [[[f.chunk(2)[i] for f in member] for member in features] for i in (0, 1)]
    loss = losses.discriminator(*halves)
    fabric.backward(loss)
    torch.nn.utils.clip_grad_norm_(state.discriminators.parameters(), 10 * clip)
    for group in state.discriminator_optimizer.param_groups:
        group["lr"] = lr
    state.discriminator_optimizer.step()
    state.discriminator_optimizer.zero_grad()
    return loss.detach()


def judge(discriminators: Any, real: Tensor, fake: Tensor) -> dict[str, Tensor]:
    """`adversarial` and `feature` losses of the codec's output; nothing is learned by the judges here."""
    module = _plain(discriminators, Discriminators)
    module.requires_grad_(False)
    with torch.no_grad():
        wanted = module(real)
    values = losses.adversarial(wanted, module(fake))
    module.requires_grad_(True)
    return values


def weighted(values: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    return sum((weights[name] * value for name, value in values.items() if weights.get(name)), torch.zeros(()))


@torch.no_grad()
def validate(model: SpecTokenizer, clips: data.Clips, config: TrainConfig, stage: Stage) -> dict[str, float]:
    """Averaged weights on pieces of held-out clips, at several numbers of codebooks."""
    c = config.codec
    length = min(3 * c.sample_rate, 3 * config.segment_length) // c.frame_size * c.frame_size
    rows = clips.batch(min(len(clips), 32), length, np.random.default_rng(1))
    x = torch.from_numpy(augment.set_level(rows, np.random.default_rng(2))).to(next(model.parameters()).device)
    out: dict[str, float] = {}
    for k in sorted({min(k, c.num_codebooks) for k in (1, 3, 8, c.num_codebooks)}) if stage.quantize else [0]:
        active = torch.full((len(x),), k, device=x.device) if k else None
        values, y, codes = compute_losses(model, x, stage, active, False, None, c.sample_rate)
        name = rate_name(c, k)
        out |= {f"{name}/{key}": float(value) for key, value in values.items()}
        out[f"{name}/si_sdr"] = float(losses.si_sdr(x[:, : y.shape[1]], y).mean())
        if codes is not None and k == c.num_codebooks:
            heard = (x.unflatten(1, (-1, c.frame_size)) != 0).any(-1).T.flatten()  # short clips sit in silence, which says nothing
            books = codes[heard].T.cpu().numpy()
            for i, use in enumerate(codebook_usage(books, c.codebook_size)):
                out |= {f"codebook{i}/{key}": float(value) for key, value in use._asdict().items()}
            if c.quantizer == "pair":
                coarse, fine = c.pair_sizes
                out["codebook0/coarse_perplexity"] = codebook_usage(books % coarse, coarse)[0].perplexity
                out["codebook0/fine_perplexity"] = codebook_usage(books // coarse, fine)[0].perplexity
    return out


def _refuse_collapse(measured: dict[str, float], config: TrainConfig, stage: Stage, stage_step: int) -> None:
    """A codebook that says next to nothing after a thousand steps will not recover by itself. Where nothing expires, that was asked for."""
    if not config.expire:
        return
    for i in range(config.codec.num_codebooks):
        perplexity, size = measured.get(f"codebook{i}/perplexity"), config.codec.codebook_size
        tokens = measured.get(f"codebook{i}/tokens", size)
        possible = min(size, tokens)  # with fewer tokens than entries
        if perplexity is not None and stage_step > 1000 and tokens >= FEWEST_TOKENS and perplexity < 0.02 * possible:
            raise TrainingError(
                f"codebook {i} collapsed in stage '{stage.name}': perplexity {perplexity:.1f} of {possible:.0f}; "
                "lower the learning rate or raise the commitment weight, and start again in another folder"
            )
        for table in ("coarse", "fine"):
            perplexity = measured.get(f"codebook{i}/{table}_perplexity")
            if perplexity is not None and stage_step > 1000 and tokens >= FEWEST_TOKENS and perplexity < 1.5:
                raise TrainingError(
                    f"the {table} table of the pair has one entry in use in stage '{stage.name}'; raise the commitment weight"
                )


def run(
    config: TrainConfig,
    source: str | Path,
    out: str | Path,
    validation: str | Path | None = None,
    devices: int = 1,
    threads: int | None = None,
    cache: Path | None = None,
    max_steps: int | None = None,
    noise: str | Path | None = None,
    init: str | Path | None = None,
) -> None:
    """Train `config` on the audio of `source` into the folder `out`, going on where an earlier run stopped.

    `source`, `validation` and `noise` are what `data.find` takes; without `noise`, noise to augment with is made.

    `init` is a folder with the weights to begin with, codebooks and all: `models/mini`, or another run's. A codec with the same
    network's weights but, say, another quantiser gives only those; codebooks then start where the first quantised stage does.

    The folder gets `weights.safetensors` and `config.json` (averaged weights), `state.pt` (to go on), `metrics.jsonl`
    and TensorBoard events. Stops cleanly at Ctrl-C, SIGTERM or `max_steps`.
    Raises ConfigError for sources without audio, for a folder that holds a run of another codec or is written by another process,
    TrainingError when the loss is no number.
    """
    if noise and not config.augment.noise:
        raise ConfigError("noise is given, but its probability is 0; set noise in [augment] of the training file")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # What is wrong is said once, by the first process, before it starts the others; on every machine the first one decodes.
    first_here = os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")) == "0"
    first = first_here and os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    with (out / "lock").open("a") as file:
        if first:
            lock(file, f"{out}: another training is writing there; stop it, or give another folder")
        for audio in filter(None, (source, validation, noise) if first_here else ()):
            data.Clips.open(audio, config.codec.sample_rate, cache)
        _train(config, source, out, validation, devices, threads, cache, max_steps, noise, init)


def _train(
    config: TrainConfig,
    source: str | Path,
    out: Path,
    validation: str | Path | None,
    devices: int,
    threads: int | None,
    cache: Path | None,
    max_steps: int | None,
    noise: str | Path | None,
    init: str | Path | None,
) -> None:
    nodes = 1
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process, and the others
        devices, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
    strategy = "auto" if devices * nodes == 1 else "ddp_find_unused_parameters_true"
    try:
        fabric = Fabric(devices=devices, num_nodes=nodes, strategy=strategy)
    except MisconfigurationException as error:
        raise ConfigError(f"{devices} devices: {error}") from error
    fabric.launch()
    torch.set_flush_denormal(True)  # a GRU on silence otherwise runs at half speed
    if fabric.device.type == "cpu":
        torch.set_num_threads(threads or max(1, (torch.get_num_threads() // devices)))
        kernels.keep_memory()
        if not kernels.enable(cache or cache_folder()) and fabric.global_rank == 0:
            rich.print("[yellow]no C compiler found:[/] training is slower without (see model/kernels.py)")
    rank, main = fabric.global_rank, fabric.global_rank == 0
    console = rich.console.Console(quiet=not main)

    clips = data.Clips.open(source, config.codec.sample_rate, cache)
    if validation:
        held = data.Clips.open(validation, config.codec.sample_rate, cache)
    else:
        clips, held = clips.split(config.validation_share)
    noises = data.Clips.open(noise, config.codec.sample_rate, cache) if noise else None
    console.print(f"{clips.seconds / 3600:.2f} h of training audio in {len(clips)} clips, {held.seconds / 60:.1f} min held out")

    augmentation = augment.Augmentation(config.augment, config.codec.sample_rate, noises)

    def draw_batch(rng: np.random.Generator) -> Tensor:
        segments = clips.batch(config.batch_size, config.segment_length, rng)
        return torch.from_numpy(augmentation(segments, rng)).to(fabric.device)

    if init is None:
        model, differs = build(config.codec, config.seed), "everything"
    else:
        model, differs = checkpoint.begin_with(init, config.codec, config.seed)
        if differs:
            console.print(f"encoder and decoder are those of {init}, the quantiser starts afresh; there: {differs}")
    model.quantizer.expire, model.quantizer.data_pool = config.expire, config.data_pool
    averaged = AveragedModel(model, multi_avg_fn=exponential_average(config.ema_decay)).to(fabric.device)
    optimizers = make_optimizers(model, config)
    wrapped, *wrapped_optimizers = fabric.setup(model, *optimizers)
    state = State(wrapped, averaged, list(wrapped_optimizers), Balancer(), codebooks_ready=not differs)
    saved = checkpoint.load_state(out)
    if saved is not None:
        try:
            state.load(saved, config)
            if saved.get("discriminators"):
                state.add_discriminators(fabric, config, saved)
        except (RuntimeError, KeyError, ValueError, TypeError) as error:
            raise ConfigError(f"{out} holds a run of another codec or optimiser; choose another folder ({error})") from error
        console.print(f"going on at step {state.step}")

    if main:
        _forget_after(out / "metrics.jsonl", state.step)
    writer = SummaryWriter(out, purge_step=state.step) if main else None
    samples = Samples(writer, held, config) if writer else None

    def log(kind: str, values: dict[str, float]) -> None:
        if writer:
            row = {"kind": kind, "step": state.step, **{k: float(f"{v:.6g}") for k, v in values.items()}}
            with (out / "metrics.jsonl").open("a", encoding="utf-8") as metrics:
                metrics.write(json.dumps(row) + "\n")
            for key, value in values.items():
                writer.add_scalar(f"{kind}/{key}", value, state.step)

    c = config.codec
    total = min(config.steps, max_steps or config.steps)
    last_save = last_log = time.monotonic()
    sums, counts = dict[str, float](), dict[str, int]()  # a stage may begin between two rows, and bring other losses
    tokens_per_step = config.batch_size * config.segment_length // c.frame_size
    seen: deque[Tensor] = deque(maxlen=max(config.log_every, -(-4 * c.codebook_size // tokens_per_step)))  # 4 tokens per entry or more
    columns = (
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeRemainingColumn(),
        rich.progress.TextColumn("{task.fields[status]}"),
    )
    with ExitStack() as stack:
        asked = stack.enter_context(_asked_to_stop())
        if writer:
            stack.enter_context(closing(writer))
        bar = stack.enter_context(rich.progress.Progress(*columns, console=console, refresh_per_second=1))
        task = bar.add_task("training", total=total, completed=state.step, status="")
        stopping = False
        while state.step < total and not stopping:
            stage, stage_step = config.stage_at(state.step)
            rng = np.random.default_rng([config.seed, rank, state.step, len(state.rollbacks)])
            torch.manual_seed(config.seed + state.step)  # a resumed run draws what an uninterrupted one would have drawn
            if stage.freeze_encoder and stage_step == 0:  # what is frozen are the averaged weights, those that are exported
                _plain(state.model).load_state_dict(state.averaged.module.state_dict())
            if stage.quantize and (not state.codebooks_ready or (stage.new_codebooks and stage_step == 0)):
                if main:
                    state.save(out, config)  # k-means of a large codebook takes minutes, and is not stopped in between
                _initialize_codebooks(state, draw_batch, config, rng)
            state.codebooks_ready = stage.quantize
            x = draw_batch(rng)
            active = torch.from_numpy(draw_active(config, rng)).to(fabric.device)
            lost = torch.from_numpy(draw_lost(config, rng)).to(fabric.device) if stage.quantize and config.frame_loss else None
            generator = torch.Generator().manual_seed(state.step)  # the same on every rank: they meet at the same losses

            _plain(state.model).freeze_encoder(stage.freeze_encoder)
            update = stage.quantize and not stage.freeze_encoder
            values, y, codes = compute_losses(state.model, x, stage, active, update, generator, c.sample_rate, lost)
            logged_only = {}
            if stage.adversarial:
                if state.discriminators is None:
                    state.add_discriminators(fabric, config)
                target = x[:, : y.shape[1]]
                lr = learning_rate(stage, stage_step, config.warmup_steps) * stage.lr_discriminator / stage.lr
                logged_only["discriminator"] = train_discriminators(fabric, state, target, y, lr, config.gradient_clip)
                values |= judge(state.discriminators, target, y)
            loss = state.balancer(values, stage.losses, y) if config.balance else weighted(values, stage.losses)
            finite, stopping = _agree(fabric, loss, asked.is_set())
            if finite:
                fabric.backward(loss)
                norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.gradient_clip)
                finite = bool(norm.isfinite())  # gradients are averaged: it is the same on every process
            if not finite:
                _roll_back(state, out, config, stage)
                if main:
                    _forget_after(out / "metrics.jsonl", state.step)
                sums, counts = {}, {}
                seen.clear()
                continue
            quality = losses.si_sdr(x[:, : y.shape[1]], y.detach()).mean()
            for optimizer in state.optimizers:
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(stage, stage_step, config.warmup_steps)
                optimizer.step()
                optimizer.zero_grad()
            state.averaged.update_parameters(_plain(state.model))
            state.step += 1
            state.seconds += x.shape[0] * x.shape[1] / c.sample_rate * fabric.world_size

            for key, value in {**values, **logged_only, "loss": loss, "gradient_norm": norm, "si_sdr": quality}.items():
                sums[key] = sums.get(key, 0.0) + float(value.detach())
                counts[key] = counts.get(key, 0) + 1
            if codes is not None:
                seen.append(codes)
            if state.step % config.log_every == 0:
                now = time.monotonic()
                logged = {key: value / counts[key] for key, value in sums.items()}
                logged["audio_seconds"] = state.seconds
                logged["audio_seconds_per_second"] = counts["loss"] * x.numel() / c.sample_rate * fabric.world_size / (now - last_log)
                if seen:
                    use = codebook_usage(torch.cat([*seen]).T.cpu().numpy(), c.codebook_size)
                    logged["utilisation_min"] = min(book.utilisation for book in use)
                    logged["perplexity_mean"] = float(np.mean([book.perplexity for book in use]))
                log("train", logged)
                names = " ".join(f"{key} {logged[key]:.4g}" for key in values)
                bar.update(task, status=f"{stage.name}: {names} | {logged['audio_seconds_per_second']:.1f} s/s")
                sums, counts, last_log = {}, {}, now
            bar.update(task, completed=state.step)

            if state.step % config.validate_every == 0 or state.step == total:
                measured: dict[str, float] = {}
                if samples:
                    state.averaged.eval()
                    measured = validate(state.averaged.module, held, config, stage)
                    log("validation", measured)
                    samples.write(state.averaged.module, stage, state.step)
                _refuse_collapse(fabric.broadcast(measured), config, stage, stage_step)  # every process stops, or none
                last_log = time.monotonic()
            if main and time.monotonic() - last_save > config.save_minutes * 60:
                state.save(out, config)
                last_save = time.monotonic()
        if main:
            state.save(out, config)
    console.print(f"step {state.step} of {config.steps}, {state.seconds / 3600:.1f} h of audio seen; saved in {out}")


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by SIGINT or SIGTERM, to end after the step; afterwards those do again what they did before."""
    asked = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, lambda *_: asked.set()) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agree(fabric: Fabric, loss: Tensor, asked: bool) -> tuple[bool, bool]:
    """Whether the loss is a number on every process, and whether any was asked to stop: all must do the same next."""
    troubles = torch.stack([~torch.isfinite(loss.detach()), torch.tensor(asked, device=loss.device)]).float()
    no_number, stop = fabric.all_reduce(troubles, reduce_op="sum").tolist()
    return not no_number, bool(stop)


def _roll_back(state: State, out: Path, config: TrainConfig, stage: Stage) -> None:
    """Back to the last saved state, to go on with other batches; not for ever."""
    saved, before = checkpoint.load_state(out), state.rollbacks
    recent = sum(step > state.step - FORGIVEN for step in before)
    if saved is None or recent >= MAX_ROLLBACKS:
        raise TrainingError(
            f"the loss is no number at step {state.step}, after {recent} returns to an earlier state; "
            f"lower the learning rate of stage '{stage.name}'"
        )
    failed_at = state.step
    state.load(saved, config)
    for optimizer in state.optimizers:
        optimizer.zero_grad()
    state.rollbacks = [*before, failed_at]


def _forget_after(metrics: Path, step: int) -> None:
    """Drop what a killed run logged after its last saved state: those steps come again."""
    if metrics.exists():
        lines = metrics.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
        replace_text(metrics, "".join(kept))


def _plain(model: Any, kind: type = SpecTokenizer) -> Any:
    """The module inside Fabric's (and DDP's) wrappers."""
    while not isinstance(model, kind):
        model = model.module
    return model


@torch.no_grad()
def _initialize_codebooks(
    state: State, draw_batch: Callable[[np.random.Generator], Tensor], config: TrainConfig, rng: np.random.Generator
) -> None:
    model = _plain(state.model)
    latents: list[Tensor] = []
    while len(latents) < config.init_batches or sum(map(len, latents)) < model.quantizer.wanted:
        x = draw_batch(rng)
        z, _ = model.latents(x, model.encoder.initial_state(len(x)))
        latents.append(z.flatten(0, 2))
    model.quantizer.initialize(torch.cat(latents), torch.Generator().manual_seed(config.seed), len(latents))
    state.averaged.module.quantizer.load_state_dict(model.quantizer.state_dict())
