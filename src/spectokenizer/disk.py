"""Files that others may read meanwhile: whole or not at all, and by one writer at a time."""

from __future__ import annotations

import os
import sys
import tempfile
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO

from .errors import ConfigError


def cache_folder() -> Path:
    """The user's folder for what can be made again."""
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache"))
    return Path(base) / "spectokenizer"


@contextmanager
def replacing(path: Path, sync: bool = True) -> Iterator[BinaryIO]:
    """A file that takes the name `path` when it is complete and, with `sync`, safely on the disk. What is left of a killed writer ends
    in .part. Raises OSError with the path, for instance for a full disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        as_others_are(part)
        os.replace(part, path)
    except BaseException as error:
        Path(part).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, error.strerror or str(error), str(path)) from error
        raise


def as_others_are(path: str | Path) -> None:
    """The rights of a new file: mkstemp's are for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def replace_text(path: Path, text: str, sync: bool = True) -> None:
    """The whole of a UTF-8 file at once, as `replacing` does."""
    with replacing(path, sync) as file:
        file.write(text.encode())


def printable(name: str) -> str:
    """What others wrote, a file's name above all, as one line of text: without what steers a terminal, and without the surrogates
    that stand in names which are no valid UTF-8."""
    return "".join(c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode() for c in name)


def lock(file: IO[Any], busy: str) -> None:
    """Be the only one with `file` until it is closed, or the process ends in whatever way; raises ConfigError(busy) when another is.
    Where the system or the file system has no locks nothing happens."""
    try:
        import fcntl
    except ImportError:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(busy) from error
    except OSError:
        pass
