"""stream: live PCM ↔ packets over pipes."""

from __future__ import annotations

import sys

import click

from .common import bitrate_option, check_bitrate, load, model_option, say


@click.command()
@click.option("--decode", "-d", is_flag=True, help="The other way: packets on stdin, PCM on stdout.")
@model_option
@bitrate_option
@click.option("--packet-frames", type=click.IntRange(1, 255), default=1, show_default=True, help="Frames (20 ms each) per packet.")
def stream(decode: bool, model: str, bitrate: float, packet_frames: int) -> None:
    """Encode raw PCM (16 kHz, mono, 16-bit little-endian) from stdin to a live .stk on stdout, frame by frame.

    The other way, samples come out with their packet; at the end there may be up to a frame more than went in.

    \b
    arecord -f S16_LE -r 16000 -t raw | spectok stream -b 3 | spectok stream -d | aplay -f S16_LE -r 16000 -t raw
    """
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    if decode:
        _decode(source, sink, model)
    else:
        codec = load(model)
        check_bitrate(codec, bitrate)
        _encode(source, sink, codec, bitrate, packet_frames)


def _encode(source, sink, codec, bitrate: float, packet_frames: int) -> None:  # type: ignore[no-untyped-def]
    import numpy as np

    from ..bitstream import Writer
    from ..runtime.files import header_of

    encoder = codec.encoder(bitrate)
    writer = Writer(sink, header_of(codec, encoder.num_codebooks), packet_frames)
    odd = b""
    while data := source.read1(2 * codec.info.frame_size):
        data = odd + data
        whole = len(data) // 2 * 2
        odd = data[whole:]
        writer.write(encoder.push(np.frombuffer(data[:whole], "<i2").astype(np.int16)))
        sink.flush()
    if odd:
        say("Warning: the last byte was half a sample and is dropped")
    writer.write(encoder.flush())
    writer.close(encoder.num_samples)
    sink.flush()


def _decode(source, sink, model: str) -> None:  # type: ignore[no-untyped-def]
    from ..bitstream import Reader
    from ..runtime import files

    reader = Reader(source)
    codec = files.codec_for(reader.header, None if model == reader.header.model else load(model))
    for samples in files.decode_packets(codec, reader, files.Report()):
        sink.write(files.to_int16(samples).tobytes())  # at once; so the last frame comes whole, where a file is cut to length
        sink.flush()
