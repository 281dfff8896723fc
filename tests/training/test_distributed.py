"""Two processes: codebooks start, move and are replaced alike on all of them; torchrun starts a run as `--devices` does."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

torch = pytest.importorskip("torch")
pytest.importorskip("lightning_fabric")

from safetensors.torch import load_file  # noqa: E402

from .test_train import RECIPE  # noqa: E402

WORKER = """
import sys, torch
import torch.distributed as dist
from spectokenizer.model.quantizer import FSQ, PairVQ, ResidualVQ, SingleVQ

rank, meeting, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
torch.manual_seed(rank)  # every process has its own data and its own chance
quantizer = ResidualVQ(dim=12, num_codebooks=3, codebook_size=32, codebook_dim=4)
quantizer.initialize(torch.randn(200, 12), torch.Generator().manual_seed(rank))
started = quantizer.codebooks.clone()
quantizer.codebooks[:, 20:] = 50.0  # far from all data: nobody picks these
quantizer.counts[:, 20:] = 0.0
replaced = 0
for step in range(30):
    before = quantizer.counts.clone()
    quantizer(torch.randn(40, 12) * (1 + rank), update=True)
    replaced += int((quantizer.counts > 1.5 * before + 0.1).sum())
single = SingleVQ(dim=12, codebook_size=32, codebook_dim=4)
single.initialize(torch.randn(200, 12), torch.Generator().manual_seed(rank))
single.codebooks[:, 20:], single.counts[:, 20:] = 50.0, 0.0
for step in range(5):
    single(torch.randn(40, 12) * (1 + rank), update=True)
fsq = FSQ(dim=12, codebook_size=64, codebook_dim=3)
fsq.initialize(torch.randn(200, 12))
pair = PairVQ(dim=12, sizes=(16, 4), codebook_dim=4)
pair.initialize(torch.randn(200, 12), torch.Generator().manual_seed(rank))
for step in range(5):
    pair(torch.randn(40, 12) * (1 + rank), update=True)
others = {"single": {**single.state_dict(), **single.memory()}, "fsq": fsq.state_dict(), "pair": pair.state_dict()}
torch.save({"started": started, **quantizer.state_dict(), "replaced": replaced, **others}, f"{out}/{rank}.pt")
dist.destroy_process_group()  # or gloo's threads may abort the interpreter at its end
"""


@pytest.mark.skipif(sys.platform == "win32", reason="gloo over files")
def test_codebooks_agree_on_all_ranks(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(tmp_path / "worker.py")]
    workers = [
        subprocess.Popen(
            [*command, str(rank), f"file://{tmp_path}/meeting", str(tmp_path)], env=environment, stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    for worker in workers:
        _, errors = worker.communicate(timeout=120)
        assert worker.returncode == 0, errors
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["replaced"] >= 12 * 3  # the dead entries came back
    assert first["codebooks"].abs().max() < 30
    for name in ("started", "codebooks", "counts", "sums"):
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0, msg=name)
    assert first["single"]["pooled"] == 200 + 5 * 40
    assert first["single"]["codebooks"].abs().max() < 30
    for kind in ("single", "fsq", "pair"):
        for name, value in first[kind].items():
            torch.testing.assert_close(value, second[kind][name], rtol=0, atol=0, msg=f"{kind} {name}")


def test_torchrun(tmp_path: Path) -> None:
    """One node here; what torchrun tells a process is the same for many. Through all kinds of stages, the gradients balanced."""
    (tmp_path / "audio").mkdir()
    soundfile.write(tmp_path / "audio" / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(16000), 16000)
    soundfile.write(tmp_path / "audio" / "b.wav", 0.1 * np.random.default_rng(1).standard_normal(16000), 16000)
    adversarial = "[[stage]]" + RECIPE.split("[[stage]]")[2].replace('"quantized"', '"adversarial"').replace(
        "waveform", "adversarial = 1.0, feature = 2.0, waveform"
    )
    recipe = (
        "balance = true\ndiscriminator_width = 0.05\n"
        + RECIPE.replace("steps = 8", "steps = 2")
        + adversarial.replace("steps = 8", "steps = 2")
    )
    (tmp_path / "tiny.toml").write_text(recipe)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    options = ["--config", "tiny.toml", "--data", "audio", "--out", "run", "--cache", "cache", "--threads", "1"]
    done = subprocess.run(
        [sys.executable, "-m", *launch, "-m", "spectokenizer", "train", *options],
        cwd=tmp_path,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["audio_seconds"] == pytest.approx(2 * 2 * 0.4)  # two processes, two clips each
    assert lines[-1]["step"] == 8 and {"adversarial", "feature", "discriminator"} <= {key for line in lines for key in line}
    assert all(value.isfinite().all() for value in load_file(tmp_path / "run" / "weights.safetensors").values())
