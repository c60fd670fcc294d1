"""Input that is made to break what reads it is told in a line, with exit code 2."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import mistakes
import pytest
from sweep_files import QLORA, TOY, write_rows

DEEP = "[" * 100_000 + "]" * 100_000
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with what the sweep files name."""
    write_rows(tmp_path)
    (tmp_path / "deep.jsonl").write_text(f'{{"question": "q", "answer": {DEEP}}}\n')
    (tmp_path / "nul.jsonl").write_text('{"question": "q\0", "answer": "a"}\n')
    (tmp_path / "digits.jsonl").write_text(f'{{"question": "q", "answer": {"9" * 5000}}}\n')
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "config.json").write_text(DEEP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(folder: Path, *words: str) -> str:
    """What is said of input that is refused."""
    before = sorted(folder.rglob("*"))
    code, lines, out = mistakes.run(*words)
    assert (code, out) == (2, ""), lines
    assert all(len(line) < 2500 and line.isprintable() for line in lines), lines
    assert lines[0].startswith("error: ")
    assert sorted(folder.rglob("*")) == before
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{TOY}a: {'[' * 3000}", "lists and mappings stand more than 50 deep in each other"),
        (f"{TOY}{'- ' * 3000}", "not valid YAML: line 3, column 1"),
        (TOY + LAUGHS, "more than 10000 keys and values, those that an alias stands for counted each time: list fewer"),
        (f"{TOY}search_space: {{adapter.r: {{choice: [{'8, ' * 3_500_000}]}}}}", "a sweep file has at most 1 MB"),
        (
            f"{TOY}searcher: {{points: [{{training.learning_rate: !!binary gGE=}}]}}",
            "error: searcher.points.0: training.learning_rate: b'\\x80a' must be a number",
        ),
        (f"{TOY}searcher: {{points: [{{adapter.r: 2026-01-01}}]}}", "(2026, 1, 1) must be a whole number"),
        (f"{TOY}seed: !!bool zzz", "'zzz' is not what it looks like: put it in quotes"),
        (f"{TOY}budget: {{trials: {'9' * 400}}}", "must be at most 1000000000000000"),
        (f"{TOY}storage: {'s' * 300}", "cannot be made: File name too long; choose another: storage=DIR"),
        (f'{TOY}storage: "a\\0b"', r"text cannot hold the character '\x00'"),
        (f"trainable: toy\nname: {'n' * 300}", "must hold only letters, digits, dot, dash and underscore"),
        ('trainable: toy\nname: "\\e[31m"', "name: '\\x1b[31m' must hold only letters"),
        (QLORA.replace("rows.jsonl", "deep.jsonl"), "deep.jsonl, line 1: cannot be used: it is nested more than 100"),
        (QLORA.replace("rows.jsonl", "nul.jsonl"), "is not JSON: Invalid control character at column 16"),
        (
            QLORA.replace("rows.jsonl", "digits.jsonl"),
            "digits.jsonl, line 1: cannot be used: it holds a number with thousands",
        ),
        (QLORA.replace("hub/model", "./deep"), "config.json is not readable JSON: it is nested more than 100 deep"),
    ],
    ids=lambda text: text[-30:],
)
def test_a_sweep_file_is_refused(folder: Path, text: str, line: str) -> None:
    (folder / "s.yaml").write_text(text)
    assert line in refused(folder, "validate", "s.yaml")


def test_more_mistakes_than_anyone_reads_are_counted(folder: Path) -> None:
    (folder / "s.yaml").write_text(TOY + "".join(f"k{n}: 1\n" for n in range(400)))
    *first, rest, last = refused(folder, "validate", "s.yaml").splitlines()
    assert (len(first), rest, last) == (50, "and 350 more", "400 problems")


@pytest.mark.parametrize(
    "name",
    ["n" * 300, "n/" * 3000, "a\nb", "\x1b[31m", "~nobody/x", os.fsdecode(b"\xff")],
    ids=lambda name: ascii(name)[:12],
)
def test_a_name_of_no_sweep_is_refused(folder: Path, name: str) -> None:
    for words in (["validate", name], ["resume", name], ["status", name], ["promote", name, "--model", "m"]):
        refused(folder, *words)
    assert "error: --eval-data: " in refused(folder, "promote", "x", "--model", "m", "--eval-data", name)
    refused(folder, "models", "--tracking-uri", f"sqlite:///{name}")


@pytest.mark.parametrize("name", ["toy", "./toy"])
def test_a_sweep_that_is_not_there_is_a_mistake(folder: Path, name: str) -> None:
    for words in (["status", name], ["stop", name], ["stop", name, "t03"], ["add", name, "r=8"]):
        assert "no sweep" in refused(folder, *words)


def test_a_sweep_goes_on_by_its_name_as_it_is_asked_after_by_its_name(folder: Path) -> None:
    assert refused(folder, "resume", "toy").startswith(
        f"error: toy: no sweep of this id or name: there is no folder {folder}/results"
    )
    sweep = folder / "results" / "toy"
    sweep.mkdir(parents=True)
    (sweep / "config.json").write_text('{"format": 1, "sweep_id": "toy-1", "config": {"name": "toy", "seed": -1}}')
    (folder / "toy").mkdir()  # a folder of that name that is no sweep's
    # Found, and then refused for what its configuration holds.
    for name in ("toy-1", "toy"):
        assert refused(folder, "resume", name).startswith("error: seed: -1 must be at least 0")


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (("rollback", "--model", "m", "--to", ""), "--to"),
        (("promote", "x-1", "--model", "m", "--tracking-uri", " "), "--tracking-uri"),
        (("resume", "x-1", "--tracking-uri", ""), "--tracking-uri"),
    ],
)
def test_an_option_with_nothing_in_it_is_refused(folder: Path, words: tuple[str, ...], option: str) -> None:
    """A shell puts it there for a variable that is not set: a rollback would move the alias of its own choice."""
    assert refused(folder, *words) == f"error: {option}: is empty: give it a value, or leave it out"


CONFIGS = [DEEP.encode(), b"\xff", b"[]", b"5", b'{"format": 1, "config": {}, "sweep_id": [[]]}', b"9" * 5000]


@pytest.mark.parametrize("content", CONFIGS, ids=[str(config[:20]) for config in CONFIGS])
def test_a_folder_of_no_sweep_is_refused(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    for words in (["resume", "."], ["promote", "./", "--model", "m"]):
        refused(folder, *words)


# In processes of their own

DEADLINE_SECONDS = 60.0
"""Each takes a second; a machine that is busy gets more."""


def qsweep(folder: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command in a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "sweeps", *words],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, timeout=DEADLINE_SECONDS,
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("verb", "name", "value", "rule"),
    [
        ("launch", "QSWEEP_LEASE_SECONDS", "1m", "must be a number from 1 to 3600"),
        ("resume", "QSWEEP_DRAIN_SECONDS", "nan", "must be a number from 0 to 604800"),
    ],
)
def test_a_number_in_the_environment_that_is_none_is_a_mistake(
    folder: Path, verb: str, name: str, value: str, rule: str
) -> None:
    code, out, err = qsweep(folder, verb, "toy", **{name: value})
    assert (code, out) == (2, "")
    assert err.splitlines() == [f"error: {name}: {value!r} {rule}", "1 problem; nothing was started"]


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0"}


def test_a_plain_ascii_locale_reads_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(QLORA.replace("question}", "question} größer?"), encoding="utf-8")
    write_rows(tmp_path)
    code, out, err = qsweep(tmp_path, "plan", "s.yaml", "data.prompt='{question} ü'", "--json", **ASCII)
    assert code == 0 and json.loads(out)["trials"] == 16, err
    code, _, err = qsweep(tmp_path, "launch", "toy", "storage=größe", **ASCII)
    assert code == 2
    assert "this locale has no such names; set PYTHONUTF8=1" in err


def test_a_folder_whose_name_is_not_utf_8_is_told(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    try:
        code, _, err = qsweep(folder, "launch", "toy")
        assert code == 2
        assert "error: storage: '" in err
        assert "holds bytes that are not UTF-8: rename the folder" in err
    finally:
        shutil.rmtree(folder)
