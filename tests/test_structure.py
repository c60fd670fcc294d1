"""The house stays small: few rooms and arrows, no circle, short files and functions, and tests in the same rooms."""

from __future__ import annotations

import ast
from collections import Counter
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("qsweep", "sweeps", "cluster", "trainables", "search_spaces")
ACROSS = {"benchmarks", "chaos", "contracts", "own", "serving"}
"""Folders of tests that speak of several rooms, and `own`: trainables of one's own."""
PRODUCT = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def longer(files: list[Path], most: int) -> dict[str, int]:
    """File -> its lines, where they are more than `most`."""
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    return {file: count for file, count in lines.items() if count > most}


@cache
def arrows(package: str) -> frozenset[tuple[str, str]]:
    """(room, a room that it imports) for the rooms of a package; a module beside the rooms counts as one."""
    graph = grimp.build_graph(package, cache_dir=None)
    found = set()
    for module in graph.modules:
        for imported in graph.find_modules_directly_imported_by(module):
            ends = tuple(name.split(".")[1] for name in (module, imported) if "." in name)
            if len(ends) == 2 and ends[0] != ends[1]:
                found.add((ends[0], ends[1]))
    return frozenset(found)


@pytest.mark.parametrize("files", [PRODUCT, TESTS], ids=["product", "tests"])
def test_files_are_short(files):
    assert len(files) > 100
    assert longer(files, 600) == {}


def test_functions_of_the_product_are_short():
    functions = (
        ((node.end_lineno or 0) - node.lineno + 1, f"{file.relative_to(ROOT)}: {node.name}")
        for file in PRODUCT
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert [(length, name) for length, name in functions if length > 60] == []


def test_a_name_says_one_thing():
    """`Config` is what a component of a sweep file is found by, and `check` what a trainable is."""
    classes, functions = Counter[str](), []
    for file in PRODUCT:
        body = ast.parse(file.read_text()).body
        classes.update(node.name for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_"))
        own = {node.name for node in body if isinstance(node, ast.FunctionDef)}
        bare = {"read"} if {"prepare", "open_pack"} <= own else {"read", "check"}
        functions += [f"{file.relative_to(ROOT)}: {name}" for name in own & bare]
    assert [name for name, times in classes.items() if times > 1 and name != "Config"] == []
    assert functions == []


def test_every_folder_of_tests_is_a_room():
    folders = {str(file.parent.relative_to(ROOT / "tests")) for file in TESTS} - {"."} - ACROSS
    assert len(folders) > 15
    assert [each for each in folders if not (ROOT / each / "__init__.py").exists()] == []


def test_sweeps_has_few_rooms_and_few_arrows():
    entries = [entry for entry in (ROOT / "sweeps").iterdir() if entry.name not in ("__init__.py", "recipes")]
    rooms = {entry.stem for entry in entries if entry.suffix == ".py" or (entry / "__init__.py").exists()}
    assert {room for arrow in arrows("sweeps") for room in arrow} <= rooms
    assert 10 < len(rooms) <= 19
    assert 30 < len(arrows("sweeps")) <= 80


@pytest.mark.parametrize("package", PACKAGES)
def test_no_rooms_import_each_other_in_a_circle(package):
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for room, imported in arrows(package):
        sorter.add(room, imported)
    # CycleError names the circle.
    assert set(sorter.static_order()) == {room for arrow in arrows(package) for room in arrow}


def test_no_files_import_each_other_in_a_circle():
    """Imports inside functions and for type checking count too."""
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for file in graph.modules:
        sorter.add(file, *graph.find_modules_directly_imported_by(file))
    sorter.prepare()  # CycleError names the circle
    assert len(graph.modules) > 200
