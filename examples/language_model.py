"""A small language model of speech on the codec's tokens: what they cost in bits, and how it goes on speaking.

    python examples/language_model.py --data SPEECH/ --model mini-single --minutes 5 --out lm/
    python examples/language_model.py --tokens TOKENS/ --model mini --codebooks 2 --minutes 5 --out lm/
    python examples/language_model.py --out lm/ --continue clip.wav --seconds 3

Needs: pip install ".[train]" (matplotlib, if there, draws the curve)

The tokens of 5 % of the speech, of speakers that are not trained on where files tell them apart, are predicted one after another by
a decoder-only transformer. Its bits per token are what entropy coding with this model would leave of them. A token enters, and is
predicted, digit by digit: mini-single's code of 32 768 = 1024 · 32 is two softmaxes, the second knowing the digit before it, whose bits
add up to exactly the token's. A softmax over 32 768 would weigh more than the rest of the model, and see most of its symbols a few times.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import spectokenizer
from spectokenizer import Codec, Vocabulary, corpus
from spectokenizer.training.muon import Muon

LARGEST_SOFTMAX = 4096  # codes of more are split in two
GLANCE = 10_000  # held-out tokens that are looked at while training; all of them afterwards
BIGRAM_PRIOR = 300.0  # how many pairs the unigram counts for in the bigram

# -- the model: tokens [B, T] → a vector each [B, T, W] → the next token's digits -----------------------------------------------


def radices(codec: Codec) -> tuple[int, ...]:
    """The digits of a code, the lowest first: FSQ's own, a pair's entries, else the code itself, or its halves."""
    c = codec.network.config
    if c.quantizer == "fsq":
        return (2 ** (c.bits_per_code // c.codebook_dim),) * c.codebook_dim
    if c.quantizer == "pair":
        return c.pair_sizes
    high = c.bits_per_code // 2
    return (c.codebook_size,) if c.codebook_size <= LARGEST_SOFTMAX else (2 ** (c.bits_per_code - high), 2**high)


class Block(nn.Module):
    """Attention with rotary positions, then a multilayer perceptron, both before a residual sum."""

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        b, t, w = x.shape
        q, k, v = self.qkv(F.rms_norm(x, (w,))).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # [B, H, T, W/H]
        q, k = rotate(q, *rotation), rotate(k, *rotation)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(b, t, w)), self.dropout, self.training)
        return x + F.dropout(self.down(F.relu(self.up(F.rms_norm(x, (w,)))).square()), self.dropout, self.training)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = F.rms_norm(x, x.shape[-1:]).chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


class LanguageModel(nn.Module):
    """Digit d of a token is a symbol below `sizes[d]`: in the first softmax the specials and each codebook's digits, in the others
    those, so that which codebook comes next is learnt too. Specials have a first digit alone; `sizes[d]` stands for none."""

    digits: Tensor  # [V, D] token → symbols

    def __init__(self, vocabulary: Vocabulary, radix: tuple[int, ...], context: int, width: int, layers: int, heads: int, dropout: float):
        super().__init__()
        assert math.prod(radix) == vocabulary.codebook_size
        self.vocabulary, self.radix, self.context = vocabulary, radix, context
        specials, books = len(vocabulary.specials), vocabulary.num_codebooks
        self.sizes = [(specials if d == 0 else 0) + books * r for d, r in enumerate(radix)]
        code, book = torch.arange(vocabulary.codebook_size).repeat(books), torch.arange(books).repeat_interleave(vocabulary.codebook_size)
        columns = []
        for d, r in enumerate(radix):  # mixed radix, the lowest digit first
            first = torch.arange(specials) if d == 0 else torch.full((specials,), self.sizes[d])
            columns.append(torch.cat([first, self.sizes[d] - books * r + book * r + code % r]))
            code = code // r
        self.register_buffer("digits", torch.stack(columns, 1), persistent=False)
        self.embed = nn.ModuleList(nn.Embedding(size + 1, width) for size in self.sizes)
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(layers))
        self.known = nn.ModuleList(nn.Embedding(size + 1, width) for size in self.sizes[:-1])  # digits of the token being predicted
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)) for _ in self.sizes[:-1]
        )
        self.heads = nn.ModuleList(nn.Linear(width, size) for size in self.sizes)
        for table in (*self.embed, *self.known):
            nn.init.normal_(table.weight, std=0.5)
        for head in self.heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        angle = torch.arange(context)[:, None] / 1000 ** torch.linspace(0, 1, width // heads // 2)
        self.register_buffer("cos", angle.cos(), persistent=False)
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, T], T ≤ context, to vectors [B, T, W] that know them and those before."""
        symbols = self.digits[tokens - self.vocabulary.offset]
        x = sum(table(symbols[..., d]) for d, table in enumerate(self.embed))
        x = F.rms_norm(x, x.shape[-1:])
        rotation = self.cos[: x.shape[1]], self.sin[: x.shape[1]]
        for block in self.blocks:
            x = block(x, rotation)
        return x

    def logits(self, x: Tensor, d: int) -> Tensor:
        """Of digit d [..., sizes[d]] from a vector to which `add` has added the digits before."""
        y = F.rms_norm(x, x.shape[-1:])
        return self.heads[d](y if d == 0 else F.rms_norm(x + self.mix[d - 1](y), x.shape[-1:]))

    def bits(self, tokens: Tensor) -> Tensor:
        """Of each token after the first and each of its digits, given what is before: [B, T + 1] to [B, T, D]."""
        x, symbols = self(tokens[:, :-1]), self.digits[tokens[:, 1:] - self.vocabulary.offset]
        out = []
        for d, size in enumerate(self.sizes):
            x = x if d == 0 else x + self.known[d - 1](symbols[..., d - 1])
            out.append(F.cross_entropy(self.logits(x, d).flatten(0, 1), symbols[..., d].flatten(), ignore_index=size, reduction="none"))
        return torch.stack(out, -1).view(*symbols.shape) / math.log(2)

    @torch.no_grad()
    def generate(self, tokens: list[int], count: int, temperature: float, top_p: float, generator: torch.Generator) -> list[int]:
        """`count` more tokens, in the flat pattern; no specials."""
        k = self.vocabulary.num_codebooks
        for step in range(count):
            x = self(torch.tensor([tokens[-self.context :]]))[0, -1]
            code, scale, book = 0, 1, step % k
            for d, r in enumerate(self.radix):
                low = self.sizes[d] - k * r + book * r  # this codebook's part of the softmax
                logits = self.logits(x, d)[low : low + r]
                p = (logits / temperature if temperature else 1e9 * (logits - logits.max())).softmax(0)  # 0: the likeliest
                order = p.argsort(descending=True)
                p[order[1:][p[order].cumsum(0)[:-1] > top_p]] = 0
                digit = int(torch.multinomial(p, 1, generator=generator))
                code, scale = code + scale * digit, scale * r
                if d + 1 < len(self.radix):
                    x = x + self.known[d].weight[low + digit]
            tokens = [*tokens, self.vocabulary.ranges[book][code]]
        return tokens


# -- the tokens -----------------------------------------------------------------------------------------------------------------


def tokenised(folders: list[str], out: Path, model: str, bitrate: int) -> Path:
    """What `spectok tokenize` makes; it goes on where it stopped."""

    def show(progress: corpus.job.Progress) -> None:
        print(
            f"\rtokenising {progress.share:4.0%}, {progress.seconds / 3600:.2f} h, {progress.speed:.0f}× real time ",
            end="",
            file=sys.stderr,
        )

    corpus.tokenize(folders, out, model, bitrate, kind="webdataset", workers=torch.get_num_threads(), show=show)
    print(file=sys.stderr)
    return out


def speaker(name: str) -> str:
    """From a clip's id: what stands before "__", or LibriSpeech's SPEAKER/CHAPTER/SPEAKER-…, or else the folder."""
    folder, _, base = name.rpartition("/")
    if "__" in base:
        return f"{folder}/{base.split('__')[0]}"
    above = folder.split("/")[-2:]
    return above[0] if len(above) == 2 and base.startswith(above[0] + "-") else folder


def split(clips: list[tuple[str, np.ndarray]], share: float, seed: int) -> tuple[list[np.ndarray], list[np.ndarray], int]:
    """Clips for training, others of about `share` of the tokens, and of how many speakers those are: 0 where clips do not tell."""
    groups: dict[str, list[np.ndarray]] = defaultdict(list)
    for name, tokens in clips:
        groups[speaker(name)].append(tokens)
    wanted = share * sum(len(tokens) for _, tokens in clips)
    by_speaker = len(groups) >= 10
    if not by_speaker:
        groups = {name: [tokens] for name, tokens in clips}
    names, held, have = sorted(groups), set(), 0
    for i in np.random.default_rng(seed).permutation(len(names)):
        size = sum(map(len, groups[names[i]]))
        if have < wanted and (have + size < 2 * wanted or not held):
            held.add(names[i])
            have += size
    train = [tokens for name in names if name not in held for tokens in groups[name]]
    return train, [tokens for name in sorted(held) for tokens in groups[name]], len(held) if by_speaker else 0


# -- what simpler models need ----------------------------------------------------------------------------------------------------


def baselines(train: list[np.ndarray], held: list[np.ndarray], vocabulary: Vocabulary, radix: tuple[int, ...]) -> dict[str, float]:
    """Bits per token of models that count, over all codebooks. Clips are ids with bos and eos around."""
    k, size = vocabulary.num_codebooks, vocabulary.codebook_size
    totals: dict[str, list[float]] = defaultdict(list)
    for book in range(k):
        a, b = ([clip[1 + book : -1 : k] - vocabulary.ranges[book].start for clip in clips] for clips in (train, held))
        seen, new = np.concatenate(a), np.concatenate(b)
        counts = np.bincount(seen, minlength=size)
        p = counts[counts > 0] / len(seen)
        totals["unigram_entropy"].append(float(-(p * np.log2(p)).sum()))
        smooth = (counts + 1) / (len(seen) + size)
        totals["unigram"].append(float(-np.log2(smooth[new]).mean()))
        digits, scale = 0.0, 1
        for r in radix:
            c = np.bincount(seen // scale % r, minlength=r) + 1
            digits -= float(np.log2(c / c.sum())[new // scale % r].mean())
            scale *= r
        totals["unigram_of_digits"].append(digits)
        pairs, found = np.unique(np.concatenate([x[:-1].astype(np.int64) * size + x[1:] for x in a]), return_counts=True)
        before = np.bincount(np.concatenate([x[:-1] for x in a]), minlength=size)
        bits = -np.log2(np.concatenate([smooth[x[:1]] for x in b]))  # a clip's first token has none before it
        asked, last = np.concatenate([x[:-1].astype(np.int64) * size + x[1:] for x in b]), np.concatenate([x[:-1] for x in b])
        where = np.searchsorted(pairs, asked).clip(max=len(pairs) - 1)
        hits = np.where(pairs[where] == asked, found[where], 0)
        p = (hits + BIGRAM_PRIOR * smooth[asked % size]) / (before[last] + BIGRAM_PRIOR)
        totals["bigram"].append(float(np.concatenate([bits, -np.log2(p)]).mean()))
    return {name: float(np.mean(values)) for name, values in totals.items()}


@torch.no_grad()
def measure(model: LanguageModel, stream: Tensor, batch: int) -> tuple[float, list[float]]:
    """Bits per code on a stream of clips, those of eos and bos included, and per digit; every token after the first half window has
    half a window or more before it."""
    model.eval()
    half = model.context // 2
    padded = F.pad(stream, (0, -(len(stream) - 1) % half + half + 1), value=model.vocabulary.id("pad"))
    windows = padded.unfold(0, model.context + 1, half)
    real = F.pad(torch.ones_like(stream), (0, len(padded) - len(stream))).unfold(0, model.context + 1, half)
    total, codes = torch.zeros(len(model.radix)), int((stream >= model.vocabulary.first_code).sum())
    for start in range(0, len(windows), batch):
        bits = model.bits(windows[start : start + batch]) * real[start : start + batch, 1:, None]
        total += bits[:, -half:].sum((0, 1)) + (bits[0, :-half].sum(0) if start == 0 else 0)
    model.train()
    return float(total.sum()) / codes, (total / codes).tolist()


# -- training -------------------------------------------------------------------------------------------------------------------


def train(model: LanguageModel, stream: Tensor, held: Tensor, a: argparse.Namespace) -> list[tuple[int, float, float | None]]:
    """For a.minutes or a.steps. Gives (tokens seen, bits per token in training, held-out or None) now and then."""
    for d, (head, size) in enumerate(zip(model.heads, model.sizes, strict=True)):  # begin as the unigram of digits
        counts = torch.bincount(model.digits[stream - model.vocabulary.offset, d], minlength=size)[:size]
        head.bias.data = ((counts + 1) / (counts.sum() + size)).log()
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimizers = [Muon(matrices, weight_decay=0.1), torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.01)]
    rng, history, recent = torch.Generator().manual_seed(a.seed), [], []
    step, shown, done, spent = 0, -1, 0.0, 0.0  # seconds of training
    while done < 1:
        start = time.monotonic()
        rate = a.rate * min(1.0, (step + 1) / 20) * (1 - 0.95 * done)
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        at = torch.randint(len(stream) - a.context, (a.batch,), generator=rng)
        bits = model.bits(stream[at[:, None] + torch.arange(a.context + 1)]).sum(-1).mean()
        bits.backward()
        nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        recent.append(bits.item())
        spent += time.monotonic() - start
        done = min(1.0, step / a.steps if a.steps else spent / (60 * a.minutes))
        if int(done * 10) > shown:
            shown = int(done * 10)
            now = measure(model, held[:GLANCE], 2 * a.batch)[0] if shown % 2 == 0 else None
            history.append((step * a.batch * a.context, float(np.mean(recent[-50:])), now))
            print(
                f"{done:4.0%}  step {step:5}  {history[-1][0] / 1e6:.2f} M tokens, {history[-1][0] / spent:.0f} per second  "
                f"training {history[-1][1]:.3f} bits" + (f"  held out {now:.3f}" if now is not None else "")
            )
    return history


def draw(history: list[tuple[int, float, float | None]], levels: dict[str, float], path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    axes = (figure := Figure(figsize=(7, 4), layout="constrained")).add_subplot()
    axes.plot([h[0] for h in history], [h[1] for h in history], label="training")
    axes.plot([h[0] for h in history if h[2]], [h[2] for h in history if h[2]], "o-", label="held out")
    for name in ("unigram", "bigram"):
        axes.axhline(levels[name], color="gray", linestyle=":" if name == "unigram" else "--", label=name)
    axes.set(xlabel="tokens seen", ylabel="bits per token")
    axes.legend()
    figure.savefig(path, dpi=120)


# -- the program ----------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", help="folders of speech; tokens go to OUT/tokens")
    parser.add_argument("--tokens", help="what `spectok tokenize` wrote, instead of --data")
    parser.add_argument("--held-out", help="more of the kind, to measure on instead of 5 %%")
    parser.add_argument("--model", default="mini-single", help="bundled codec or folder of one (mini-single)")
    parser.add_argument("--codebooks", type=int, default=1, help="the coarsest so many, in the flat pattern (1)")
    parser.add_argument(
        "--out", type=Path, default=Path("lm"), help="folder of the language model, a finished one without --data and --tokens"
    )
    parser.add_argument("--minutes", type=float, default=5, help="of training (5)")
    parser.add_argument("--steps", type=int, help="of training, instead: the same on any machine, however fast")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate (0.003)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--context", type=int, default=256, help="tokens (256)")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--continue", dest="prompt", help="a recording to go on from")
    parser.add_argument("--prompt-seconds", type=float, default=3, help="how much of it is heard (3)")
    parser.add_argument("--seconds", type=float, default=3, help="how far to go on (3)")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--top-p", type=float, default=0.95)
    a = parser.parse_args(arguments)
    positive = ["batch", "width", "heads", "threads", "seconds", "prompt_seconds", "top_p", "minutes" if a.steps is None else "steps"]
    for name in positive:
        if not getattr(a, name) > 0:
            parser.error(f"--{name.replace('_', '-')} {getattr(a, name)}: more than 0")
    if a.context < 2 or not a.temperature >= 0:
        parser.error(f"--context {a.context}, --temperature {a.temperature}: from 2 and 0 on")
    if a.width % (2 * a.heads):
        parser.error(f"--width {a.width}: a multiple of twice the {a.heads} heads")
    torch.set_num_threads(a.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(a.seed)
    if not (a.data or a.tokens or a.prompt):
        parser.error("give --data or --tokens to train on, or --continue to go on from a recording")
    try:
        if a.data or a.tokens:
            learn(a)
        if a.prompt:
            go_on(a)
    except (spectokenizer.SpecTokenizerError, OSError, soundfile.LibsndfileError) as error:
        raise SystemExit(str(error)) from error


def learn(a: argparse.Namespace) -> None:
    codec = spectokenizer.load(a.model)
    info, radix = codec.info, radices(codec)
    if not 1 <= a.codebooks <= info.num_codebooks:
        raise SystemExit(f"--codebooks {a.codebooks}: '{a.model}' has 1 to {info.num_codebooks}")
    vocabulary = Vocabulary(a.codebooks, info.codebook_size)
    bitrate = info.bitrates[a.codebooks - 1]

    def clips(source: str | Path) -> list[tuple[str, np.ndarray]]:
        out = []
        for row in corpus.read(source):
            if row.model_hash != info.model_hash:
                raise SystemExit(f"{source}: tokens of model {row.model_hash}; '{a.model}' is {info.model_hash}")
            if len(row.codes) < a.codebooks:
                raise SystemExit(f"{source}: {len(row.codes)} codebooks; --codebooks {a.codebooks} needs more")
            if row.codes.shape[1]:
                out.append((row.id, vocabulary.encode(row.codes[: a.codebooks], bos=True, eos=True)))
        if len(out) < 2:
            raise SystemExit(f"{source}: {len(out)} clips; two are the least, thousands are better")
        return out

    everything = clips(a.tokens or tokenised(a.data, a.out / "tokens", a.model, bitrate))
    if a.held_out:
        others = clips(a.held_out if a.tokens else tokenised([a.held_out], a.out / "held-out", a.model, bitrate))
        known, new, speakers = [tokens for _, tokens in everything], [tokens for _, tokens in others], 0
    else:
        known, new, speakers = split(everything, 0.05, a.seed)
    stream, held = (torch.from_numpy(np.concatenate(part)) for part in (known, new))
    if len(stream) <= a.context:
        raise SystemExit(f"{len(stream)} tokens to train on; a context of {a.context} needs more")
    rate = a.codebooks * info.frame_rate
    hours, held_hours = (int((part >= vocabulary.first_code).sum()) / rate / 3600 for part in (stream, held))  # without bos and eos
    print(f"{len(known)} clips, {hours:.2f} h to train on, {60 * held_hours:.1f} min held out", end="")
    print(f", of {speakers} speakers that are not trained on" if speakers else "" if a.held_out else ", of the same speakers")
    settings = {"radix": radix, **{name: getattr(a, name) for name in ("context", "width", "layers", "heads", "dropout")}}
    model = LanguageModel(vocabulary, **settings)
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, digits {radix}")
    history = train(model, stream, held, a)

    results = {"nominal": math.log2(info.codebook_size), **baselines(known, new, vocabulary, radix)}
    results["model"], digits = measure(model, held, 2 * a.batch)
    print("\nbits per token, of what was held out     kbit/s")
    for name, about in {
        "nominal": "as they are",
        "unigram_of_digits": "each digit's frequency",
        "unigram": "each token's frequency (add one)",
        "bigram": "and the token of the frame before",
        "model": "the language model",
    }.items():
        print(f"  {about:34} {results[name]:6.3f}  {results[name] * rate / 1000:.3f}")
    print(f"  the model's digits: {' '.join(f'{bits:.2f}' for bits in digits)}")
    print(f"  (entropy of the training tokens' own frequencies: {results['unigram_entropy']:.3f}, too low where tokens are rare)")

    a.out.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), a.out / "weights.safetensors")
    about = {"codec": a.model, "model_hash": info.model_hash, "vocabulary": json.loads(vocabulary.to_json()), "settings": settings}
    (a.out / "language_model.json").write_text(json.dumps(about, indent=1))
    results |= {"digits": digits, "hours": hours, "tokens_seen": history[-1][0], "held_out_speakers": speakers}
    (a.out / "results.json").write_text(json.dumps({**results, "history": history}, indent=1))
    draw(history, results, a.out / "bits.png")


def go_on(a: argparse.Namespace) -> None:
    if not (a.out / "language_model.json").exists():
        raise SystemExit(f"{a.out}: no language model there; train one with --data or --tokens, or name its folder with --out")
    about = json.loads((a.out / "language_model.json").read_text())
    vocabulary, settings = Vocabulary.from_json(json.dumps(about["vocabulary"])), about["settings"]
    model = LanguageModel(vocabulary, tuple(settings.pop("radix")), **settings).eval()
    model.load_state_dict(load_file(a.out / "weights.safetensors"))
    codec = spectokenizer.load(about["codec"])
    if codec.info.model_hash != about["model_hash"]:
        raise SystemExit(f"{a.out} was trained on tokens of model {about['model_hash']}; '{about['codec']}' is {codec.info.model_hash}")
    audio, sample_rate = soundfile.read(a.prompt, dtype="float32", always_2d=True)
    heard = audio[: round(a.prompt_seconds * sample_rate)].T
    k = vocabulary.num_codebooks
    codes = codec.encode(heard, sample_rate, codec.info.bitrates[k - 1])
    tokens = vocabulary.encode(codes, bos=True).tolist()
    more = round(a.seconds * codec.info.frame_rate) * k
    tokens = model.generate(tokens, more, a.temperature, a.top_p, torch.Generator().manual_seed(a.seed))
    path = a.out / "continuation.wav"
    soundfile.write(path, codec.decode(vocabulary.decode(tokens)), codec.info.sample_rate)
    print(f"{path}: {codes.num_frames / codec.info.frame_rate:.2f} s of {Path(a.prompt).name}, then {a.seconds:.2f} s of the model's")


if __name__ == "__main__":
    main()
