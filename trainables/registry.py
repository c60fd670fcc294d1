"""Trainables by name: the modules of this package that keep the contract, and any importable module by dotted path."""

from __future__ import annotations

import ast
import importlib
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import cast

from trainables.contract import Trainable

OFFERS = ("REQUIRES", "check", "fingerprint", "prepare", "open_pack", "need")


@cache
def available() -> dict[str, str]:
    """Name -> first line of its docstring, for each trainable in this package; nothing is imported."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        if any(isinstance(node, ast.FunctionDef) and node.name == "open_pack" for node in tree.body):
            found[path.stem] = (ast.get_docstring(tree) or "").split("\n")[0]
    return found


def find(name: str) -> Trainable:
    """The trainable called `name`, or at the dotted path `name`.

    Raises:
        LookupError: there is none; the message says what there is.
    """
    names = available()
    if name.startswith(".") or name.endswith(".") or ".." in name:
        raise LookupError(f"{name!r} is not the dotted path of a module (trainables here: {', '.join(names)})")
    path = name if "." in name else f"trainables.{name}"
    if "." not in name and name not in names:
        close = get_close_matches(name, names, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise LookupError(f"no trainable {name!r}{meant} (there are: {', '.join(names)}; a dotted path works too)")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        raise LookupError(f"no module {error.name!r} to import the trainable {name!r} from") from None
    missing = [offer for offer in OFFERS if not hasattr(module, offer)]
    if missing:
        raise LookupError(f"{path} is not a trainable: it lacks {', '.join(missing)}")
    return cast(Trainable, module)
