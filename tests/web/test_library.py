"""The JavaScript library under Node.js, beside the Python one: the same bytes, the same codes, the same kinds of error."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from spectokenizer import Codec
from spectokenizer.bitstream import Header, Reader, Writer, streams
from spectokenizer.bitstream.header import HAS_METADATA
from spectokenizer.bitstream.records import METADATA, make_end, make_packet, make_record
from spectokenizer.errors import FormatError, ModelError

JavaScript = Callable[..., Any]

WEB = Path(__file__).parents[2] / "web"
GOLDEN = Path(__file__).parents[1] / "data" / "golden-v1.stk"

READ = """
answer(given.files.map((file) => {
  try {
    return spectok.readStk(bytes(file), given.options).map(({ header, packets, numFrames, numSamples, metadata, problems }) => {
      const all = packets.map(({ firstFrame, codes }) => [firstFrame, codes.numCodebooks, [...codes.data]]);
      return { header, packets: all, numFrames, numSamples, metadata, problems: problems.length > 0 };
    });
  } catch (error) {
    return error.name;
  }
}));
"""


# -- .stk ----------------------------------------------------------------------------------------------------------------------


def read(data: bytes, **options: Any) -> Any:
    """What the JavaScript above gives, by Python's reader: a dict for each recording, or the error's name."""
    found = []
    try:
        for reader in streams(io.BytesIO(data), **options):
            found.append((reader, [[packet.first_frame, packet.codes.shape[0], packet.codes.T.reshape(-1).tolist()] for packet in reader]))
    except (FormatError, ModelError) as error:
        return type(error).__name__
    return [
        {
            "packets": packets,
            "numFrames": reader.num_frames or reader.frames,
            "numSamples": reader.num_samples,
            "metadata": reader.metadata,
            "problems": bool(reader.problems),
        }
        for reader, packets in found
    ]


def without_header(found: Any) -> Any:
    return found if isinstance(found, str) else [{key: value for key, value in one.items() if key != "header"} for one in found]


def a_file(rng: np.random.Generator, frames: int = 60, **options: Any) -> bytes:
    sink = io.BytesIO()
    writer = Writer(sink, Header("mini", "0123456789abcdef", 16000, 320, 12, 10), packet_frames=7, **options)
    writer.write(rng.integers(0, 1024, (12, frames)))
    writer.close(frames * 320 - 100)
    return sink.getvalue()


def test_the_golden_file_reads_as_in_python(javascript: JavaScript) -> None:
    data = GOLDEN.read_bytes()
    [found] = javascript(READ, files=[data.hex()], options={})
    assert without_header(found) == read(data)
    assert found[0]["header"] == {
        "model": "mini",
        "modelHash": "0123456789abcdef",
        "sampleRate": 16000,
        "frameSize": 320,
        "numCodebooks": 2,
        "bitsPerCode": 10,
    }


def test_recordings_in_a_row_with_metadata_and_index(javascript: JavaScript) -> None:
    rng = np.random.default_rng(3)
    data = a_file(rng, 250, metadata={"title": "Grüße, 你好"}, index=True) + GOLDEN.read_bytes() + a_file(rng, 3, metadata={"a": ""})
    [found] = javascript(READ, files=[data.hex()], options={})
    assert without_header(found) == read(data)
    assert [len(one["packets"]) for one in found] == [36, 2, 1]
    assert found[0]["metadata"] == {"title": "Grüße, 你好"}


def test_all_golden_files(javascript: JavaScript) -> None:
    data = [path.read_bytes() for path in sorted(GOLDEN.parent.glob("golden-v*.stk"))]
    assert [without_header(found) for found in javascript(READ, files=[one.hex() for one in data], options={})] == [
        read(one) for one in data
    ]


class Coder:
    """An entropy coder of which only the size matters."""

    hash = b"12345678"

    def encode(self, codes: np.ndarray) -> bytes:
        return b"short"

    def decode(self, data: bytes, num_codebooks: int, num_frames: int) -> np.ndarray:
        return np.zeros((num_codebooks, num_frames), np.int16)


def test_entropy_coded_files_are_refused_by_name(javascript: JavaScript) -> None:
    data = a_file(np.random.default_rng(4), entropy=Coder())
    assert javascript(READ, files=[data.hex()], options={}) == ["ModelError"] == [read(data)]


def test_damage_of_every_byte_is_the_same_kind_of_error(javascript: JavaScript) -> None:
    golden = GOLDEN.read_bytes()
    data = a_file(np.random.default_rng(5), 2, metadata={"k": "v"}) + golden
    damaged = [data[:i] for i in range(len(data))] + [data + b"\0", b"RIFF" + data, data + b"\x89", data + b"\x89STK\x02"]
    damaged += [data[:i] + bytes([data[i] ^ flip]) + data[i + 1 :] for i in range(len(data)) for flip in (1, 128)]
    found = javascript(READ, files=[case.hex() for case in damaged], options={})
    names = [answer if isinstance(answer, str) else None for answer in found]
    wanted = [answer if isinstance(answer, str) else None for answer in map(read, damaged)]
    assert names == wanted
    assert len(data) - wanted.count(None) >= len(data) - 1  # only the cut between the recordings leaves a good file


def test_salvage_finds_the_same_packets(javascript: JavaScript) -> None:
    rng = np.random.default_rng(1)
    data = a_file(rng, metadata={"title": "x"}) + a_file(rng, 20)
    damaged = []
    for _ in range(60):
        case = bytearray(data)
        for at in rng.integers(40, len(data), rng.integers(1, 4)):
            case[at] ^= int(rng.integers(1, 256))
        damaged.append(bytes(case[: rng.integers(len(data) // 2, len(data) + 1)] if rng.random() < 0.3 else case))
    found = javascript(READ, files=[case.hex() for case in damaged], options={"salvage": True})
    assert any(answer[0]["problems"] for answer in found)
    for case, answer in zip(damaged, found, strict=True):
        assert without_header(answer) == read(case, salvage=True)


def test_salvage_keeps_what_is_behind_a_long_gap(javascript: JavaScript) -> None:
    """Eleven minutes of thirteen are missing; and a counter may be forged."""
    header, rng, sink = Header("mini", "0123456789abcdef", 16000, 320, 1, 10), np.random.default_rng(6), io.BytesIO()
    writer = Writer(sink, header)
    writer.write(rng.integers(0, 1024, (1, 40000)))
    writer.close(40000 * 320)
    data = sink.getvalue()
    packets = list(Reader(io.BytesIO(data)).raw())
    far = make_packet(2**40, rng.integers(0, 1024, (1, 5)), 10)
    damaged = [data[: packets[50].offset] + data[packets[720].offset :], data[: packets[50].offset] + far + make_end(2**40 + 5, 9)]
    found = javascript(READ, files=[case.hex() for case in damaged], options={"salvage": True})
    assert [without_header(answer) for answer in found] == [read(case, salvage=True) for case in damaged]
    assert len(found[0][0]["packets"]) == 50 + len(packets) - 720 and found[0][0]["numSamples"] == 40000 * 320


def test_metadata_follow_the_same_rules(javascript: JavaScript) -> None:
    bodies = [b"{}", b"[]", b"{", b'"a"', b'{"a": 1}', b'{"a": null}', b'{"a": {}}', b'{"a": "b", "c": "\\"\\\\"}', b'{"a": "b", "a": "c"}']
    bodies += [b'{"": "x"}', b'{"%s": "x"}' % (b"k" * 64), b'{"%s": "x"}' % (b"k" * 65), '{"é 你": "😀"}'.encode(), b'{"\\u0007": "x"}']
    bodies += [
        b'{"a": "\\ud800"}',
        b'{"a": "\\ud83d\\ude00"}',
        b'{"\\ud800": "x"}',
        b'{"a": "\xff"}',
        '{"a\u2028": "x"}'.encode(),
        b'{"__proto__": "x"}',
    ]
    header = Header("mini", "0123456789abcdef", 16000, 320, 1, 10).pack(HAS_METADATA)
    files = [header + make_record(METADATA, body) + make_end(0, 0) for body in bodies]
    found = javascript(READ, files=[file.hex() for file in files], options={})
    assert [without_header(answer) for answer in found] == [read(file) for file in files]
    assert {type(answer) for answer in found} == {str, list}

    values = [
        {"title": 5},
        {"": "x"},
        {"k" * 65: "x"},
        {"created": "yesterday"},
        {"created": "2026-02-31"},
        {"created": "2026-01-31T12:00:00Z"},
    ]
    written = javascript(
        """
        answer(given.values.map((metadata) => {
          try {
            new spectok.Writer(() => {}, new spectok.Header(given.header), { metadata });
            return "";
          } catch (error) { return error.name; }
        }));
        """,
        values=values,
        header={
            "model": "mini",
            "modelHash": "0123456789abcdef",
            "sampleRate": 16000,
            "frameSize": 320,
            "numCodebooks": 1,
            "bitsPerCode": 10,
        },
    )
    assert written == ["CodesError"] * 5 + [""]


def test_the_writer_makes_the_same_bytes(javascript: JavaScript) -> None:
    rng = np.random.default_rng(2)
    cases, wanted = [], []
    for _ in range(60):
        most, bits = int(rng.integers(1, 33)), int(rng.integers(1, 16))
        header = Header("mini é", "00112233445566ff", int(rng.integers(1, 2**21)), int(rng.integers(1, 2**21)), most, bits)
        packet_frames = None if rng.random() < 0.3 else int(rng.integers(1, 256))
        options: dict[str, Any] = {"index": bool(rng.random() < 0.5), "metadata": {"title": "é 你"} if rng.random() < 0.3 else {}}
        sink, parts, frames = io.BytesIO(), [], 0
        writer = Writer(sink, header, packet_frames, **options)
        k = most
        for _ in range(rng.integers(0, 6)):
            k = int(rng.integers(1, most + 1)) if rng.random() < 0.3 else k
            codes = rng.integers(0, 1 << bits, (k, int(rng.integers(0, 300))))
            writer.write(codes)
            frames += codes.shape[1]
            parts.append([k, codes.T.reshape(-1).tolist()])
        samples = int(rng.integers(0, frames * header.frame_size + 1))
        writer.close(samples)
        values = {"model": header.model, "modelHash": header.model_hash, "sampleRate": header.sample_rate}
        values |= {"frameSize": header.frame_size, "numCodebooks": most, "bitsPerCode": bits}
        cases.append(
            {
                "header": values,
                "options": options | ({"packetFrames": packet_frames} if packet_frames else {}),
                "parts": parts,
                "samples": samples,
            }
        )
        wanted.append(sink.getvalue().hex())
    found = javascript(
        """
        answer(given.cases.map(({ header, options, parts, samples }) => {
          const records = [];
          const writer = new spectok.Writer((record) => records.push(...record), new spectok.Header(header), options);
          for (const [k, data] of parts) writer.write(new spectok.Codes(Int16Array.from(data), k));
          writer.close(samples);
          return hex(records);
        }));
        """,
        cases=cases,
    )
    assert found == wanted


# -- sound files and resampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_wav_files_are_read_as_by_python(javascript: JavaScript, subtype: str, tmp_path: Path) -> None:
    audio = np.random.default_rng(6).uniform(-1, 1, (999, 2))
    soundfile.write(tmp_path / "a.wav", audio, 44100, subtype=subtype)
    found = javascript(
        "const { samples, sampleRate } = spectok.readWav(bytes(given.data)); answer([[...samples], sampleRate])",
        data=(tmp_path / "a.wav").read_bytes().hex(),
    )
    wanted, rate = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_allclose(found[0], wanted.mean(1), atol=6e-8)
    assert found[1] == rate


RESAMPLE = """
const samples = floats(given.path);
const whole = spectok.resample(samples, given.from, given.to);
let same = true;
for (const size of given.cuts) {
  const stream = new spectok.Resampler(given.from, given.to);
  const parts = [];
  for (let at = 0; at < samples.length; at += size) parts.push(...stream.push(samples.slice(at, at + size)));
  parts.push(...stream.push(new Float32Array(0), true));
  same &&= parts.length === whole.length && parts.every((value, i) => value === whole[i]);
}
answer({ same, whole: [...whole] });
"""


@pytest.mark.parametrize("rate", [44100, 48000, 8000, 16000, 11025])
def test_resampling(javascript: JavaScript, rate: int, tmp_path: Path) -> None:
    """Any cuts give the same samples, the length is exact, a tone arrives as it is, one beyond the new Nyquist frequency does not."""
    n = 4001
    time = np.arange(n) / rate
    tone = (0.5 * np.sin(2 * np.pi * 1000 * time)).astype(np.float32)
    (tmp_path / "in.f32").write_bytes(tone.tobytes())
    found = javascript(RESAMPLE, path=str(tmp_path / "in.f32"), **{"from": rate, "to": 16000}, cuts=[1, 160, 882, 5000])
    assert found["same"]
    out = np.array(found["whole"])
    assert len(out) == round(n * 16000 / rate)
    wanted = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(out)) / 16000)
    inner = slice(len(out) // 4, -len(out) // 4)
    assert np.abs(out - wanted)[inner].max() < 1e-3
    if rate > 24000:
        high = (0.5 * np.sin(2 * np.pi * 11000 * time)).astype(np.float32)
        (tmp_path / "in.f32").write_bytes(high.tobytes())
        found = javascript(RESAMPLE, path=str(tmp_path / "in.f32"), **{"from": rate, "to": 16000}, cuts=[])
        assert np.abs(np.array(found["whole"]))[inner].max() < 1e-4


# -- the codec -----------------------------------------------------------------------------------------------------------------

STREAM = """
const model = await codec();
const samples = floats(given.path);
const whole = await model.encode(samples, 16000, { bitrate: null });
const encoder = model.encoder(null);
const pushed = [];
for (let at = 0, i = 0; at < samples.length; i++) {
  const size = given.cuts[i % given.cuts.length];
  pushed.push(encoder.push(samples.slice(at, at + size))); // not waited for: pushes are done in order
  at += size;
}
pushed.push(encoder.flush());
const codes = (await Promise.all(pushed)).flatMap((part) => [...part.data]);
const audio = await model.decode(whole.first(8));
const decoder = model.decoder();
const before = await decoder.push(whole.frames(0, 40));
const lost = await decoder.conceal(30);
const after = await decoder.push(whole.frames(70, 80));
const stk = spectok.writeStk(whole.first(8));
answer({
  info: model.info, whole: [...whole.data], codes, audio: [...audio], before: before.length, lost: [...lost], after: after.length,
  frames: decoder.numFrames, stk: hex(stk),
});
"""


@pytest.fixture(scope="module")
def streamed(javascript: JavaScript, packages: Path, codec: Codec, speech: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("speech") / "speech.f32"
    path.write_bytes(speech.tobytes())
    return javascript(STREAM, path=str(path), model=str(codec.network.folder), cuts=[1, 319, 320, 1000, 77, 2000])


def test_the_model_is_the_same(streamed: Any, codec: Codec) -> None:
    info = codec.info
    assert streamed["info"] == {
        "name": info.name,
        "sampleRate": info.sample_rate,
        "frameSize": info.frame_size,
        "frameRate": info.frame_rate,
        "numCodebooks": info.num_codebooks,
        "codebookSize": info.codebook_size,
        "bitsPerCode": info.bits_per_code,
        "bitrates": list(info.bitrates),
        "delaySamples": info.delay_samples,
        "modelHash": info.model_hash,
    }


def test_codes_are_pythons_whatever_the_cuts(streamed: Any, codec: Codec, speech: np.ndarray) -> None:
    """Step and chunk graphs agree to the bit. With Python, another processor's arithmetic may tip a rare near-tie: most must agree."""
    assert streamed["codes"] == streamed["whole"]
    found = np.array(streamed["whole"]).reshape(-1, codec.info.num_codebooks).T
    wanted = codec.encode(speech, 16000, codec.info.bitrates[-1]).array
    assert found.shape == wanted.shape
    assert (found == wanted).mean() > 0.99


def test_samples_are_pythons(streamed: Any, codec: Codec) -> None:
    codes = np.array(streamed["whole"], np.int16).reshape(-1, codec.info.num_codebooks).T
    wanted = codec.decoder().push(codes[:8])[codec.info.delay_samples :]
    found = np.array(streamed["audio"])
    np.testing.assert_allclose(found, wanted[: len(found)], atol=1e-4)


def test_lost_frames_are_concealed(streamed: Any, codec: Codec) -> None:
    """In step, as Python's for the first 100 ms, and then a fade to something quiet."""
    size = codec.info.frame_size
    assert (streamed["before"], streamed["after"], streamed["frames"]) == (40 * size, 10 * size, 80)
    codes = np.array(streamed["whole"], np.int16).reshape(-1, codec.info.num_codebooks).T
    decoder = codec.decoder()
    before = decoder.push(codes[:, :40])
    wanted = decoder.conceal(30)
    lost = np.array(streamed["lost"])
    np.testing.assert_allclose(lost[: 5 * size], wanted[: 5 * size], atol=1e-3)

    def rms(x: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(x))))

    assert rms(lost[15 * size :]) < 0.5 * rms(before)
    assert rms(lost[15 * size :]) == pytest.approx(rms(wanted[15 * size :]), rel=0.5, abs=1e-5)


def test_the_file_is_pythons(streamed: Any, codec: Codec) -> None:
    reader = Reader(io.BytesIO(bytes.fromhex(streamed["stk"])))
    codes = np.concatenate([packet.codes for packet in reader], 1)
    sink = io.BytesIO()
    writer = Writer(sink, reader.header, index=True)
    writer.write(codes)
    writer.close(reader.num_samples or 0)
    assert sink.getvalue().hex() == streamed["stk"]
    assert reader.header.model_hash == codec.info.model_hash


def test_named_errors(javascript: JavaScript, packages: Path, codec: Codec) -> None:
    found = javascript(
        """
        const model = await codec();
        const seen = async (act) => { try { await act(); return null; } catch (error) { return error.name; } };
        const over = model.encoder(null);
        await over.flush();
        answer([
          await seen(() => model.encoder(4001)),
          await seen(() => model.encode(Float32Array.of(NaN), 16000)),
          await seen(() => model.encode(Float32Array.of(1e9), 16000)),
          await seen(() => model.encode(new Float32Array(9), 12.5)),
          await seen(() => over.push(new Float32Array(1))),
          await seen(() => model.decoder().push(new spectok.Codes(Int16Array.of(5000), 1))),
          await seen(() => model.decoder().push(new spectok.Codes(new Int16Array(99), 99))),
          await seen(() => model.decode(new spectok.Codes(Int16Array.of(1), 1, { modelHash: "0".repeat(16) }))),
        ]);
        """,
        model=str(codec.network.folder),
    )
    wanted = ["BitrateError", "AudioError", "AudioError", "AudioError", "StreamError", "CodesError", "CodesError", "ModelError"]
    assert found == wanted


def test_types(node: str) -> None:
    compiler = WEB / "node_modules" / "typescript" / "bin" / "tsc"
    if not compiler.is_file():
        pytest.skip("no TypeScript here; run 'npm ci' in web/")
    done = subprocess.run([node, compiler, "--project", WEB], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


PLAY = """
import { Playback } from "WEB/page/playback.js";
const frameSize = 320, delaySamples = 160;
const decoder = { push: async () => new Float32Array(frameSize), conceal: async () => new Float32Array(frameSize) };
const fake = { info: { frameSize, delaySamples, numCodebooks: 2 }, decoder: () => decoder };
const played = [];
for (const numSamples of given.lengths) {
  let blocks = 0, ended = false;
  const player = {
    postMessage(message) {
      if (message.type === "block") { blocks++; setTimeout(() => player.onmessage({ data: { seq: message.seq } })); }
      ended ||= message.type === "end";
    },
  };
  const playback = new Playback(fake, player, () => {}, () => {});
  const numFrames = Math.ceil((numSamples + delaySamples) / frameSize);
  playback.start({
    numSamples, numFrames, complete: true, frame: () => new Int16Array([1, 2]), samples: () => new Float32Array(frameSize),
  }, 0, false);
  for (let i = 0; i < 500 && !ended; i++) await new Promise((done) => setTimeout(done, 1));
  played.push([blocks, ended]);
}
answer(played);
"""


def test_codes_that_do_not_fit_end_the_playing_and_are_told(javascript: JavaScript) -> None:
    script = (
        PLAY.replace("WEB", WEB.as_uri())
        .replace("push: async () =>", "push: async () => { throw new Error('no such code'); },\n  unused: async () =>")
        .replace("() => {}, () => {})", "() => {}, (error) => played.push(error.message))")
    )
    assert javascript(script, lengths=[16000]) == ["no such code", [0, True]]


def test_playing_ends_whatever_the_length(javascript: JavaScript) -> None:
    """The last frame may bring two blocks of 20 ms: the decoder is half a frame late."""
    lengths = [1, 159, 160, 161, 320, 321, 400, 480, 481, 700, 16000, 16001, 16160, 16161]
    assert javascript(PLAY.replace("WEB", WEB.as_uri()), lengths=lengths) == [[-(-n // 320), True] for n in lengths]


def test_bitrates_nobody_asked_for_and_those_of_their_time(javascript: JavaScript, packages: Path, codec: Codec) -> None:
    """The default is 4 kbit/s or the model's highest, as in Python; a change concerns what is pushed after it."""
    script = """
    const model = await codec();
    const encoder = model.encoder(null);
    const first = encoder.push(new Float32Array(640));
    encoder.setBitrate(model.info.bitrates[0]);
    const second = encoder.push(new Float32Array(640));
    const single = { info: { bitrates: [750] } };
    const defaultOf = Object.getOwnPropertyDescriptor(Object.getPrototypeOf(model), "defaultBitrate").get;
    answer([(await first).numCodebooks, (await second).numCodebooks, (await encoder.flush()).numCodebooks, defaultOf.call(single),
            model.defaultBitrate, model.encoder().numCodebooks]);
    """
    found = javascript(script, model=str(codec.network.folder))
    assert found == [codec.info.num_codebooks, 1, 1, 750, codec.info.default_bitrate, codec.codebooks_for(codec.info.default_bitrate)]
