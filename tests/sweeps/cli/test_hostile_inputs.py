"""Input that is made to break what reads it is told in a line, with exit code 2."""

from __future__ import annotations

import os
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
        (f"{TOY}searcher: {{points: [{{training.learning_rate: !!binary gGE=}}]}}", "b'\\x80a' must be a number"),
        (f"{TOY}searcher: {{points: [{{adapter.r: 2026-01-01}}]}}", "(2026, 1, 1) must be a whole number"),
        (f"{TOY}seed: !!bool zzz", "'zzz' is not what it looks like: put it in quotes"),
        (f"{TOY}budget: {{trials: {'9' * 400}}}", "must be at most 1000000000000000"),
        (f"{TOY}storage: {'s' * 300}", "cannot be made: File name too long; choose another: storage=DIR"),
        (f'{TOY}storage: "a\\0b"', r"text cannot hold the character '\x00'"),
        (f"trainable: toy\nname: {'n' * 300}", "must hold only letters, digits, dot, dash and underscore"),
        ('trainable: toy\nname: "\\e[31m"', "name: '\\x1b[31m' must hold only letters"),
        (QLORA.replace("rows.jsonl", "deep.jsonl"), "deep.jsonl, line 1: cannot be used: it is nested more than 100"),
        (QLORA.replace("rows.jsonl", "nul.jsonl"), "is not JSON: Invalid control character at column 16"),
        (QLORA.replace("rows.jsonl", "digits.jsonl"), "line 1: cannot be used: it holds a number with thousands"),
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


NAMES = ["n" * 300, "n/" * 3000, "a\nb", "\x1b[31m", "~nobody/x", os.fsdecode(b"\xff")]


@pytest.mark.parametrize("name", NAMES, ids=lambda name: ascii(name)[:12])
def test_a_name_of_no_sweep_is_refused(folder: Path, name: str) -> None:
    for words in (["validate", name], ["resume", name], ["status", name], ["promote", name, "--model", "m"]):
        refused(folder, *words)
    assert "error: --eval-data: " in refused(folder, "promote", "x", "--model", "m", "--eval-data", name)
    refused(folder, "models", "--tracking-uri", f"sqlite:///{name}")


def test_a_sweep_goes_on_by_its_name_as_it_is_asked_after_by_its_name(folder: Path) -> None:
    nowhere = f"toy: no sweep of this id or name: there is no folder {folder}/results"
    for verb, *words in (["resume"], ["status"], ["stop"], ["stop", "t03"], ["add", "r=8"]):
        assert refused(folder, verb, "toy", *words).startswith(f"error: {nowhere}")
        assert "no sweep" in refused(folder, verb, "./toy", *words)
    sweep = folder / "results" / "toy"
    sweep.mkdir(parents=True)
    (sweep / "config.json").write_text('{"format": 2, "sweep_id": "toy-1", "config": {"name": "toy", "seed": -1}}')
    (folder / "toy").mkdir()  # a folder of that name that is no sweep's
    # Found, and then refused for what its configuration holds.
    for name in ("toy-1", "toy"):
        assert refused(folder, "resume", name).startswith("error: seed: -1 must be at least 0")


@pytest.mark.parametrize(
    "words", ["rollback --model m --to", "promote x-1 --model m --tracking-uri", "resume x-1 --tracking-uri"]
)
def test_an_option_with_nothing_in_it_is_refused(folder: Path, words: str) -> None:
    """A shell puts it there for a variable that is not set: a rollback would move the alias of its own choice."""
    for nothing in ("", " "):
        told = refused(folder, *words.split(), nothing)
        assert told == f"error: {words.split()[-1]}: is empty: give it a value, or leave it out"


def test_a_folder_of_no_sweep_is_refused(folder: Path) -> None:
    for content in (DEEP, "[]", "5", '{"format": 2, "config": {}, "sweep_id": [[]]}', "9" * 5000, "\xff"):
        (folder / "config.json").write_text(content, encoding="latin-1")
        for words in (["resume", "."], ["promote", "./", "--model", "m"]):
            refused(folder, *words)


def test_a_folder_whose_name_is_not_utf_8_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    monkeypatch.chdir(folder)
    try:
        told = refused(folder, "launch", "toy")
    finally:
        folder.rmdir()
    assert "error: storage: '" in told and "holds bytes that are not UTF-8: rename the folder" in told


PROGRAM = """
import os, sys
from sweeps.cli import main
for command in " ".join(sys.argv[1:]).split(" then "):
    words = command.split()
    while "=" in words[0]:
        name, _, os.environ[name] = words.pop(0).partition("=")
    sys.argv = ["qsweep", *words]
    try:
        main()
    except SystemExit as end:
        print("code", end.code or 0, file=sys.stderr)
"""


def qsweep(folder: Path, *commands: str, **environment: str) -> str:
    """What commands, which variables may stand before, say, one after the other, with their exit codes."""
    given, command = {**os.environ, **environment}, [sys.executable, "-c", PROGRAM, " then ".join(commands)]
    return subprocess.check_output(command, cwd=folder, env=given, stderr=subprocess.STDOUT, timeout=60).decode()


def test_a_number_in_the_environment_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    """These are read when a module is imported."""
    wrong = "QSWEEP_DRAIN_SECONDS=1m launch toy", "QSWEEP_DRAIN_SECONDS=nan resume toy"
    ends = ["1 problem; nothing was started", "code 2"]
    assert qsweep(tmp_path, *wrong).splitlines() == [
        *("error: QSWEEP_DRAIN_SECONDS: '1m' must be a number from 0 to 604800", *ends),
        *("error: QSWEEP_DRAIN_SECONDS: 'nan' must be a number from 0 to 604800", *ends),
    ]


def test_a_plain_ascii_locale_reads_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(QLORA.replace("question}", "question} größer?"), encoding="utf-8")
    write_rows(tmp_path)
    commands = ["plan s.yaml data.prompt='{question}ü'", "launch toy storage=größe"]
    planned, launched, _ = qsweep(tmp_path, *commands, LC_ALL="C", PYTHONUTF8="0").split("code ")
    assert planned.startswith("plan: 16 trials"), planned
    assert launched.startswith("0\n") and "this locale has no such names; set PYTHONUTF8=1" in launched
