"""A trainable of one's own that does not keep the contract is told in a line, before anything starts."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import pytest
from mistakes import check, run, toy
from sweep_files import TOY

GOOD = """
from trainables.toy import REQUIRES, check, fingerprint, need, open_pack, prepare
"""
NUMBERS = count()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, from which modules are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return tmp_path


def module(folder: Path, code: str) -> str:
    """The dotted path of a new module."""
    package = f"broken{next(NUMBERS)}"
    (folder / package).mkdir()
    (folder / package / "mine.py").write_text(code)
    return f"{package}.mine"


IMPORTS = [
    ("raise RuntimeError('no\\nlicence \\x1b[31m')", "importing it raises RuntimeError: no licence \\x1b[31m ("),
    ("raise SystemExit(7)", "importing it raises SystemExit: 7 ("),
    ("import sys; sys.exit()", "importing it raises SystemExit:  ("),
    ("def (", "importing it raises SyntaxError: invalid syntax (mine.py, line 1)"),
    ("import no_such_library", "no module 'no_such_library' to import the trainable"),
    (GOOD + "check = None", "is not a trainable: check must be callable"),
    (GOOD + "need = fingerprint = 5", "is not a trainable: fingerprint and need must be callable"),
    (GOOD + "REQUIRES = None", "is not a trainable: REQUIRES must be a frozenset, of 'model' and 'data'"),
    (GOOD + "REQUIRES = frozenset({5})", "is not a trainable: REQUIRES must be a frozenset, of 'model' and 'data'"),
    (GOOD + "def check(base): return None", "its check answers None, not a list of problems"),
    (GOOD + "def check(base): return 'adapter'", "its check answers 'adapter', not a list of problems"),
    (GOOD + "def check(base): raise ValueError('no', 'GPU')", "its check raises ValueError: ('no', 'GPU') ("),
    (GOOD + "def check(base): exit(3)", "its check raises SystemExit: 3 ("),
    (GOOD + "def check(base): return check(base)", "its check raises RecursionError: maximum recursion depth"),
    (GOOD + "def check(): return []", "its check raises TypeError: check() takes 0 positional arguments"),
]


CASES = [*(("validate", *each) for each in IMPORTS), ("plan", *IMPORTS[0]), ("launch", *IMPORTS[-1])]


@pytest.mark.parametrize(
    ("command", "code", "line"), CASES, ids=[f"{command}: {line[:50]}" for command, _, line in CASES]
)
def test_a_broken_contract_is_told(folder: Path, command: str, code: str, line: str) -> None:
    check(folder, toy("broken", "", line, changes=[f"trainable={module(folder, code)}"]), command)


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("def need(*_): raise OSError(5, 'no')", "its need raises OSError: [Errno 5] no ("),
        ("def need(*_): return 3", "its need raises TypeError: it answers 3, not a Need ("),
        ("def look_up(*_): exit(4)", "its look_up raises SystemExit: 4 ("),
        ("def fingerprint(_): exit(2)", "its fingerprint raises SystemExit: 2 ("),
        ("def fingerprint(_): return None", "its fingerprint raises TypeError: 'NoneType' object is not iterable ("),
    ],
)
def test_what_is_asked_later_is_told_too(folder: Path, code: str, line: str) -> None:
    path = module(folder, GOOD + code)
    (folder / "s.yaml").write_text(TOY)
    status, lines, _ = run("launch", "s.yaml", f"trainable={path}", "tracking.uri=sqlite:///m.db")
    assert status == 2
    assert f"error: trainable: {path}: {line}" in "\n".join(lines)
