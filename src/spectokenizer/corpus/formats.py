"""What a shard of tokens looks like on disk, written and read: Parquet, WebDataset tar, or .npy as codec-bpe has it.

    parquet     data/train-00000-of-00012.parquet     a row per clip; codes are a list per codebook
    webdataset  data/train-00000-of-00012.tar         NAME.npy (int16 [K, T]) and NAME.json per clip
    npy         codes/ID_c0.npy (int32 [1, K, T]), codes/codec_info.json, data/train-00000-of-00012.jsonl with the rest

Every file is written under a temporary name and renamed, so that what is there is whole.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from ..codes import CodeArray
from ..disk import printable, replacing
from ..errors import ConfigError, FormatError
from .sources import Columns, Item, safe

FORMATS = {"parquet": ".parquet", "webdataset": ".tar", "npy": ".jsonl"}  # name: suffix of a shard in data/
OWN = ("id", "codes", "num_codebooks", "frame_rate", "samples", "sample_rate_in", "sha256", "model_hash")
DATA, CODES, INFO = "data", "codes", "codec_info.json"
GROUP_FRAMES = 500_000  # frames per Parquet row group: 8 MB of codes at 4 kbit/s


@dataclass(frozen=True)
class Row:
    """One clip of a corpus of tokens."""

    id: str
    codes: CodeArray  # int16 [K, T]
    num_codebooks: int
    frame_rate: float
    samples: int  # of the audio, at the model's rate
    sample_rate_in: int
    sha256: str  # of the source
    model_hash: str
    columns: Columns = field(default_factory=dict)  # the manifest's own

    def about(self) -> Columns:
        """All but the codes."""
        return {name: getattr(self, name) for name in OWN if name != "codes"} | self.columns


def carried(columns: Columns) -> Columns:
    """The manifest's columns under names that do not collide with ours."""
    return {printable(f"manifest_{name}" if name in OWN else name): value for name, value in columns.items()}


# -- writing -----------------------------------------------------------------------------------------------------------


def need_pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError('Parquet needs pyarrow: pip install "spectokenizer[corpus]", or choose --format npy or webdataset') from error
    return pyarrow


def shard_path(kind: str, out: Path, name: str) -> Path:
    return out / DATA / (name + FORMATS[kind])


def write(kind: str, out: Path, name: str, rows: Sequence[Row], schema: bytes | None = None) -> None:
    """The shard `name` (without suffix) of the corpus in folder `out`. `schema` is `column_types`' for Parquet."""
    path = shard_path(kind, out, name)
    if kind == "parquet":
        _write_parquet(path, rows, schema)
    elif kind == "webdataset":
        _write_tar(path, rows)
    else:
        _write_npy(path, out / CODES, rows)


def column_types(items: Sequence[Item]) -> bytes:
    """One Arrow schema for the manifests' columns, found over all clips so that all shards have the same; columns of mixed types become
    JSON text."""
    pa = need_pyarrow()
    values: dict[str, list[Any]] = {}
    for item in items:
        for name, value in carried(item.columns or {}).items():
            values.setdefault(name, []).append(value)
    fields = []
    for name, column in values.items():
        try:
            kind = pa.infer_type(column)
            pa.array(column, kind)
        except (pa.ArrowException, OverflowError, UnicodeError):
            kind = None
        if kind is None or pa.types.is_null(kind) or _holds_nothing(pa, kind):
            kind = pa.string()
        fields.append(pa.field(name, kind))
    return bytes(pa.schema(fields).serialize())


def _holds_nothing(pa: Any, kind: Any) -> bool:
    """Whether a struct without fields is part of a type: Parquet has none."""
    if pa.types.is_struct(kind) and not kind.num_fields:
        return True
    return any(_holds_nothing(pa, kind.field(i).type) for i in range(kind.num_fields)) if pa.types.is_nested(kind) else False


def _write_parquet(path: Path, rows: Sequence[Row], schema: bytes | None) -> None:
    pa = need_pyarrow()
    from pyarrow import parquet

    own = {
        "id": pa.string(),
        "codes": pa.list_(pa.list_(pa.int16())),
        "num_codebooks": pa.int16(),
        "frame_rate": pa.float64(),
        "samples": pa.int64(),
        "sample_rate_in": pa.int32(),
        "sha256": pa.string(),
        "model_hash": pa.string(),
    }
    extra = list(pa.ipc.read_schema(pa.py_buffer(schema))) if schema else []
    full = pa.schema([*own.items(), *((field.name, field.type) for field in extra)])
    with replacing(path) as file, parquet.ParquetWriter(file, full, compression="zstd") as writer:
        for group in _groups(rows):
            arrays = [_code_lists(pa, group) if name == "codes" else pa.array([getattr(r, name) for r in group], own[name]) for name in own]
            arrays += [pa.array([_as(pa, row.columns.get(f.name), f.type) for row in group], f.type) for f in extra]
            writer.write_table(pa.Table.from_arrays(arrays, schema=full))


def _groups(rows: Sequence[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    frames = 0
    for row in rows:
        group.append(row)
        frames += row.codes.shape[1]
        if frames >= GROUP_FRAMES:
            yield group
            group, frames = [], 0
    if group or not rows:  # a shard whose files were all unreadable is an empty table
        yield group


def _code_lists(pa: Any, rows: Sequence[Row]) -> Any:
    """list<list<int16>>, without a Python object per code."""
    flat = np.concatenate([row.codes.reshape(-1) for row in rows]) if rows else np.zeros(0, np.int16)
    lengths = [row.codes.shape[1] for row in rows for _ in range(len(row.codes))]
    books = pa.ListArray.from_arrays(pa.array(np.cumsum([0, *lengths]), pa.int32()), pa.array(flat))
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *(len(row.codes) for row in rows)]), pa.int32()), books)


def _as(pa: Any, value: Any, kind: Any) -> Any:
    """Text columns take what is no text as JSON."""
    if value is None or not pa.types.is_string(kind):
        return value
    return (value if isinstance(value, str) else _json(value)).encode("utf-8", "backslashreplace").decode()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _write_tar(path: Path, rows: Sequence[Row]) -> None:
    with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in rows:
            key = tar_key(row.id)
            for suffix, data in ((".json", _json(row.about()).encode("utf-8", "backslashreplace")), (".npy", _npy(row.codes))):
                member = tarfile.TarInfo(key + suffix)  # no date and no owner: the same clips make the same bytes
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def tar_key(name: str) -> str:
    """WebDataset ends a sample's key at the first dot of the file's name, so there must be none."""
    folder, slash, base = name.rpartition("/")
    return folder + slash + (base.replace(".", "_") + "-" + sha256(base.encode()).hexdigest()[:8] if "." in base else base)


def _npy(array: np.ndarray[Any, Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _write_npy(path: Path, codes: Path, rows: Sequence[Row]) -> None:
    """int32, because codec-bpe adds its characters' numbers in place. A clip without frames, which its tools do not expect, is in the
    .jsonl alone. Not each small file is waited for: a kill leaves all of them whole, a power cut may not."""
    for row in rows:
        if row.codes.size:
            with replacing(npy_path(codes, row.id), sync=False) as file:
                file.write(_npy(row.codes.astype(np.int32)[None]))
    with replacing(path) as file:
        for row in rows:
            file.write((_json(row.about()) + "\n").encode("utf-8", "backslashreplace"))


def npy_path(codes: Path, name: str) -> Path:
    return codes / f"{name}_c0.npy"


def codec_info(num_codebooks: int, codebook_size: int, frame_rate: float, sample_rate: int, model: str) -> Columns:
    """What codec-bpe's tools read from the folder of codes."""
    return {
        "codec_type": "spectokenizer",
        "codec_model": model,
        "sampling_rate_encoder": sample_rate,
        "sampling_rate_decoder": sample_rate,
        "num_codebooks": num_codebooks,
        "codebook_size": codebook_size,
        "framerate": frame_rate,
    }


# -- reading -----------------------------------------------------------------------------------------------------------


def shards(source: str | Path) -> list[Path]:
    """The shards of a corpus' folder, of its data/, or one shard. Raises FormatError when there are none."""
    source = Path(source)
    if source.is_file() and source.suffix in FORMATS.values():
        return [source]
    for folder in (source / DATA, source):
        found = sorted(path for path in folder.glob("*") if path.suffix in FORMATS.values()) if folder.is_dir() else []
        if found:
            return found
    raise FormatError(f"{source}: no shards of tokens there; give the folder that 'spectok tokenize' wrote")


def read(source: str | Path) -> Iterator[Row]:
    """The clips of a corpus of tokens, of any of the three formats, one after another. Raises FormatError for what cannot be read."""
    for path in shards(source):
        yield from read_shard(path)


def read_shard(path: Path) -> Iterator[Row]:
    try:
        if path.suffix == ".parquet":
            yield from _read_parquet(path)
        elif path.suffix == ".tar":
            yield from _read_tar(path)
        else:
            yield from _read_npy(path)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, EOFError, RecursionError, OSError, tarfile.TarError) as error:
        raise FormatError(f"{path}: not a shard of tokens that can be read ({type(error).__name__}: {error})") from error


def _row(about: Columns, codes: CodeArray) -> Row:
    own = {name: about[name] for name in OWN if name != "codes"}
    return Row(codes=codes, columns={name: value for name, value in about.items() if name not in OWN}, **own)


def _read_parquet(path: Path) -> Iterator[Row]:
    need_pyarrow()
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            abouts = table.drop_columns(["codes"]).to_pylist()
            for about, codes in zip(abouts, table["codes"], strict=True):
                books = [np.asarray(book.values, np.int16) for book in codes]
                yield _row(about, np.stack(books) if books else np.zeros((about["num_codebooks"], 0), np.int16))


def _read_tar(path: Path) -> Iterator[Row]:
    with tarfile.open(path, "r:") as tar:
        about: Columns = {}
        while (member := tar.next()) is not None:
            tar.members.clear()  # type: ignore[attr-defined]
            file = tar.extractfile(member)
            if file is None:
                continue
            if member.name.endswith(".json"):
                about = json.loads(file.read())
            elif member.name.endswith(".npy"):
                yield _row(about, np.load(io.BytesIO(file.read()), allow_pickle=False).astype(np.int16))


def _read_npy(path: Path) -> Iterator[Row]:
    codes = path.parents[1] / CODES
    with open(path, encoding="utf-8") as file:
        for line in file:
            about = json.loads(line)
            array = np.zeros((about["num_codebooks"], 0), np.int16)
            if about["samples"]:
                array = np.load(npy_path(codes, safe(about["id"])), allow_pickle=False)[0].astype(np.int16)
            yield _row(about, array)
