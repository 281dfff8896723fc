"""Who works on a folder, among processes that share nothing but the folder: on one machine or on many.

A claim is a file claim-N made with O_EXCL, touched every few seconds by a thread of its holder. One that has not been touched for long, or
whose process on this machine is gone, is stale and taken over by making claim-(N+1), so that two who see it stale cannot both get it.
The highest N holds; whoever finds a higher one than his own, or another's in its place, gives up.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

BEAT = 10.0  # seconds between two touches
STALE = 120.0  # seconds without one


def _here() -> str:
    """Where process numbers mean what they mean here: containers may share a name and a kernel, and a name may outlive a restart."""
    names = [socket.gethostname()]
    with contextlib.suppress(OSError):
        names += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return " ".join(names)


def _claims(folder: Path) -> list[tuple[int, Path]]:
    """(N, file), the holder's last."""
    return sorted((int(path.name.partition("-")[2]), path) for path in folder.glob("claim-*"))


def _now(folder: Path) -> float:
    """The time by the clock of the folder's file system: those of the machines may differ."""
    probe = folder / f".clock-{socket.gethostname()}-{os.getpid()}-{threading.get_ident()}"
    probe.touch()
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def holder(folder: Path) -> str | None:
    """Who works on the folder, as text; None when nobody does."""
    found = _claims(folder)
    return _holder(found[-1][1]) if found else None


def _holder(path: Path) -> str | None:
    try:
        host, pid, *_ = [*path.read_text(encoding="utf-8").split("\n"), "", ""]
        if host == _here() and pid.isdigit() and not _running(int(pid)):
            return None
        fresh = _now(path.parent) - path.stat().st_mtime < STALE
    except FileNotFoundError:  # given up this moment
        return None
    return f"{host.partition(' ')[0] or 'someone'}, process {pid or '?'}" if fresh else None


class Claim:
    """Held until `release`, or the end of a `with`. `lost` is called, in another thread, if it was taken over meanwhile."""

    def __init__(self, path: Path, text: str, lost: Callable[[], None]):
        self.path, self._text = path, text
        self._lost, self._end = lost, threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, folder: Path, lost: Callable[[], None] = lambda: None) -> Claim | None:
        """None when another has it."""
        found = _claims(folder)
        if found and _holder(found[-1][1]):
            return None
        number = found[-1][0] + 1 if found else 1
        path = folder / f"claim-{number}"
        text = f"{_here()}\n{os.getpid()}\n{uuid.uuid4().hex}\n"  # known by more than its number, which comes again once all are released
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return None
        if _claims(folder)[-1][0] > number:  # made by one who had looked earlier
            path.unlink(missing_ok=True)
            return None
        return cls(path, text, lost)

    def held(self) -> bool:
        return self._is_last(_claims(self.path.parent))

    def _is_last(self, found: list[tuple[int, Path]]) -> bool:
        return bool(found) and found[-1][1] == self.path and self.path.read_text(encoding="utf-8") == self._text

    def _beat(self) -> None:
        missing = 0
        while not self._end.wait(BEAT):
            with contextlib.suppress(OSError):  # a network file system may be away for a moment, and its folders look empty
                found = _claims(self.path.parent)
                missing = 0 if found else missing + 1
                if missing > 1 or (found and not self._is_last(found)):
                    self._lost()
                    return
                os.utime(self.path)

    def release(self) -> None:
        self._end.set()
        self._thread.join()
        with contextlib.suppress(FileNotFoundError):  # taken over and given up by another
            if self.held():
                number = int(self.path.name.partition("-")[2])
                for path in [path for n, path in _claims(self.path.parent) if n <= number]:  # those taken over first, ours last
                    path.unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.release()
