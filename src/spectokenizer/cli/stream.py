"""stream: live PCM ↔ packets, over pipes, microphone and speaker, and RTP."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from ..errors import TruncatedError
from .common import bitrate_option, chosen_bitrate, load, named, progress, say, sink

if TYPE_CHECKING:
    from ..bitstream.entropy import Entropy
    from ..runtime.audio import Audio
    from ..runtime.codec import Codec

    Write = Callable[[Audio], object]


class Percent(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """10 or 10% on the command line, 0.1 inside."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(str(value).removesuffix("%")) / 100
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"'{value}' is not a percentage from 0 to 100", param, ctx)
        return share


@click.command()
@click.option("--decode", "-d", is_flag=True, help="The other way: packets on stdin, PCM on stdout.")
@click.option("--model", "-m", help="Bundled model or folder of an exported one. [default: mini; with -d, what the packets name]")
@bitrate_option
@click.option("--packet-frames", type=click.IntRange(1, 255), default=1, show_default=True, help="Frames per packet; RTP: up to 4.")
@click.option("--input", "-i", "origin", default="-", metavar="-|mic|FILE", help="Where sound, or with -d packets, come from.")
@click.option("--output", "-o", "target", default="-", metavar="-|speaker|FILE", help="Where packets, or with -d or --from sound, go.")
@click.option("--to", metavar="HOST:PORT", help="Send as RTP over UDP, in real time.")
@click.option("--from", "origin_port", metavar="[HOST:]PORT", help="Play what comes there as RTP; the host is 127.0.0.1 unless given.")
@click.option("--redundancy", type=click.IntRange(0, 3), default=0, show_default=True, help="--to: codebooks sent twice.")
@click.option("--loss", type=Percent(), default="0%", show_default=True, help="--to: drop so many packets, to hear concealment.")
@click.option("--seed", type=int, default=0, show_default=True, help="--loss: which ones.")
@click.option("--depth", type=click.IntRange(0, 50), default=3, show_default=True, help="--from: frames in the jitter buffer.")
@click.option("--idle", type=click.FloatRange(0.1), default=5.0, show_default=True, help="--from: seconds without a packet to the end.")
@click.option("--device", help="Of mic or speaker: number or part of the name; 'python -m sounddevice' lists them.")
@click.option("--force", "-f", is_flag=True, help="Replace an existing output file.")
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, hidden=True, help="Than real time; for tests.")
def stream(
    decode: bool, model: str | None, bitrate: float | None, packet_frames: int, origin: str, target: str, to: str | None,
    origin_port: str | None, redundancy: int, loss: float, seed: int, depth: int, idle: float, device: str | None, force: bool,
    speed: float,
) -> None:  # fmt: skip
    """Encode raw PCM (16 kHz, mono, 16-bit little-endian) from stdin to a live .stk on stdout, frame by frame.

    The other way, samples come out with their packet; at the end there may be up to a frame more than went in. Calls over RTP
    (docs/rtp.md) end with a good-bye: at the end of the input, at Ctrl+C, or after --idle seconds without it.

    \b
    arecord -f S16_LE -r 16000 -t raw | spectok stream -b 3 | spectok stream -d | aplay -f S16_LE -r 16000 -t raw
    spectok stream --from 5004 --output speaker
    spectok stream --to 127.0.0.1:5004 --input mic --redundancy 1 --loss 10%
    """
    if sum(map(bool, (decode, to, origin_port))) > 1:
        raise click.UsageError("--decode, --to and --from exclude each other")
    packets_in, packets_out = decode or bool(origin_port), not (decode or origin_port)
    if packets_in and origin == "mic":
        raise click.UsageError("--input mic is sound; leave out --decode and --from")
    if packets_out and target == "speaker":
        raise click.UsageError("--output speaker plays sound; add --decode or --from")
    if (to and target != "-") or (origin_port and origin != "-"):
        raise click.UsageError("--to has no --output, and --from no --input: there the network is")
    if to and packet_frames > 4:
        raise click.BadParameter(f"{packet_frames} frames; a packet over RTP holds 1 to 4", param_hint="--packet-frames")
    which = int(device) if device and device.isdigit() else device
    if decode:
        with named(origin):
            with ExitStack() as stack:
                broken_off = _decode(stack, origin, target, model, which, force)
            if broken_off:  # what came before has been played, or is in the file
                raise broken_off
        return
    codec = load(model or "mini")
    bitrate = chosen_bitrate(codec, bitrate)
    with ExitStack() as stack:
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))  # ends as Ctrl+C does
        if origin_port:
            _receive(stack, codec, origin_port, target, depth, idle, which, force, speed)
            return
        source = _sound(stack, codec, origin, which)
        if to:
            _send(stack, codec, to, source, origin, bitrate, redundancy, packet_frames, loss, seed, speed)
        else:
            _encode(stack, source, origin, target, codec, bitrate, packet_frames, force)


# -- where sound comes from and goes to ----------------------------------------------------------------------------------------


def _sound(stack: ExitStack, codec: Codec, origin: str, device: int | str | None) -> Iterator[Audio]:
    """Samples at the model's rate as they come, from stdin, the microphone or a file."""
    rate, size = codec.info.sample_rate, codec.info.frame_size
    if origin == "mic":
        from ..live.devices import microphone

        return microphone(rate, size, device)
    if origin == "-":
        return _pcm(size)
    return _file(stack, origin, rate)


def _pcm(size: int) -> Iterator[Audio]:
    import numpy as np

    from ..runtime.audio import to_mono

    source: Any = sys.stdin.buffer
    odd = b""
    while data := source.read1(2 * size):
        data = odd + data
        whole = len(data) // 2 * 2
        odd = data[whole:]
        yield to_mono(np.frombuffer(data[:whole], "<i2").astype(np.int16))
    if odd:
        say("Warning: the last byte was half a sample and is dropped")


def _file(stack: ExitStack, path: str, rate: int) -> Iterator[Audio]:
    """Opened here and now: what cannot be read is told before an output is replaced."""
    from ..runtime import audio

    return _samples(stack.enter_context(audio.open_audio(path)), stack.enter_context(progress("sending")), rate)


def _samples(file: Any, update: Callable[[float | None, float], None], rate: int) -> Iterator[Audio]:
    import numpy as np

    from ..runtime import audio

    resampler, seconds, total = audio.Resampler(file.samplerate, rate), 0.0, max(file.frames / file.samplerate, 1e-9)
    for block in audio.blocks(file, 0.1):
        yield resampler.push(block)
        seconds += len(block) / file.samplerate
        update(min(seconds / total, 1), seconds)
    yield resampler.push(np.zeros(0, np.float32), last=True)


def _sink(stack: ExitStack, rate: int, target: str, device: int | str | None, force: bool, origin: str | None = None) -> Write:
    """Where samples go: raw PCM to stdout, the speaker, or an audio file that has its name when it is complete."""
    from ..runtime import sinks

    if target == "speaker":
        from ..live.devices import Speaker

        return stack.enter_context(Speaker(rate, device)).write
    if target != "-":
        path = sink(target, force, origin)
        return stack.enter_context(sinks.AudioSink(sinks.open_sink(stack, path), path, rate)).write
    out: Any = sink("-", force)

    def write(samples: Audio) -> None:
        out.write(sinks.to_int16(samples).tobytes())  # at once; so the last frame comes whole, where a file is cut to length
        out.flush()

    return write


# -- pipes ---------------------------------------------------------------------------------------------------------------------


def _encode(
    stack: ExitStack, source: Iterator[Audio], origin: str, target: str, codec: Codec, bitrate: float, packet_frames: int, force: bool
) -> None:
    from ..bitstream import Writer
    from ..runtime.files import header_of

    where = sink(target, force, origin)
    out: Any = stack.enter_context(click.open_file(where, "wb")) if isinstance(where, str) else where
    encoder = codec.encoder(bitrate)
    writer = Writer(out, header_of(codec, encoder.num_codebooks), packet_frames)
    try:
        for samples in source:
            writer.write(encoder.push(samples))
            out.flush()
    except KeyboardInterrupt:
        pass  # how a recording ends
    writer.write(encoder.flush())
    writer.close(encoder.num_samples)
    out.flush()


def _decode(stack: ExitStack, origin: str, target: str, model: str | None, device: int | str | None, force: bool) -> TruncatedError | None:
    """Until the end, Ctrl+C or where the data end without one, which is returned."""
    from ..bitstream import streams
    from ..runtime import files

    source: Any = sys.stdin.buffer if origin == "-" else stack.enter_context(click.open_file(origin, "rb"))
    codec: Codec | None = None
    write: Callable[[Audio], object] | None = None

    def tables(*_: object) -> Entropy | None:
        """Asked for at the first coded packet, when the codec is known."""
        return None if codec is None else codec.entropy

    try:
        for reader in streams(source, entropy=tables):  # recordings one after the other
            if codec is None or codec.info.model_hash != reader.header.model_hash:
                codec = files.codec_for(reader.header, load(model) if model and model != reader.header.model else None)
            write = write or _sink(stack, codec.info.sample_rate, target, device, force, origin)
            for samples in files.decode_packets(codec, reader, files.Report()):
                write(samples)
    except KeyboardInterrupt:
        pass  # how listening ends
    except TruncatedError as error:
        return error
    return None


# -- RTP -----------------------------------------------------------------------------------------------------------------------


def _send(
    stack: ExitStack, codec: Codec, to: str, source: Iterator[Audio], origin: str, bitrate: float, redundancy: int, packet_frames: int,
    loss: float, seed: int, speed: float,
) -> None:  # fmt: skip
    from ..live import udp
    from ..live.call import Outgoing
    from ..live.clock import Clock

    sock, address = udp.open_socket(*udp.parse_address(to))
    stack.callback(sock.close)
    clock = None if origin == "mic" else Clock(1 / codec.info.frame_rate, speed)
    outgoing = Outgoing(codec, bitrate, redundancy, packet_frames)
    say(udp.send(outgoing, source, sock, address, clock, loss, seed).summary())


def _receive(
    stack: ExitStack, codec: Codec, port: str, target: str, depth: int, idle: float, device: int | str | None, force: bool, speed: float
) -> None:
    from ..live import udp
    from ..live.call import Incoming
    from ..live.clock import Clock

    write = _sink(stack, codec.info.sample_rate, target, device, force)
    sock, (host, number, *_) = udp.open_socket(*udp.parse_address(port, "127.0.0.1"), listen=True)
    stack.callback(sock.close)
    say(f"listening on {host}:{number}")
    incoming = Incoming(codec, depth)
    if target in ("-", "speaker"):
        clock = None if target == "speaker" else Clock(1 / codec.info.frame_rate, speed)
        udp.play(incoming, sock, write, clock, idle, silence=clock is None)
    else:
        udp.record(incoming, sock, write, idle)
    say(incoming.summary())
