"""Tells from a model's configuration whether it is a decoder-only causal language model. Takes milliseconds.

The tables of the installed transformers decide. They are read from the source code of transformers, because importing
them would import torch. If they cannot decide (the model brings its own code), `base_checks` tests the loaded model.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

NEEDED = "a decoder-only causal language model is needed, such as Llama, Qwen, Gemma, Mistral or GPT-2"

# transformers 5.24. Tables: models/auto/modeling_auto.py, auto_mappings.py, integrations/ggml.py.
_BIDIRECTIONAL = ("MODEL_FOR_MASKED_LM", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM", "MODEL_FOR_SPEECH_SEQ_2_SEQ")
"""Tables of models that are not decoders unless their configuration sets `is_decoder`."""
_ALSO_BIDIRECTIONAL = ("bert-generation", "trocr")
_SEES_ALL = ("xlnet",)
"""Model types whose attention sees the whole text, whatever their configuration says."""
_MIXER = re.compile(r"^class \w*(mamba|ssm)\w*mixer", re.IGNORECASE | re.MULTILINE)
_BLOCK = re.compile(
    r"(^class |self\.)\w*(attn|attention|mlp|ffn|feed_?forward|expert)\w*( *[:=(])", re.IGNORECASE | re.MULTILINE
)
"""Matches attention and feed-forward classes and attributes, which presets select; see `targets._ANCESTORS`."""
_WITH_PICTURES = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT", "MODEL_FOR_MULTIMODAL_LM")
"""Tables of multimodal classes. The language model inside loads alone if the model type is in the causal table too."""


@dataclass(frozen=True)
class ArchitectureCheck:
    """The result of the check: a refusal, a doubt, or neither when the model can be trained."""

    refusal: str | None = None
    """Why the model cannot be trained, and what to do."""
    doubt: str | None = None
    """Why only loading the model gives the answer."""


@dataclass(frozen=True)
class Tables:
    """The models that transformers can load."""

    types: frozenset[str]
    classes: Mapping[str, Mapping[str, tuple[str, ...]]]
    """Name of a table, such as MODEL_FOR_CAUSAL_LM -> model type -> names of its classes."""
    gguf: frozenset[str]
    """Architectures of GGUF files that transformers reads, in the spelling of transformers."""

    @property
    def causal(self) -> Mapping[str, tuple[str, ...]]:
        """Model type -> names of its classes, for the types that AutoModelForCausalLM loads."""
        return self.classes["MODEL_FOR_CAUSAL_LM"]


def of_config(config: Mapping[str, object], trust_remote_code: bool = False) -> ArchitectureCheck:
    """Checks the content of config.json."""
    text = config.get("text_config")  # the language model inside a multimodal one
    merged = {**config, **text} if isinstance(text, dict) else dict(config)
    if seen := _sees_ahead(config.get("model_type"), merged):
        return ArchitectureCheck(refusal=seen)
    codes = config.get("auto_map")
    has_code = isinstance(codes, dict) and "AutoModelForCausalLM" in codes
    if has_code and trust_remote_code:
        return ArchitectureCheck(doubt="it brings its own code")
    kind, known = config.get("model_type"), tables()
    if known is None:
        return ArchitectureCheck(doubt=f"the tables of transformers {version('transformers')} cannot be read")
    if not isinstance(kind, str):
        return ArchitectureCheck(refusal="config.json has no model_type, so transformers cannot tell what it is")
    if kind not in known.causal:
        return ArchitectureCheck(refusal=_not_causal(kind, known, has_code))
    return _of_class(kind, merged, config.get("architectures"), known)


def is_state_space(kind: str) -> bool:
    """Tells whether a model type has state-space mixers but no attention or feed-forward part. No preset fits it.

    Searches the names in the source code of its layers. Returns False if that source cannot be read.
    """
    package, name = find_spec("transformers"), kind.replace("-", "_")
    path = Path((package.origin if package else None) or "").parent / "models" / name / f"modeling_{name}.py"
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return _MIXER.search(source) is not None and _BLOCK.search(source) is None


def of_gguf(values: Mapping[str, object]) -> ArchitectureCheck:
    """Checks the key-value section of a GGUF file."""
    architecture, known = values.get("general.architecture"), tables()
    if known is None:
        return ArchitectureCheck(doubt=f"the tables of transformers {version('transformers')} cannot be read")
    if not isinstance(architecture, str):
        return ArchitectureCheck(refusal="its header has no general.architecture")
    kind = next((name for name in known.gguf if _squeezed(name) == _squeezed(architecture)), None)
    if kind is None and not architecture.startswith("t5"):
        supported = ", ".join(sorted(known.gguf & known.causal.keys()))
        reads = f"transformers {version('transformers')} reads {supported}"
        return ArchitectureCheck(refusal=f"a GGUF file of architecture {architecture!r} cannot be loaded: {reads}")
    if kind not in known.causal:
        return ArchitectureCheck(refusal=f"architecture {architecture!r} is not a causal language model: {NEEDED}")
    return ArchitectureCheck()


@lru_cache
def tables() -> Tables | None:
    """Reads the tables of the installed transformers; returns None if this version has no such tables."""
    package = find_spec("transformers")
    try:
        root = Path((package.origin if package else None) or "").parent
        models = _assigned(root / "models" / "auto" / "modeling_auto.py")
        classes = {
            name.removesuffix("_MAPPING_NAMES"): _entries(value)
            for name, value in models.items()
            if name.endswith("_MAPPING_NAMES")
        }
        types = _assigned(root / "models" / "auto" / "auto_mappings.py")["CONFIG_MAPPING_NAMES"]
        gguf = _assigned(root / "integrations" / "ggml.py")["GGUF_CONFIG_MAPPING"]
        keys = gguf.keys if isinstance(gguf, ast.Dict) else []
        names = frozenset(key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str))
        known = frozenset(_entries(types))
        every = ("MODEL", "MODEL_FOR_CAUSAL_LM", *_BIDIRECTIONAL, *_WITH_PICTURES)
        return Tables(known, classes, names - {"general", "tokenizer"}) if set(every) <= classes.keys() else None
    except (OSError, ValueError, LookupError, TypeError, SyntaxError):
        return None


def _assigned(path: Path) -> dict[str, ast.expr]:
    """Returns name -> the expression assigned to the name in the source of a module."""
    values = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values[node.targets[0].id] = node.value
    return values


def _entries(table: ast.expr) -> dict[str, tuple[str, ...]]:
    """Reads `OrderedDict([(type, class or classes), ...])` as type -> classes. Skips other tables unpacked into it."""
    if not isinstance(table, ast.Call) or not isinstance(table.args[0], ast.List):
        return {}
    pairs = [ast.literal_eval(pair) for pair in table.args[0].elts if isinstance(pair, ast.Tuple)]
    return {kind: (classes,) if isinstance(classes, str) else tuple(classes) for kind, classes in pairs}


def _sees_ahead(kind: object, config: Mapping[str, object]) -> str | None:
    """Returns why the attention is not causal according to the configuration, else None."""
    if config.get("is_encoder_decoder") is True:
        return f"an encoder-decoder (is_encoder_decoder in config.json): {NEEDED}"
    if kind in _SEES_ALL or (kind == "xlm" and config.get("causal") is not True):
        return f"the attention of model_type {kind!r} sees the tokens that are to be predicted: {NEEDED}"
    says = [
        f"{name} {str(value).lower()}"
        for name, value in (("is_causal", False), ("use_bidirectional_attention", True))
        if config.get(name) is value
    ]
    if config.get("use_bidirectional_attention") == "all":
        says.append("use_bidirectional_attention all")
    if says:
        return f"its attention sees the tokens that are to be predicted ({says[0]} in config.json): {NEEDED}"
    return None


def _not_causal(kind: str, known: Tables, has_code: bool) -> str:
    if kind in known.types:
        return f"model_type {kind!r} is not a causal language model: {NEEDED}"
    if has_code:
        return (
            f"model_type {kind!r} comes with its own code: read that code, and allow it with "
            "model.trust_remote_code=true"
        )
    return f"transformers {version('transformers')} does not know model_type {kind!r}: a newer version may"


def _of_class(kind: str, config: Mapping[str, object], classes: object, known: Tables) -> ArchitectureCheck:
    """Checks a model type with a causal class, by the class whose weights were saved."""
    names = [name for name in classes if isinstance(name, str)] if isinstance(classes, list) else []
    may_be_encoder = kind in _ALSO_BIDIRECTIONAL or any(kind in known.classes[table] for table in _BIDIRECTIONAL)
    if may_be_encoder and config.get("is_decoder") is not True:
        saved = f" (saved as {names[0]})" if names else ""
        return ArchitectureCheck(
            refusal=f"model_type {kind!r}{saved} is not a decoder, since config.json does not say is_decoder true: "
            f"it sees the tokens that are to be predicted; {NEEDED}"
        )
    tables_of = {
        name: [table for table, types in known.classes.items() if name in types.get(kind, ())] for name in names
    }
    # A class without a head ("MODEL") may share its head's weights with the embeddings: loading tells.
    good = {"MODEL_FOR_CAUSAL_LM", "MODEL", *_WITH_PICTURES}
    wrong = [name for name, tables in tables_of.items() if tables and not good & set(tables)]
    if wrong:
        return ArchitectureCheck(
            refusal=f"its weights were saved from {wrong[0]}, which has no language-model head: {NEEDED}"
        )
    return ArchitectureCheck()


def _squeezed(name: str) -> str:
    return name.replace("_", "").replace("-", "")
