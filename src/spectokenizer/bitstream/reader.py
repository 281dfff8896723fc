"""Reading `.stk` streams front to back, whole or damaged, from a file or from a pipe that is still being written.

In bounded memory: no length field makes the reader hold more than the largest record. `seek.py` reads a part of a file without
the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from ..errors import CorruptedError, FormatError, TruncatedError, VersionError
from . import records
from .coding import HASH_SIZE, Entropy, FindEntropy, find_entropy
from .header import HAS_METADATA, HAS_TABLES, Header, header_here, read_header
from .metadata import unpack_metadata
from .records import MAGIC, Head, Packet, RawPacket, read_end, read_head
from .window import Window

MAX_PROBLEMS = 1000  # kept by a salvaging reader


class Reader:
    """Reads a `.stk` stream: the header now, then `Packet`s by iteration, never more from `source` than the next record needs.

    `source.read` must block until there are data or none will come. After the last packet `num_samples` and `num_frames`
    hold the length; until then they are None. Another stream may follow: `next` gives its reader, `streams` gives all.
    Raises FormatError (not a `.stk` stream), VersionError (needs a newer reader), TruncatedError (ends too early) or
    CorruptedError (damaged).

    With `salvage` only an unusable header is an error. Everything else goes to `problems`, damaged packets are left out, and
    reading goes on at the next intact record: each packet's `first_frame` and in the end `num_frames` tell what is lost. If
    the end record is lost, `num_samples` stays None. A `fallback` header takes the place of a damaged one.

    `entropy` is the coder for entropy-coded packets, or a function that finds it by the model's hash and the tables'; such a
    packet without the right coder is a ModelError.
    """

    def __init__(
        self,
        source: BinaryIO | Window,
        salvage: bool = False,
        fallback: Header | None = None,
        entropy: Entropy | FindEntropy | None = None,
    ) -> None:
        self.num_samples: int | None = None
        self.num_frames: int | None = None
        self.frames = 0  # up to the last packet that was read
        self.metadata: dict[str, str] = {}
        self.tables: bytes | None = None  # the entropy coder's hash
        self.indexed = False  # whether an index was seen
        self.problems: list[FormatError] = []  # the first MAX_PROBLEMS
        self._window = source if isinstance(source, Window) else Window(source)  # a window: behind another stream
        self._salvage, self._fallback, self._entropy = salvage, fallback, entropy
        self._coder: Entropy | None = None  # found
        self.start = self._start = self._window.offset  # bytes where the stream and its current record start
        self._packets = 0  # intact ones so far
        self._done = False
        try:
            self.header, self.flags, size = read_header(self._window)
        except FormatError as error:
            first = self.start == 0
            if not salvage or fallback is None or (first and isinstance(error, VersionError)):
                raise
            self.header, self.flags = fallback, HAS_TABLES
            self._skip_damage(error)
            if self._done and first and not isinstance(error, (CorruptedError, TruncatedError)):
                raise  # nothing of a .stk is in it
        else:
            self._window.skip(size)
            self._read_front()

    @property
    def num_bytes(self) -> int:
        """Bytes read so far, of the streams before too."""
        return self._window.offset

    def __iter__(self) -> Iterator[Packet]:
        return self.packets()

    def packets(self, first: int = 0, stop: int | None = None) -> Iterator[Packet]:
        """The frames from `first` up to `stop` (None: to the end); those before are read over, those behind not read."""
        for raw in self.raw():
            if raw.stop_frame <= first:
                continue
            if stop is not None and raw.first_frame >= stop:
                return
            try:
                packet = raw.decode(self.header.bits_per_code, self._find_coder)
            except CorruptedError as error:
                self._fail(CorruptedError(f"{self._place()}: {error}"))
                continue
            yield packet.cut(first, stop)
            if stop is not None and raw.stop_frame >= stop:
                return

    def raw(self) -> Iterator[RawPacket]:
        """The packets as they are stored; no entropy coder is needed."""
        while not self._done:
            self._start = self._window.offset
            try:
                head, body = self._record()
            except FormatError as error:
                self._skip_damage(error)
                continue
            self._window.skip(head.size)
            if head.is_packet:
                packet = self._packet(head, body)
                if packet is not None:
                    yield packet
            elif head.kind == records.END:
                self._done = True
                self._end(body)
            elif head.kind == records.INDEX:
                self.indexed = True
            elif head.kind == records.TABLES:
                self._fail(CorruptedError(f"{self._place()}: the hash of entropy tables belongs right behind a header that announces it"))
            elif not head.kind & records.OPTIONAL:
                self._fail(VersionError(f"{self._place()}: record type 0x{head.kind:02x} is unknown here; upgrade spectokenizer"))

    def next(self) -> Reader | None:
        """The reader of the stream behind this one, or None when nothing follows. What is left of this one is read over.

        A salvaging reader finds the next intact header. Where that is damaged but the stream's first packet is not, this
        stream's header takes its place; not so behind the header of a newer version, which is one of this reader's problems.
        """
        for _ in self.raw():
            pass
        window = self._window
        fallback = self._fallback or self.header
        options = self._salvage, fallback, self._entropy
        newer: VersionError | None = None
        while window.peek(1):
            here = window.byte(0)
            if not self._salvage or (here == MAGIC[0] and window.peek(len(MAGIC)) == MAGIC):
                try:
                    read_header(window)
                    return Reader(window, *options)
                except FormatError as error:
                    if not newer:
                        self._fail(error)
                    if isinstance(error, VersionError):
                        newer = error
            elif (here in records.PLAIN or here in records.CODED) and not newer and self._starts_a_recording(fallback):
                return Reader(window, *options)
            window.skip(1)
        return None

    def _read_front(self) -> None:
        """The records that the flags announce, right behind the header."""
        for flag, kind in ((HAS_TABLES, records.TABLES), (HAS_METADATA, records.METADATA)):
            if not self.flags & flag:
                continue
            self._start = self._window.offset
            try:
                head, body = self._record()
            except FormatError as error:
                self._skip_damage(error)
                return
            try:
                if head.kind == kind:
                    self._window.skip(head.size)
                    self._take(kind, body)
                elif kind == records.TABLES:
                    raise CorruptedError("the hash of the entropy tables, which the header announces, is not there")
            except CorruptedError as error:
                self._fail(CorruptedError(f"{self._place()}: {error}"))

    def _take(self, kind: int, body: bytes) -> None:
        if kind == records.METADATA:
            self.metadata = unpack_metadata(body)
        elif len(body) != HASH_SIZE:
            raise CorruptedError(f"the hash of the entropy tables has {HASH_SIZE} bytes, not {len(body)}")
        else:
            self.tables = body

    def _record(self, header: Header | None = None) -> tuple[Head, bytes]:
        """Head and body of the record at the window's position, its checksum right; not consumed. CorruptedError, TruncatedError."""
        window, header = self._window, header or self.header
        try:
            if window.byte(0) == MAGIC[0] and window.peek(len(MAGIC)) == MAGIC:
                raise TruncatedError(f"{self._place()}: a new stream begins before the end record of this one")
            head = read_head(window.byte, header.bits_per_code, header.num_codebooks)
            window.byte(head.size - 1)
        except EOFError:
            where = f"inside the record at byte {self._start}" if window.peek(1) else "without an end record"
            raise TruncatedError(f"the data end at byte {window.end}, {where}; {self._packets} complete packets before") from None
        except CorruptedError as error:
            raise CorruptedError(f"{self._place()}: {error}") from None
        if window.crc(head.size) != 0:
            raise CorruptedError(f"{self._place()}: the checksum does not match")
        return head, window.peek(head.size)[head.at : -4]

    def _packet(self, head: Head, body: bytes) -> RawPacket | None:
        if head.first != self.frames:
            self._fail(CorruptedError(f"{self._place()}: a packet starts with frame {head.first}, expected was frame {self.frames}"))
            if head.first < self.frames:
                return None
        try:
            packet = head.packet(body, self._start, self.header.bits_per_code)
            if packet.coded and not self.flags & HAS_TABLES:
                raise CorruptedError("an entropy-coded packet, which the header does not announce")
        except CorruptedError as error:
            self._fail(CorruptedError(f"{self._place()}: {error}"))
            return None
        self._packets += 1
        self.frames = packet.stop_frame
        return packet

    def _end(self, body: bytes) -> None:
        try:
            num_frames, num_samples = read_end(body, self.frames, self.header.frame_size)
        except CorruptedError as error:
            self._fail(CorruptedError(f"{self._place()}: {error}"))
        else:
            if num_frames > self.frames:
                self._fail(CorruptedError(f"{self._place()}: the end record counts {num_frames} frames, seen were {self.frames}"))
            self.num_frames, self.num_samples = num_frames, num_samples
        if not MAGIC.startswith(self._window.peek(len(MAGIC))):
            self._fail(CorruptedError(f"more data after the end record, from byte {self._window.offset}"))

    def _find_coder(self) -> Entropy:
        if self._coder is None:
            self._coder = find_entropy(self._entropy, self.header, self.tables)
        return self._coder

    def _starts_a_recording(self, header: Header) -> bool:
        """Whether an intact first packet of a stream with this header is here."""
        try:
            return self._record(header)[0].first == 0
        except FormatError:
            return False

    def _skip_damage(self, error: FormatError) -> None:
        """Go to the next intact packet, end record or header, which ends this stream."""
        if not self._salvage:
            raise error
        window = self._window
        while window.peek(1):
            here = window.byte(0)
            if here == MAGIC[0] and header_here(window):
                self._done = True
                self._fail(error)
                return
            if here in records.PLAIN or here in records.CODED or here == records.END:
                try:
                    self._record()
                except FormatError:
                    pass
                else:
                    self._fail(CorruptedError(f"{error}; {window.offset - self._start} bytes skipped"))
                    return
            window.skip(1)
        self._done = True
        self._fail(error)

    def _fail(self, error: FormatError) -> None:
        if not self._salvage:
            raise error
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(error)

    def _place(self) -> str:
        return f"byte {self._start}, after {self._packets} packets"


def streams(
    source: BinaryIO, salvage: bool = False, fallback: Header | None = None, entropy: Entropy | FindEntropy | None = None
) -> Iterator[Reader]:
    """The readers of all streams that follow one another in `source`. What you leave of one is read over for the next."""
    reader: Reader | None = Reader(source, salvage, fallback, entropy)
    while reader:
        yield reader
        reader = reader.next()
