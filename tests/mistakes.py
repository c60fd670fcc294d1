"""What people get wrong, and how it is told: rows for tests, each tried through the real command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sweep_files import QLORA, TOY
from typer.testing import CliRunner

from sweeps.cli import app


class Row(NamedTuple):
    """A mistake: a sweep file and overrides, and what each line of the answer must hold."""

    what: str
    text: str
    lines: Sequence[str]
    changes: Sequence[str] = ()


def toy(what: str, text: str, *lines: str, changes: Sequence[str] = ()) -> Row:
    """The toy's file with something wrong behind it."""
    return Row(what, TOY + text, lines, changes)


def qlora(what: str, old: str, new: str, *lines: str) -> Row:
    """The real trainable's file with a part of it replaced."""
    assert old in QLORA
    return Row(what, QLORA.replace(old, new), lines)


def change(override: str, *lines: str) -> Row:
    """The toy's file, and an override that is wrong."""
    return Row(override, TOY, lines, [override])


def run(*words: str) -> tuple[int, list[str], str]:
    """Runs a command; answers its exit code, the lines on stderr and all of stdout."""
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr.splitlines(), result.stdout


def check(folder: Path, row: Row, command: str = "validate") -> None:
    """Fails unless the mistake is told in its lines, with exit code 2, and nothing was made in the current folder."""
    (folder / "s.yaml").write_text(row.text)
    before = sorted(folder.rglob("*"))
    code, lines, out = run(command, "s.yaml", *row.changes)
    *errors, last = lines
    assert code == 2
    assert out == ""
    assert all(line.startswith("error: ") for line in errors), lines
    assert [text for text in row.lines if not any(text in line for line in errors)] == [], lines
    assert len(errors) == len(row.lines), lines
    untouched = "; nothing was started" if command == "launch" else ""
    assert last == f"{len(errors)} {'problem' if len(errors) == 1 else 'problems'}{untouched}"
    assert sorted(folder.rglob("*")) == before
