"""Where the audio is: folders, patterns, manifests, tar shards and lists on standard input, as one list of clips.

The list is the same whenever the inputs are, which is what resuming stands on. What cannot be read is in it, too, with its reason:
nothing is left out in silence.
"""

from __future__ import annotations

import csv
import glob
import json
import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TextIO

from ..errors import ConfigError

READABLE = {".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".aifc", ".au", ".snd", ".w64", ".rf64", ".caf", ".sph"}
OTHER = {".m4a", ".aac", ".wma"}  # audio all the same: soundfile will say no, and errors.jsonl will say so
SUFFIXES = READABLE | OTHER
SHARD = ".tar"
MANIFESTS = {".jsonl", ".json", ".csv", ".tsv", ".parquet", ".txt", ".lst"}
PATH_COLUMNS = ("path", "audio_filepath", "audio_path", "file", "filename", "wav")  # the first one that a manifest has

LONGEST_NAME = 200  # bytes of a path's component: file systems allow 255, and suffixes come on top

Columns = dict[str, Any]


class Item(NamedTuple):
    """A clip before decoding."""

    id: str  # unique, and safe as a relative path
    path: str
    size: int  # bytes
    offset: int = -1  # where a tar member's bytes begin; -1 for a file of its own
    columns: Columns | None = None  # what a manifest says of it
    problem: str = ""  # why it cannot be read, when that is known already


def find(inputs: Sequence[str], root: str | None = None, path_column: str | None = None, stdin: TextIO | None = None) -> list[Item]:
    """All clips of `inputs`, each a folder, an audio file, a tar shard, a manifest, a pattern ("{000..099}.tar", "*.flac"), or
    "-" for a list on `stdin`. Relative paths in a manifest start at `root`, else at its folder.

    Raises ConfigError for an input that is none of these, a manifest that cannot be read, and when nothing is found.
    """
    return list(_unique(listed(inputs, root, path_column, stdin)))


def listed(inputs: Sequence[str], root: str | None = None, path_column: str | None = None, stdin: TextIO | None = None) -> list[Item]:
    """The same with the ids that the inputs have: neither unique nor safe as paths, but what their owner knows them by."""
    found: list[Item] = []
    for text in inputs:
        found += _one(text, root, path_column, stdin)
    if not found:
        raise ConfigError(f"no audio in {', '.join(inputs)}; looked for files named {' '.join(sorted(READABLE))} and {SHARD}")
    return found


def _one(text: str, root: str | None, path_column: str | None, stdin: TextIO | None) -> Iterator[Item]:
    if text == "-":
        if stdin is None:
            raise ConfigError("there is no standard input to read a list from")
        yield from _listed("standard input", _lines("standard input", stdin), root or "", path_column)
        return
    path = Path(text)
    if path.is_dir():
        yield from _folder(text)
    elif path.exists():
        yield from _file(text, path_column, root)
    elif set("*?[{") & set(text):
        matches = expand(text)
        if not any(Path(match).exists() for match in matches):
            raise ConfigError(f"{text}: no file fits the pattern")
        for match in matches:  # one of {000..099} that is not there is told like any other that cannot be read
            if not Path(match).exists():
                yield _item(match, Path(match).name)
            else:
                yield from _folder(match) if Path(match).is_dir() else _file(match, path_column, root)
    else:
        raise ConfigError(f"{text}: no such folder or file")


def _file(text: str, path_column: str | None = None, root: str | None = None) -> Iterator[Item]:
    suffix = Path(text).suffix.lower()
    if suffix == SHARD:
        yield from _members(text)
    elif suffix in MANIFESTS:
        yield from _manifest(Path(text), root, path_column)
    else:
        yield _item(text, Path(text).name)


def expand(pattern: str) -> list[str]:
    """The paths that a shell would make of {000..011}, {a,b} and * ? [ ], sorted."""
    braces = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not braces:
        return sorted(glob.glob(pattern, recursive=True)) if set("*?[") & set(pattern) else [pattern]
    first, last, names = braces.groups()
    values = names.split(",") if names else [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    return [path for value in values for path in expand(pattern[: braces.start()] + value + pattern[braces.end() :])]


def _item(path: str, name: str, columns: Columns | None = None) -> Item:
    """Of a file by itself; a named pipe or a device is refused, because reading it might never end."""
    try:
        about = os.stat(path)
    except OSError as error:
        return Item(name, path, 0, columns=columns, problem=error.strerror or str(error))
    except ValueError as error:  # a null character in the name
        return Item(name, path, 0, columns=columns, problem=str(error))
    problem = "" if stat.S_ISREG(about.st_mode) else "not a regular file"
    return Item(name, path, about.st_size, columns=columns, problem=problem)


# -- folders -----------------------------------------------------------------------------------------------------------


def _folder(top: str) -> Iterator[Item]:
    """The audio and the shards below `top`, sorted. Links are followed, but each folder is listed once: they may lead in circles."""
    seen: set[tuple[int, int]] = set()
    stack = [top]
    while stack:
        folder = stack.pop()
        try:
            about = os.stat(folder)
            if (about.st_dev, about.st_ino) in seen:
                continue
            seen.add((about.st_dev, about.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield Item(_relative(folder, top), folder, 0, problem=f"the folder cannot be listed ({error.strerror})")
            continue
        below = [entry for entry in listed if _is_folder(entry)]
        for entry in listed:
            suffix = Path(entry.name).suffix.lower()
            if suffix == SHARD and entry not in below:
                yield from _members(entry.path, _relative(entry.path, top))
            elif suffix in SUFFIXES and entry not in below:
                yield _item(entry.path, _relative(entry.path, top))
        stack += [entry.path for entry in sorted(below, key=lambda entry: (not entry.is_symlink(), entry.name), reverse=True)]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _relative(path: str, top: str) -> str:
    return Path(os.path.relpath(path, top)).as_posix()


# -- tar shards --------------------------------------------------------------------------------------------------------


def _members(shard: str, name: str | None = None) -> Iterator[Item]:
    """The audio in a WebDataset shard, with the .json and .txt of the same key as columns.

    Members are read where they lie, so their names are never used as paths. A shard that breaks off gives what comes before.
    """
    prefix = (name or Path(shard).name).removesuffix(SHARD)
    group: list[Item] = []
    columns: Columns = {}
    current = ""

    def done() -> list[Item]:
        return [item._replace(columns=dict(columns)) if columns else item for item in group]

    try:
        total = os.stat(shard).st_size
        with tarfile.open(shard, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # which would grow with the shard
                if not member.isreg():
                    continue
                base = member.name.rpartition("/")[2]
                key = member.name[: len(member.name) - len(base)] + base.partition(".")[0]  # WebDataset's: up to the first dot
                if key != current:
                    yield from done()
                    group, columns, current = [], {}, key
                suffix = PurePosixPath(base).suffix.lower()
                if suffix in SUFFIXES:
                    sparse = member.issparse() or member.offset_data + member.size > total
                    problem = "the tar file claims more bytes than it holds" if sparse else ""
                    group.append(Item(f"{prefix}/{member.name}", shard, member.size, member.offset_data, problem=problem))
                elif suffix in {".json", ".txt"} and member.size < 2**20 and (file := tar.extractfile(member)):
                    columns |= _attached(suffix, file.read())
            yield from done()
            group = []
            tar.fileobj.seek(tar.offset)
            if any(tar.fileobj.read(tarfile.BLOCKSIZE)):  # tarfile takes a broken header for the end
                raise tarfile.ReadError(f"no header at byte {tar.offset}")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        yield from done()
        yield Item(prefix, shard, 0, problem=f"the tar file cannot be read any further ({error}); a compressed one must be unpacked first")


def _attached(suffix: str, data: bytes) -> Columns:
    text = data.decode(errors="replace")
    if suffix == ".txt":
        return {"txt": text}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {"json": value}


# -- manifests ---------------------------------------------------------------------------------------------------------


def _manifest(manifest: Path, root: str | None, path_column: str | None) -> Iterator[Item]:
    suffix, name = manifest.suffix.lower(), str(manifest)
    base = root if root is not None else str(manifest.parent)
    try:
        if suffix == ".parquet":
            yield from _listed(name, _parquet(manifest), base, path_column)
            return
        with open(manifest, encoding="utf-8-sig", newline="" if suffix in {".csv", ".tsv"} else None) as file:
            rows = _table(file, "\t" if suffix == ".tsv" else ",") if suffix in {".csv", ".tsv"} else _lines(name, file)
            yield from _listed(name, rows, base, path_column)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{manifest}: not a manifest: neither text, JSONL, CSV nor .parquet ({error.reason})") from error
    except csv.Error as error:
        raise ConfigError(f"{manifest}: not a CSV file that can be read ({error})") from error


def _lines(name: str, file: TextIO) -> Iterator[tuple[int, Columns]]:
    """A path or a JSON object on each line."""
    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        if text.lstrip().startswith("{"):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"{name}, line {number}: not a JSON object ({error}); give one on each line") from error
            yield number, value
        elif text.strip():
            yield number, {PATH_COLUMNS[0]: text}


def _table(file: TextIO, delimiter: str) -> Iterator[tuple[int, Columns]]:
    reader = csv.DictReader(file, delimiter=delimiter)
    for row in reader:
        yield reader.line_num, {key: value for key, value in row.items() if key is not None}


def _parquet(manifest: Path) -> Iterator[tuple[int, Columns]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ConfigError(f'{manifest}: a Parquet manifest needs pyarrow: pip install "spectokenizer[corpus]"') from error
    try:
        with parquet.ParquetFile(manifest) as file:
            numbers = count(1)
            for batch in file.iter_batches():
                for row in batch.to_pylist():
                    yield next(numbers), row
    except (pyarrow.ArrowException, OSError) as error:
        raise ConfigError(f"{manifest}: not a Parquet file that can be read ({error})") from error


def _listed(name: str, rows: Iterable[tuple[int, Columns]], base: str, path_column: str | None) -> Iterator[Item]:
    """The clips of a manifest, in its order. A path that is itself a tar shard stands for its members."""
    column = path_column
    for number, row in rows:
        if column is None or (path_column is None and column not in row):
            column = next((name for name in PATH_COLUMNS if name in row), None)
        if column is None or column not in row:
            wanted = path_column or " or ".join(PATH_COLUMNS)
            raise ConfigError(f"{name}, row {number}: no column {wanted} among {sorted(row)}; name it with --path-column")
        entry, own = row[column], {key: value for key, value in row.items() if key != "id"}
        if not isinstance(entry, str) or not entry:
            raise ConfigError(f"{name}, row {number}: the path is {entry!r}; give text")
        path = os.path.join(base, entry)
        if Path(path).suffix.lower() == SHARD:
            yield from (item._replace(columns={**own, **(item.columns or {})}) for item in _members(path))
            continue
        label = row.get("id")
        columns = own if len(row) > 1 else None  # of a bare list of paths there is nothing to carry
        yield _item(path, str(label) if isinstance(label, (str, int)) and label != "" else entry, columns)


# -- names -------------------------------------------------------------------------------------------------------------


def _unique(items: Iterable[Item]) -> Iterator[Item]:
    """With ids that are safe as relative paths and differ: the name without suffix, else with it, else numbered."""
    taken: set[str] = set()
    numbers: dict[str, Iterator[int]] = {}  # the next for each name: one that a whole manifest shares must not be counted through each time
    for item in items:
        name = safe(item.id)
        stem = name.removesuffix(PurePosixPath(name).suffix) if PurePosixPath(name).suffix.lower() in SUFFIXES else name
        candidates = (stem, name, *()) if stem else (name,)
        free = next((c for c in candidates if c.casefold() not in taken), None)
        if free is None:
            free = next(c for c in (f"{stem}-{i}" for i in numbers.setdefault(stem, count(2))) if c.casefold() not in taken)
        taken.add(free.casefold())  # some file systems do not tell A from a
        yield item._replace(id=free)


def safe(name: str) -> str:
    """A name that stays below any folder it is joined to: no root, no "..", no control characters, no overlong component, valid UTF-8."""
    text = name.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    parts = [re.sub(r"[\x00-\x1f\x7f:*?\"<>|]", "_", part) for part in re.split(r"[/\\]+", text)]
    return "/".join(_shortened(part) for part in parts if part.strip(" .")) or "clip"


def _shortened(part: str) -> str:
    data = part.encode()
    if len(data) <= LONGEST_NAME:
        return part
    stem, suffix = os.path.splitext(part)
    suffix = suffix if len(suffix.encode()) <= 10 else ""
    return stem.encode()[: LONGEST_NAME - 30].decode(errors="ignore") + "-" + sha256(data).hexdigest()[:12] + suffix
