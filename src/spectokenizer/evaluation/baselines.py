"""Peers to be measured beside: real codecs as systems of `evaluate`, each where its program, library and weights are.

    systems, absent = peers("all", lyra="folder of .tflite")

Opus, Codec2, AMR-WB and Speex are programs run on raw PCM in a temporary folder; Lyra v2 runs in LiteRT, EnCodec, DAC and Mimi
in transformers. What is missing is no error: `absent` says in one line per peer what to install.

Bits are those of the codec's own frames: without Ogg pages and headers, without AMR's table of contents, without the padding of
Codec2's frames to bytes. Programs that write their codec's delay into the file have it cut off here; each delay below has its
source. A clip goes in at 16 kHz, is resampled to the codec's rate if that is another, and comes back at 16 kHz.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import re
import shutil
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import AudioError, ConfigError, FormatError
from ..runtime.audio import Audio, resample
from ..runtime.files import to_int16
from .evaluate import Processed, System, fit
from .metrics import one_torch_thread


class Cost(NamedTuple):
    """What a codec costs as far as it is known; None where nothing is published and nothing could be counted."""

    parameters: int | None = None
    macs_per_second: int | None = None
    latency_ms: float | None = None  # algorithmic: a frame, and how much later than its input a sample leaves the decoder
    table_numbers: int | None = None  # in the codebooks, not among the parameters


# -- payload: bits of the frames alone ---------------------------------------------------------------------------------


def ogg_packets(data: bytes) -> list[bytes]:
    """The packets of an Ogg file with one logical stream (RFC 3533). Raises FormatError when it is none, or cut short."""
    packets, packet, at = [], b"", 0
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            raise FormatError(f"no Ogg page at byte {at}")
        if len(data) < at + 27 or len(data) < (body := at + 27 + data[at + 26]):
            raise FormatError(f"the Ogg page at byte {at} is cut short")
        lacing = data[at + 27 : body]
        at = body
        for size in lacing:
            packet += data[at : at + size]
            at += size
            if size < 255:  # 255: the packet goes on, in this page or the next
                packets.append(packet)
                packet = b""
    if packet or at > len(data):
        raise FormatError("the last Ogg packet is cut short")
    return packets


def ogg_payload(data: bytes, mode: str) -> int:
    """Bits of all packets but the two of the header (OpusHead and OpusTags; Speex's header and comment)."""
    return 8 * sum(map(len, ogg_packets(data)[2:]))


AMR_WB_MAGIC = b"#!AMR-WB\n"
AMR_WB_BITS = (132, 177, 253, 285, 317, 365, 397, 461, 477, 40)  # speech bits by frame type, 9 is comfort noise: TS 26.201


def amr_payload(data: bytes, mode: str) -> int:
    """Speech bits of an AMR-WB file (RFC 4867, section 5): per frame a byte that tells its type, then its bits, padded to bytes."""
    if not data.startswith(AMR_WB_MAGIC):
        raise FormatError("no AMR-WB file")
    bits, at = 0, len(AMR_WB_MAGIC)
    while at < len(data):
        kind = data[at] >> 3 & 15
        speech = AMR_WB_BITS[kind] if kind < len(AMR_WB_BITS) else 0  # 14 and 15: lost, nothing sent
        bits += speech
        at += 1 + -(-speech // 8)
    if at > len(data):
        raise FormatError("the last AMR-WB frame is cut short")
    return bits


CODEC2_BITS = {"3200": 64, "2400": 48, "1600": 64, "1200": 48, "700C": 28}  # per frame: codec2.c, codec2_bits_per_frame


def codec2_payload(data: bytes, mode: str) -> int:
    """Bits of raw Codec2 frames, each of which is padded to bytes."""
    bits = CODEC2_BITS[mode]
    frames, rest = divmod(len(data), -(-bits // 8))
    if rest:
        raise FormatError(f"{len(data)} bytes are no whole frames of Codec2 {mode}")
    return bits * frames


# -- codecs that are programs ------------------------------------------------------------------------------------------


class Mode(NamedTuple):
    """One bitrate of a program's codec."""

    argument: str  # how the program calls it
    frame: int  # samples at the codec's rate
    delay: int  # by how many samples a decoder fed frame by frame is late


@dataclass(frozen=True)
class Route:
    """One way to run a codec. Commands read in.raw and write `coded`, then read that and write out.raw (int16, mono)."""

    programs: tuple[str, ...]
    package: str  # what to install
    encode: str  # with {mode}, {bitrate} and {rate}
    decode: str
    encoder: str = ""  # that ffmpeg must have been built with
    cuts_delay: bool = False  # the file says how much, and the decoder drops it

    def absence(self) -> str:
        """What is missing and how to get it; empty when nothing is."""
        missing = [program for program in self.programs if not shutil.which(program)]
        if missing:
            return f"{' and '.join(missing)} not found (apt install {self.package})"
        if self.encoder and self.encoder not in ffmpeg_encoders():
            return f"this ffmpeg lacks {self.encoder} (apt install {self.package})"
        return ""

    def version(self) -> str:
        """What the encoder says of itself, e.g. "opus-tools 0.2, libopus 1.3.1"; its name when it says nothing."""
        program = self.programs[0]
        line = _output(program, "-version" if program == "ffmpeg" else "--version").partition("\n")[0]
        found = re.findall(r"([\w-]+)(?: \([^)]*\))?(?: version)? (\d+\.\d[^\s),]*)", line)
        return ", ".join(map(" ".join, found)) + (f" {self.encoder}" if self.encoder else "") if found else program


@functools.cache
def _output(*command: str) -> str:
    return subprocess.run(
        command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, check=False, text=True, errors="replace"
    ).stdout


@functools.cache
def ffmpeg_encoders() -> frozenset[str]:
    return frozenset(re.findall(r"^ [A-Z.]{6} (\S+)", _output("ffmpeg", "-hide_banner", "-encoders"), re.MULTILINE))


def ffmpeg(package: str, encoder: str, options: str, muxer: str, demuxer: str = "", decoder: str = "", **more: Any) -> Route:
    raw = "-f s16le -ar {rate} -ac 1"
    return Route(
        ("ffmpeg",),
        package,
        f"ffmpeg -nostdin -v error {raw} -i in.raw -c:a {encoder} {options} -f {muxer} coded",
        f"ffmpeg -nostdin -v error {demuxer or f'-f {muxer}'} {decoder} -i coded {raw} out.raw",
        encoder,
        **more,
    )


@dataclass(frozen=True)
class Codec:
    """A codec that is run as a program: at which rate, in which modes, and the ways to run it, the preferred one first."""

    rate: int
    modes: dict[int, Mode]  # by nominal bitrate
    payload: Callable[[bytes, str], int]
    routes: tuple[Route, ...]


CODECS = {
    "opus": Codec(
        16000,
        # 6.5 ms of look-ahead: libopus' opus_encoder.c, Fs/400 + Fs/250, and the pre-skip of its files; with a frame of 20 ms these
        # are the 26.5 ms of RFC 6716. The encoder chooses the bandwidth itself: at 6 kbps narrowband, which scores better than
        # wideband forced on it.
        {bitrate: Mode(f"{bitrate / 1000:g}", 320, 104) for bitrate in (6000, 9000, 12000)},
        ogg_payload,
        (
            Route(
                ("opusenc", "opusdec"),
                "opus-tools",
                "opusenc --quiet --speech --raw --raw-rate {rate} --raw-chan 1 --bitrate {mode} in.raw coded",
                "opusdec --quiet --rate {rate} --no-dither coded out.raw",
                cuts_delay=True,
            ),
            ffmpeg("ffmpeg", "libopus", "-application voip -b:a {bitrate}", "ogg", cuts_delay=True),
        ),
    ),
    "codec2": Codec(
        8000,
        # The analysis window is 40 ms and stands for its middle (codec2.c, analyse_one_frame): 20 ms. 700C interpolates from the
        # frame before and is another 10 ms late (newamp1.c, newamp1_interpolate). STOI over the delay peaks there, too.
        {
            700: Mode("700C", 320, 240),
            1200: Mode("1200", 320, 160),
            1600: Mode("1600", 320, 160),
            2400: Mode("2400", 160, 160),
            3200: Mode("3200", 160, 160),
        },
        codec2_payload,
        (
            Route(("c2enc", "c2dec"), "codec2", "c2enc {mode} in.raw coded", "c2dec {mode} coded out.raw"),
            ffmpeg("ffmpeg", "libcodec2", "-mode {mode}", "codec2raw", "-f codec2raw -mode {mode}"),
        ),
    ),
    "amr-wb": Codec(
        16000,
        # 5 ms of look-ahead and 0.9375 ms of the filters that split the bands: TS 26.190, and where the correlation peaks.
        {6600: Mode("0", 320, 95), 8850: Mode("1", 320, 95), 12650: Mode("2", 320, 95)},
        amr_payload,
        (ffmpeg("ffmpeg libavcodec-extra", "libvo_amrwbenc", "-b:a {bitrate}", "amr"),),
    ),
    "speex": Codec(
        16000,
        # Wideband: 143 samples of look-ahead and 80 of the decoder's filters (SPEEX_GET_LOOKAHEAD of either); with the frame these
        # are the 34 ms of its manual. Quality 0 to 3 are the modes below 10 kbps.
        {3950: Mode("0", 320, 223), 5750: Mode("1", 320, 223), 7750: Mode("2", 320, 223), 9800: Mode("3", 320, 223)},
        ogg_payload,
        # Not speexdec: it cuts the delay off when a file has several pages of sound, and leaves it in when it has one.
        (ffmpeg("ffmpeg", "libspeex", "-cbr_quality {mode}", "ogg", decoder="-c:a libspeex"),),
    ),
}


def _run(command: str, folder: Path) -> None:
    """Raises AudioError with the program's last words."""
    words = command.split()
    done = subprocess.run(words, cwd=folder, capture_output=True, stdin=subprocess.DEVNULL, timeout=3600, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).decode(errors="replace").strip()
        raise AudioError(f"{words[0]} ended with {done.returncode}: {said.splitlines()[-1] if said else 'no message'}")


@dataclass(frozen=True)
class ProgramSystem:
    """A codec of CODECS at one of its bitrates, by one of its routes."""

    name: str
    bitrate: int
    route: Route
    fingerprint: str
    aligned: bool = False

    @property
    def cost(self) -> Cost:
        codec = CODECS[self.name]
        _, frame, delay = codec.modes[self.bitrate]
        return Cost(latency_ms=1000 * (frame + delay) / codec.rate)

    def process(self, audio: Audio, sample_rate: int) -> Processed:
        codec = CODECS[self.name]
        mode, frame, delay = codec.modes[self.bitrate]
        samples = resample(audio, sample_rate, codec.rate)
        length = len(samples)
        if self.route.cuts_delay:
            delay = 0
        else:  # whole frames, until what went in has come out
            samples = fit(samples, -(-(length + delay) // frame) * frame)
        names = {"mode": mode, "bitrate": self.bitrate, "rate": codec.rate}
        with tempfile.TemporaryDirectory(prefix="spectok-") as temporary:
            folder = Path(temporary)
            to_int16(samples).tofile(folder / "in.raw")
            _run(self.route.encode.format(**names), folder)
            _run(self.route.decode.format(**names), folder)
            bits = codec.payload((folder / "coded").read_bytes(), mode)
            decoded = np.fromfile(folder / "out.raw", "<i2").astype(np.float32) / 32768
        decoded = resample(fit(decoded[delay:], length), codec.rate, sample_rate)
        return Processed(fit(decoded, len(audio)), bits)


def _programs(name: str) -> tuple[list[System], str]:
    codec = CODECS[name]
    absences = []
    for route in codec.routes:
        if not (absence := route.absence()):
            version = route.version()
            return [ProgramSystem(name, bitrate, route, version) for bitrate in codec.modes], ""
        absences.append(absence)
    return [], "; or ".join(absences)


# -- Lyra v2 -----------------------------------------------------------------------------------------------------------

LYRA_FILES = ("soundstream_encoder.tflite", "quantizer.tflite", "lyragan.tflite")
LYRA_FRAME, LYRA_STAGES, LYRA_BITS = 320, 46, 4
LYRA_BITRATES = (3200, 4000, 6000, 9200)  # its own and, for comparison, 20 of its 46 stages
# Counted in the graphs of 1.3.2, encoder and decoder: weights and biases, multiply-accumulates at 50 frames/s, and the quantiser's
# tables. The 20 ms are its makers' figure.
LYRA_COST = Cost(1_320_641, 199_500_800, 20, 47_104)


@functools.cache
def _lyra_files(folder: str) -> tuple[bytes, ...]:
    return tuple((Path(folder) / name).read_bytes() for name in LYRA_FILES)


def _lyra(folder: str) -> tuple[Any, ...]:
    """Encoder, quantiser and decoder at the start of a stream. New ones for each: `reset_all_variables` of one in use leaves the
    states at the integer 0, which is not what stands for zero in them, and the first half second of a clip comes out otherwise."""
    from ai_edge_litert.interpreter import Interpreter

    models = tuple(Interpreter(model_content=content, num_threads=1) for content in _lyra_files(folder))
    for model in models:
        model.allocate_tensors()
    return models


def _step(model: Any, frame: Any) -> Any:
    model.set_tensor(model.get_input_details()[0]["index"], frame)
    model.invoke()
    return model.get_tensor(model.get_output_details()[0]["index"])


@dataclass(frozen=True)
class LyraSystem:
    """Lyra v2 (google/lyra 1.3.2): 20 ms in, up to 46 indices of 4 bits, 20 ms out, nothing late."""

    bitrate: int
    folder: str
    fingerprint: str
    name: str = "lyra-v2"
    aligned: bool = False
    cost: Cost = LYRA_COST

    def process(self, audio: Audio, sample_rate: int) -> Processed:
        encoder, quantizer, decoder = _lyra(self.folder)
        encode, decode = quantizer.get_signature_runner("encode"), quantizer.get_signature_runner("decode")
        stages = self.bitrate // (LYRA_BITS * sample_rate // LYRA_FRAME)
        frames = fit(audio, -(-len(audio) // LYRA_FRAME) * LYRA_FRAME).reshape(-1, 1, LYRA_FRAME)
        codes = np.empty((stages, len(frames)), np.int16)
        decoded = np.empty((len(frames), LYRA_FRAME), np.float32)
        for t, frame in enumerate(frames):
            features = _step(encoder, np.ascontiguousarray(frame, np.float32))
            indices = encode(input_frames=features, num_quantizers=np.int32(stages))["output_0"]  # [46, 1, 1], -1 when unused
            codes[:, t] = indices[:stages, 0, 0]
            sent = np.full((LYRA_STAGES, 1, 1), -1, np.int32)
            sent[:stages, 0, 0] = codes[:, t]
            decoded[t] = _step(decoder, decode(encoding_indices=sent)["output_0"])
        return Processed(decoded.ravel()[: len(audio)], codes.size * LYRA_BITS)


def _lyras(folder: str | Path | None) -> tuple[list[System], str]:
    if folder is None:
        return [], f"no folder of weights given (--lyra; {', '.join(LYRA_FILES)} of google/lyra 1.3.2)"
    paths = [Path(folder) / name for name in LYRA_FILES]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        return [], f"{Path(folder).name} lacks {', '.join(missing)} (of google/lyra 1.3.2)"
    try:
        import ai_edge_litert.interpreter  # noqa: F401
    except ImportError as error:
        return [], f"{error} (pip install ai-edge-litert)"
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return [LyraSystem(bitrate, str(folder), digest.hexdigest()[:16]) for bitrate in LYRA_BITRATES], ""


# -- codecs of transformers --------------------------------------------------------------------------------------------


class HubCodec(NamedTuple):
    """A codec of transformers: where its weights are, its class, and how it is told a bitrate."""

    weights: str  # on the hub, or a folder
    model: str
    rates: tuple[int, ...]
    setting: str  # keyword of `encode` ...
    unit: float  # ... in bits per second
    latency_ms: float | None


HUB_CODECS = {
    # One frame: its paper's 13 ms of initial latency.
    "encodec": HubCodec("facebook/encodec_24khz", "EncodecModel", (1500, 3000, 6000), "bandwidth", 1000, 1000 * 320 / 24000),
    # Not causal: it hears the whole clip.
    "dac": HubCodec("descript/dac_16khz", "DacModel", (2000, 4000, 6000), "n_quantizers", 500, None),
    # One frame, as its makers say.
    "mimi": HubCodec("kyutai/mimi", "MimiModel", (1100, 2200, 4400), "num_quantizers", 137.5, 80),
}


@functools.cache
def _hub_model(weights: str, model: str, cached: bool = True) -> Any:
    import transformers

    return getattr(transformers, model).from_pretrained(weights, local_files_only=cached).eval()


@functools.cache
def hub_answers() -> bool:
    """Whether the hub can be reached, asked once: its own client tries for half a minute per file."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        urllib.request.urlopen(urllib.request.Request(constants.ENDPOINT, method="HEAD"), timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class HubSystem:
    """EnCodec, DAC or Mimi at one bitrate, entropy coding apart."""

    name: str
    bitrate: int
    codec: HubCodec
    fingerprint: str = ""
    aligned: bool = False

    @property
    def cost(self) -> Cost:
        """Parameters as `transformers` has them, tables of EnCodec and Mimi (buffers) apart; multiply-accumulates as torch counts them."""
        model = _hub_model(self.codec.weights, self.codec.model)
        return Cost(sum(p.numel() for p in model.parameters()), _hub_macs(self), self.codec.latency_ms)

    def run(self, samples: Audio) -> tuple[Audio, int]:
        """Samples at the codec's own rate there and back, and how many bits they took."""
        import torch

        model = _hub_model(self.codec.weights, self.codec.model)
        frame = math.ceil(model.config.sampling_rate / model.config.frame_rate)
        setting = self.bitrate / self.codec.unit
        with one_torch_thread():
            x = torch.from_numpy(fit(samples, -(-len(samples) // frame) * frame))[None, None]
            encoded = model.encode(x, **{self.codec.setting: setting if self.codec.setting == "bandwidth" else round(setting)})
            scales = {"audio_scales": encoded.audio_scales} if hasattr(encoded, "audio_scales") else {}
            decoded = model.decode(audio_codes=encoded.audio_codes, **scales)[0].reshape(-1).numpy()
        return fit(decoded, len(samples)), encoded.audio_codes.numel() * round(math.log2(model.config.codebook_size))

    def process(self, audio: Audio, sample_rate: int) -> Processed:
        rate = _hub_model(self.codec.weights, self.codec.model).config.sampling_rate
        decoded, bits = self.run(resample(audio, sample_rate, rate))
        return Processed(fit(resample(decoded, rate, sample_rate), len(audio)), bits)


@functools.cache
def _hub_macs(system: HubSystem) -> int:
    """Multiply-accumulates per second of audio, convolutions and matrix products, between one second and five, so that edges do not count.

    The search in the codebooks is among them where it is a product.
    """
    from torch import nn
    from torch.nn.utils import parametrize
    from torch.utils.flop_counter import FlopCounterMode

    model = _hub_model(system.codec.weights, system.codec.model)
    counted = []

    def count(module: nn.LSTM, given: Any, made: Any) -> None:  # torch's counter passes over it
        weights = sum(p.numel() for name, p in module.named_parameters() if name.startswith("weight"))
        counted[-1] += weights * made[0].shape[0] * made[0].shape[1]

    with contextlib.ExitStack() as stack:
        for module in model.modules():
            if isinstance(module, nn.LSTM):
                stack.callback(module.register_forward_hook(count).remove)
        stack.enter_context(parametrize.cached())  # weights that are computed are computed in the first of the three
        for seconds in (0.2, 1, 5):
            counted.append(0)
            with FlopCounterMode(display=False) if seconds >= 1 else contextlib.nullcontext() as counter:
                system.run(np.zeros(round(seconds * model.config.sampling_rate), np.float32))
            counted[-1] += counter.get_total_flops() // 2 if counter else 0
    return (counted[2] - counted[1]) // 4


def _hubs(name: str) -> tuple[list[System], str]:
    codec = HUB_CODECS[name]
    try:
        import torch  # noqa: F401
        import transformers
    except ImportError as error:
        return [], f"{error} (pip install torch transformers)"
    try:
        with quiet(transformers):
            try:
                model = _hub_model(codec.weights, codec.model)
            except OSError:  # not cached
                if not hub_answers():
                    return [], f"weights {codec.weights} are not cached and the hub cannot be reached"
                _hub_model(codec.weights, codec.model, cached=False)  # fetches them
                model = _hub_model(codec.weights, codec.model)
    except Exception as error:  # refused, cut off, too new for this library: the peer is absent
        return [], f"weights {codec.weights} could not be loaded: {error}".splitlines()[0]
    commit = getattr(model.config, "_commit_hash", None)
    fingerprint = f"transformers {transformers.__version__}, {codec.weights}" + (f" at {commit[:12]}" if commit else "")
    return [HubSystem(name, bitrate, codec, fingerprint) for bitrate in codec.rates], ""


@contextlib.contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Without its progress bars and advice."""
    log = transformers.utils.logging
    level = log.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        log.enable_progress_bar()


# -- all of them -------------------------------------------------------------------------------------------------------

PEERS = (*CODECS, "lyra-v2", *HUB_CODECS)


def peers(names: str | Sequence[str] = "all", lyra: str | Path | None = None) -> tuple[list[System], dict[str, str]]:
    """(systems that run here, absent peers with the reason and what to install). `lyra` is the folder of Lyra's weights.

    Raises ConfigError for a name not among PEERS.
    """
    wanted = PEERS if names == "all" else (names,) if isinstance(names, str) else tuple(dict.fromkeys(names))
    if unknown := [name for name in wanted if name not in PEERS]:
        raise ConfigError(f"unknown peers {', '.join(unknown)}; known are {', '.join(PEERS)}")
    systems: list[System] = []
    absent: dict[str, str] = {}
    for name in wanted:
        found, absence = _programs(name) if name in CODECS else _hubs(name) if name in HUB_CODECS else _lyras(lyra)
        systems += found
        if absence:
            absent[name] = absence
    return systems, absent
