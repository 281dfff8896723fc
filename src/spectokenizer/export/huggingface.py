"""A model as a folder for transformers, and for `spectokenizer.load`: weights, both programs' configuration, code, model card.

The code is the package's own: its torch modules are copied flat beside the three small files of `remote/`, since transformers loads
single files and the environment that loads them may have nothing but transformers and torch.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ..config import CodecConfig
from ..errors import ModelError
from ..model.spectokenizer import SpecTokenizer
from ..runtime.network import CONFIG
from .onnx import export as export_onnx
from .parity import check

PACKAGE = Path(__file__).parents[1]
REMOTE = Path(__file__).parent / "remote"
COPIED = ("errors.py", "config.py", "model/spectrum.py", "model/layers.py", "model/quantizer.py", "model/spectokenizer.py")
KERNELS = '''"""The package's optional C loops are for training; here torch's own operators do."""

from torch import Tensor, nn


def snake(x: Tensor, alpha: Tensor) -> Tensor | None:
    return None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return x @ weight if bias is None else x @ weight + bias


def gru(module: nn.GRU, x: Tensor, h0: Tensor) -> Tensor | None:
    return None
'''
ONLY_TRAINING = re.compile(r"quantizer\.(.*\.)?(counts|sums)")
UNMEASURED = "Not measured: `spectok evaluate --model FOLDER --data DIR` does it on your recordings."


def export(
    model: SpecTokenizer,
    folder: str | Path,
    runtime: str | Path | None = None,
    about: dict[str, Any] | None = None,
    results: str = "",
    notice: str = "",
) -> Path:
    """Write the folder. `runtime` is the model's ONNX folder, copied after a check that it is the same model; else it is exported.

    `results` is Markdown for the card, `notice` the attribution of the training data. `about` is noted in config.json and the card;
    its "licence" is that of the weights, its "data" what they were trained on.
    Raises ModelError when `runtime` does not compute what `model` does.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if runtime is None:
        export_onnx(model, folder, about)
    else:
        same = CodecConfig.from_json(Path(runtime) / CONFIG) == model.config
        report = check(model, runtime) if same else "another geometry"
        if isinstance(report, str) or not report.good:
            raise ModelError(f"{runtime}: is not the model of these weights: {report}")
        for path in sorted(Path(runtime).iterdir()):
            if path.is_file():
                shutil.copyfile(path, folder / path.name)
    common = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    common["about"] = {**common.get("about", {}), **(about or {})}
    _write_json(folder / CONFIG, {**_config(model.config), **common})
    _write_json(folder / "preprocessor_config.json", _preprocessor(model.config))
    tensors = {
        f"codec.{name}": value.detach().cpu().contiguous()
        for name, value in model.state_dict().items()
        if not ONLY_TRAINING.fullmatch(name)
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    write_code(folder)
    os.chmod(folder / "model.safetensors", 0o644)  # safetensors writes it for its owner alone
    if notice:
        (folder / "NOTICE").write_text(notice, encoding="utf-8")
    (folder / "README.md").write_text(card(model.config, common["about"], results, notice), encoding="utf-8")
    return folder


def write_code(folder: Path) -> None:
    """The torch modules, flat: `from ..config` becomes `from .config`."""
    for name in COPIED:
        text = re.sub(r"^from \.\.", "from .", (PACKAGE / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
        head = f"# A copy of {name} of the package spectokenizer {_version()}, Apache License 2.0.\n"
        (folder / Path(name).name).write_text(head + text, encoding="utf-8")
    (folder / "kernels.py").write_text(KERNELS, encoding="utf-8")
    for path in sorted(REMOTE.glob("*.py")):
        shutil.copyfile(path, folder / path.name)


def _config(config: CodecConfig) -> dict[str, Any]:
    return {
        "model_type": "spectokenizer",
        "architectures": ["SpectokModel"],
        "auto_map": {
            "AutoConfig": "configuration_spectokenizer.SpectokConfig",
            "AutoModel": "modeling_spectokenizer.SpectokModel",
            "AutoModelForAudioTokenization": "modeling_spectokenizer.SpectokModel",
            "AutoFeatureExtractor": "feature_extraction_spectokenizer.SpectokFeatureExtractor",
        },
        "sampling_rate": config.sample_rate,
        "frame_size": config.frame_size,
        "num_quantizers": config.num_codebooks,
        "codebook_size": config.codebook_size,
        "exact": True,
    }


def _preprocessor(config: CodecConfig) -> dict[str, Any]:
    return {
        "feature_extractor_type": "SpectokFeatureExtractor",
        "auto_map": {"AutoFeatureExtractor": "feature_extraction_spectokenizer.SpectokFeatureExtractor"},
        "feature_size": 1,
        "sampling_rate": config.sample_rate,
        "padding_value": 0.0,
    }


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


# -- the card ----------------------------------------------------------------------------------------------------------


def card(config: CodecConfig, about: dict[str, Any], results: str, notice: str) -> str:
    """The model card: use, licence, where the data came from, what was measured."""
    rates, absent, books = config.bitrates, config.codebook_size, config.num_codebooks
    data = notice.partition("Training data of the bundled models\n")[2].partition("\n\nExample recording")[0].lstrip("-\n").rstrip()
    notes = [f"- {key.replace('_', ' ')}: {value}" for key, value in about.items() if value is not None]
    licence = about.get("licence", "apache-2.0" if notice else "other")
    provenance = [
        "Code: Apache License 2.0. Weights: "
        + ("the same; NOTICE belongs to them." if notice else f"licence {about.get('licence', 'not stated')}."),
        *notes,
        *(["", "```text", data, "```"] if data else []),
        *([] if data or "data" in about else ["- data: not stated"]),
    ]
    return f"""---
license: {licence}
library_name: transformers
pipeline_tag: feature-extraction
tags: [audio, speech, codec, tokenizer, streaming, onnx]
---

# SpecTokenizer {config.name}

A streaming neural speech codec: {config.sample_rate // 1000} kHz mono speech to {books} × {config.codebook_size} codes,
{config.frame_rate:g} frames per second, {rates[0] / 1000:g} to {rates[-1] / 1000:g} kbit/s with one model (any number of leading
codebooks), {config.parameters / 1e6:.2f} M parameters and {config.macs_per_second / 1e6:.0f} MMAC per second of audio, encoder and decoder.

## Use

With transformers and torch alone; FOLDER is this folder, or its name on the Hugging Face hub:

```python
from transformers import AutoFeatureExtractor, AutoModelForAudioTokenization

model = AutoModelForAudioTokenization.from_pretrained(FOLDER, trust_remote_code=True)
features = AutoFeatureExtractor.from_pretrained(FOLDER, trust_remote_code=True)
inputs = features(clips, sampling_rate={config.sample_rate}, return_tensors="pt")  # input_values [B, 1, N], padding_mask [B, N]
codes = model.encode(**inputs, num_quantizers={min(8, books)}).audio_codes  # [B, K, T], {absent} where a clip has ended
audio = model.decode(codes, inputs["padding_mask"]).audio_values  # [B, 1, N]
```

Without torch, from the ONNX graphs in the same folder: `pip install spectokenizer`, then `spectokenizer.load(FOLDER)`.

## Measured

{results.strip() or UNMEASURED}

## Data and licence

{chr(10).join(provenance)}

## Limits

Speech, {config.sample_rate // 1000} kHz, mono. Codes are for the model that made them. The torch code here and the ONNX graphs compute
the same up to rounding; where two codes are equally good, theirs may differ.
"""


def measured(path: Path | None = None) -> str:
    """Markdown for the card: of a summary.csv that `spectok evaluate` wrote, of any other file its text, else what README.md says of the
    bundled model."""
    if path is None:
        found = re.search(r"<!-- results:begin -->\n(.*?)\n<!-- results:end -->", published("README.md"), re.DOTALL)
        return found[1] if found else ""
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() != ".csv":
        return text
    rows = list(csv.reader(text.splitlines()))
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], ["---"] * len(rows[0]), *rows[1:]]) if rows else ""


def published(name: str) -> str:
    """A file of the project: beside the sources in a checkout, else as installed with the package; "" when neither is there."""
    checkout = PACKAGE.parents[1] / name
    if (PACKAGE.parents[1] / "pyproject.toml").is_file() and checkout.is_file():
        return checkout.read_text(encoding="utf-8")
    try:
        if name == "README.md":
            return str(metadata.metadata("spectokenizer").get_payload())
        return next((path.read_text() for path in metadata.files("spectokenizer") or [] if path.name == name), "")
    except (metadata.PackageNotFoundError, FileNotFoundError):
        return ""


def _version() -> str:
    try:
        return metadata.version("spectokenizer")
    except metadata.PackageNotFoundError:
        return "(sources)"
