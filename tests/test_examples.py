"""The examples that nothing else runs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile

from spectokenizer import Vocabulary, load
from spectokenizer.corpus import formats

EXAMPLE = Path(__file__).parents[1] / "examples" / "language_model.py"


@pytest.fixture(scope="module")
def lm() -> ModuleType:
    for name in ("torch", "safetensors"):
        pytest.importorskip(name)
    spec = importlib.util.spec_from_file_location("language_model", EXAMPLE)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("books", "radix"), [(1, (32,)), (1, (2, 2, 2, 2, 2)), (1, (4, 8)), (2, (32,)), (2, (4, 8))])
def test_bits_are_those_of_a_distribution(lm: ModuleType, books: int, radix: tuple[int, ...]) -> None:
    """Whatever the weights, what all tokens cost in one place adds up to a probability of 1; the model sees nothing that comes later."""
    import torch

    torch.manual_seed(0)
    vocabulary = Vocabulary(books, 32)
    model = lm.LanguageModel(vocabulary, radix, context=8, width=16, layers=2, heads=2, dropout=0.0).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    every = torch.arange(vocabulary.size)
    before = torch.randint(vocabulary.size, (7,)).expand(len(every), 7)
    with torch.no_grad():
        bits = model.bits(torch.cat([before, every[:, None]], 1)).sum(-1)
    total = float((2 ** -bits[:, -1].double()).sum())
    if books == 1 or len(radix) == 1:
        assert total == pytest.approx(1, abs=1e-4)
    else:
        assert total < 1  # what the later digits give the wrong codebook is lost, until the model knows better
    assert bits[:, :-1].std(0).max() < 1e-5


@pytest.mark.parametrize("context", [2, 7, 8])
def test_windows_count_every_token_once(lm: ModuleType, context: int) -> None:
    """`measure` on a stream, with a model whose bits depend on nothing: of any length, the sum over the tokens after the first."""
    import torch

    vocabulary = Vocabulary(1, 32)
    model = lm.LanguageModel(vocabulary, (4, 8), context=context, width=16, layers=0, heads=2, dropout=0.0)
    for length in range(2, 40):
        stream = torch.full((length,), vocabulary.first_code)
        total, digits = lm.measure(model, stream, 3)
        assert total == pytest.approx(sum(digits)) and sum(digits) == pytest.approx((length - 1) / length * np.log2(7 * 8), rel=1e-5)


def test_it_learns_what_can_be_learnt(lm: ModuleType, tiny_folder: Path, tmp_path: Path) -> None:
    """Tokens that follow from the one before cost next to nothing, for all that each is as frequent as any other."""
    import torch

    info = load(tiny_folder).info
    codes = [(np.arange(i, i + 200)[None] * 5 % info.codebook_size).astype(np.int16) for i in range(12)]
    (tmp_path / "tokens").mkdir()
    rows = [formats.Row(str(i), c, 1, info.frame_rate, 200 * 320, 16000, "", info.model_hash) for i, c in enumerate(codes)]
    formats.write("webdataset", tmp_path / "tokens", "00000", rows)
    sizes = {"steps": 150, "context": 16, "width": 32, "layers": 1, "heads": 2, "rate": 0.01, "dropout": 0}
    threads = torch.get_num_threads()
    try:
        tokens = ["--tokens", str(tmp_path / "tokens"), "--out", str(tmp_path / "lm"), "--model", str(tiny_folder)]
        lm.main([*tokens, *(f"--{name}={size}" for name, size in sizes.items())])
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
    results = json.loads((tmp_path / "lm" / "results.json").read_text())
    assert results["unigram"] > 5.5 and results["model"] < 0.5


def test_speakers(lm: ModuleType) -> None:
    assert lm.speaker("librispeech/1089__1089-1-2") == "librispeech/1089"
    assert lm.speaker("test-clean/1089/134686/1089-134686-0001") == "1089"
    assert lm.speaker("p225/p225_001") == "p225"
    clips = [(f"{i % 20}/{i}", np.arange(10)) for i in range(100)]
    train, held, speakers = lm.split(clips, 0.05, 0)
    assert (len(train), len(held), speakers) == (95, 5, 1)
    assert lm.split([(f"all/{i}", np.arange(10)) for i in range(100)], 0.05, 0)[2] == 0


def test_language_model(
    lm: ModuleType,
    tiny_folder: Path,
    speech: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From recordings to bits per token and on to a recording that goes on; twice the same."""
    import torch

    monkeypatch.chdir(tmp_path)
    for i in range(12):
        (tmp_path / "speech" / str(i)).mkdir(parents=True)
        soundfile.write(tmp_path / "speech" / str(i) / "a.wav", np.roll(speech, 2000 * i)[:20000], 16000)
    sizes = {"codebooks": 2, "steps": 3, "context": 32, "width": 16, "layers": 1, "heads": 2}
    learning = ["--model", str(tiny_folder), *(f"--{name}={size}" for name, size in sizes.items())]
    going_on = ["--out", "lm", "--continue", "speech/0/a.wav", "--seconds", "1"]
    threads = torch.get_num_threads()
    try:
        lm.main(["--data", "speech", "--out", "lm", *learning])
        assert "speakers that are not trained on" in capsys.readouterr().out
        results = json.loads(Path("lm/results.json").read_text())
        assert results["nominal"] == 6 and 0 < results["model"] < 9 and results["model"] == pytest.approx(sum(results["digits"]))
        assert results["unigram"] > 0 and results["bigram"] > 0 and results["held_out_speakers"] == 1
        lm.main(going_on)
        first = Path("lm/continuation.wav").read_bytes()
        assert soundfile.info("lm/continuation.wav").duration == pytest.approx(20000 / 16000 + 1, abs=0.05)
        lm.main(["--tokens", "lm/tokens", *learning, *going_on])
        assert Path("lm/continuation.wav").read_bytes() == first
        assert json.loads(Path("lm/results.json").read_text()) == results
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
