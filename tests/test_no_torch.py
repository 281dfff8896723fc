"""The runtime stands on numpy, onnxruntime, soundfile, soxr and click alone, and the modules import each other in one direction."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import soundfile

import spectokenizer
from spectokenizer import Codec

Python = Callable[..., "subprocess.CompletedProcess[bytes]"]

PACKAGE = Path(spectokenizer.__file__).parent
ABSENT = ("torch", "lightning_fabric", "onnx", "onnxscript", "safetensors", "matplotlib", "rich", "tensorboard", "scipy")
BLOCK = f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"  # importing them fails, as if not installed


# -- without torch -------------------------------------------------------------------------------------------------------------

USE = """
import numpy as np, spectokenizer
from spectokenizer.runtime import files
codec = spectokenizer.load(sys.argv[1])
audio = 0.1 * np.random.default_rng(0).standard_normal(5000)
codes = codec.encode(audio, 44100, codec.info.bitrates[0])
assert codec.decode(codes).shape == (codes.num_samples,) == (round(5000 * 16000 / 44100),)
encoder, decoder = codec.encoder(codec.info.bitrates[-1]), codec.decoder()
assert decoder.push(np.concatenate([encoder.push(audio), encoder.flush()], 1)).shape == (17 * 320,)
encoder = codec.encoder(codec.info.bitrates[-1])
encoder.push(audio[:1000])
encoder.copy().flush()
print("done", *(name for name in ("torch", "onnx", "matplotlib", "scipy") if sys.modules.get(name)))
"""


def test_load_encode_decode_stream(codec: Codec, python: Python) -> None:
    done = python("-c", BLOCK + USE, codec.network.folder)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.split() == [b"done"]


def test_command_line(codec: Codec, speech: np.ndarray, python: Python, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", speech, 16000)
    folder, rate = str(codec.network.folder), str(codec.info.bitrates[-1] / 1000)
    commands = [
        ["encode", "a.wav", "a.stk", "-m", folder, "-b", rate],
        ["decode", "a.stk", "b.wav", "-m", folder],
        ["roundtrip", "a.wav", "c.wav", "-m", folder, "-b", rate],
        ["info", "a.stk"],
        ["info", folder, "--layers", "--json"],
    ]
    script = BLOCK + f"from spectokenizer.cli import main\nfor command in {commands}: main(command, standalone_mode=False)"
    done = python("-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert soundfile.info(tmp_path / "b.wav").frames == soundfile.info(tmp_path / "c.wav").frames == len(speech)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", "--config", "x", "--data", "x", "--out", "x"], "pip install 'spectokenizer[train]'"),
        (["export", "x", "y"], "pip install 'spectokenizer[train]'"),
        (["roundtrip", "a.wav", "b.wav", "--plot", "p.png"], "pip install matplotlib"),
    ],
)
def test_what_is_missing_is_named(codec: Codec, python: Python, tmp_path: Path, command: list[str], message: str) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(1000), 16000)
    if command[0] == "roundtrip":
        command = [*command, "-m", str(codec.network.folder), "-b", str(codec.info.bitrates[0] / 1000)]
    done = python("-c", BLOCK + f"from spectokenizer.cli import main\nmain({command})", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(b"Error: ") and message in done.stderr.decode()


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        ("import spectokenizer", {"onnxruntime", "soundfile", "soxr", "click", "torch"}),
        ("from spectokenizer.cli import main; main(['--help'], standalone_mode=False)", {"onnxruntime", "soundfile", "soxr", "torch"}),
        ("from spectokenizer.cli import main; main(['encode', '-h'], standalone_mode=False)", {"onnxruntime", "soundfile", "torch"}),
        ("import spectokenizer.bitstream", {"onnxruntime", "soundfile", "click", "torch"}),
        ("import spectokenizer; spectokenizer.load", {"torch", "click"}),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_used(python: Python, statement: str, unwanted: set[str]) -> None:
    done = python("-c", f"import sys\n{statement}\nprint('imported', *({unwanted} & set(sys.modules)))")
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.splitlines()[-1].split() == [b"imported"]


# -- who may import whom -------------------------------------------------------------------------------------------------------

ORDER = [
    "errors",
    "disk",
    "config",
    "codes",
    "tokens",
    "bitstream",
    "runtime",
    "live",
    "corpus",
    "spectrogram",
    "cli",
]  # each may import those before it
RESEARCH = ["model", "training", "export", "evaluation", "experiments"]
LIBRARIES = {  # beyond the standard library
    "errors": set(),
    "config": set(),
    "disk": set(),
    "codes": {"numpy"},
    "tokens": {"numpy"},
    "bitstream": {"numpy"},
    "runtime": {"numpy", "onnxruntime", "soundfile", "soxr"},
    "live": {"numpy"},
    "corpus": {"numpy", "soundfile"},
    "spectrogram": {"numpy"},
    "cli": {"click", "numpy"},
}
LAZY_LIBRARIES = {  # inside functions only
    "runtime": {"huggingface_hub"},
    "live": {"sounddevice", "websockets", "prometheus_client"},
    "corpus": {"pyarrow", "ray"},
    "spectrogram": {"matplotlib"},
    "cli": {"torch", "lightning_fabric"},
}


class Import(NamedTuple):
    name: str  # part of this package, "" for its top, or a library as ".library"
    lazy: bool  # inside a function, or for types only
    line: int


def imports(path: Path) -> Iterator[Import]:
    def visit(node: ast.AST, lazy: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import("." + alias.name.split(".")[0], lazy, node.lineno)
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                yield Import("." + str(node.module).split(".")[0], lazy, node.lineno)
            else:
                base = path.parent if node.level == 1 else path.parents[node.level - 1]
                full = [*base.relative_to(PACKAGE).parts, *(node.module.split(".") if node.module else [])]
                for alias in node.names:
                    part = full or ([alias.name] if any((base / f"{alias.name}{end}").exists() for end in ("", ".py")) else [""])
                    yield Import(part[0], lazy, node.lineno)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, lazy or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)) or for_types(node))

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), False)


def for_types(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:`, which no Python runs."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def sources(part: str) -> list[Path]:
    found = sorted((PACKAGE / part).rglob("*.py")) or [PACKAGE / f"{part}.py"]
    assert all(path.is_file() for path in found)
    return found


@pytest.mark.parametrize("part", ORDER)
def test_torch_free_modules_import_downwards_only(part: str) -> None:
    below = ORDER[: ORDER.index(part) + 1]
    for path in sources(part):
        for found in imports(path):
            where = f"{path.relative_to(PACKAGE)}:{found.line} imports {found.name}"
            if found.name.startswith("."):
                library = found.name[1:]
                allowed = LIBRARIES[part] | (LAZY_LIBRARIES.get(part, set()) if found.lazy else set())
                assert library in sys.stdlib_module_names or library in allowed, where
            elif found.name in RESEARCH:
                assert part == "cli" and found.lazy, where
            elif found.name:
                assert found.name in below, where
            else:
                assert part == "cli", f"{where} (the top of the package)"


@pytest.mark.parametrize("part", RESEARCH)
def test_the_torch_side_has_its_order_too(part: str) -> None:
    allowed = {*RESEARCH[: RESEARCH.index(part) + 1], *(["errors", "config"] if part == "model" else ORDER[:-1])}
    for path in sources(part):
        for found in imports(path):
            assert found.name.startswith(".") or found.name in allowed or not found.name, (
                f"{path.relative_to(PACKAGE)}:{found.line} {found.name}"
            )


def test_the_top_of_the_package_imports_little() -> None:
    eager = {found.name for found in imports(PACKAGE / "__init__.py") if not found.lazy}
    typing_only = {"runtime"}
    assert eager - typing_only <= {".__future__", ".typing", "codes", "config", "errors"}


def test_every_module_is_in_the_order() -> None:
    parts = {
        path.stem if path.suffix == ".py" else path.name
        for path in PACKAGE.iterdir()
        if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts - {"__init__", "__main__"} == {*ORDER, *RESEARCH}
