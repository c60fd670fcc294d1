"""The launch files and the commands in their headers, for tests: `from launch_files import ...`."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "cluster" / "launch"
FILES = sorted(file for file in LAUNCH.rglob("*") if file.suffix in (".yaml", ".sh") or file.name == "Dockerfile")
SCRIPTS = [file for file in FILES if file.suffix == ".sh"]


def documents(name: str) -> list[dict[str, Any]]:
    """The YAML documents of a launch file."""
    return list(yaml.safe_load_all((LAUNCH / name).read_text()))


def document(name: str, kind: str) -> dict[str, Any]:
    """The one document of this kind."""
    (found,) = (each for each in documents(name) if each["kind"] == kind)
    return found


def header(file: Path) -> list[str]:
    """The lines of the comment at the top, without the mark of a comment."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), file.read_text().splitlines())
    return [line[1:] for line in lines if not line.startswith("#!")]


def commands(file: Path) -> list[list[str]]:
    """The commands in a file's header, and those inside them: of `ray exec`, `kubectl exec`, `docker run`, `sbatch`."""
    text = "\n".join(line.strip() for line in header(file) if line.startswith("   ")).replace("\\\n", " ")
    return [words for line in text.splitlines() for words in _commands(line)]


def _commands(line: str) -> Iterator[list[str]]:
    line = re.sub(r"^\w+=\$\((.*)\)$", r"\1", line)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";|&")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";|&") and word:
            if words:
                yield words
                yield from _inner(words)
            words = []
        else:
            words.append(word)


def _inner(words: list[str]) -> Iterator[list[str]]:
    if words[:2] == ["ray", "exec"]:
        yield from _commands(words[-1])
    elif words[:2] == ["kubectl", "exec"]:
        yield words[words.index("--") + 1 :]
    elif words[0] == "sbatch":
        yield ["qsweep", *[word for word in words if not word.startswith("--")][2:]]
    elif words[:2] == ["docker", "run"]:
        yield words[words.index("qsweep") :]


def strict(schema: Any) -> Any:
    """A copy of a Kubernetes schema that takes no unknown key, and numbers where Kubernetes takes both."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if "x-kubernetes-int-or-string" in found:
        found.pop("type", None)
    if isinstance(found.get("properties"), dict):
        found.setdefault("additionalProperties", False)
    return found
