"""What travels to a cluster: product files, the sweep, the files that it names, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from cluster.errors import SubmissionFailed
from cluster.submission import on_node, package

ROOT = Path(package.__file__).parents[2]


def test_the_code_is_the_packages_and_their_product_files():
    code = package.code()
    assert {name.split("/")[0] for name in code} == {"cluster", "qsweep", "search_spaces", "sweeps", "trainables"}
    assert {path.suffix for path in code.values()} <= {".py", ".yaml", ".jsonl", ".typed", ".j2"}
    assert {"sweeps/report/report.html.j2", "sweeps/recipes/toy.yaml", "cluster/profiles/attached.yaml"} <= set(code)
    assert [name for name in code if "__pycache__" in name or "/." in name] == []
    assert all(path == ROOT / name for name, path in code.items())


def test_equal_contents_make_equal_archives(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    archives = []
    for number in range(2):
        os.utime(rows, (number, number))
        identity, contents = package.sweep_files("name: x", {"train.jsonl": rows})
        package.write(tmp_path / f"{number}.zip", contents)
        archives.append((identity, (tmp_path / f"{number}.zip").read_bytes()))
    assert archives[0] == archives[1]
    rows.write_text("{} \n")
    assert package.sweep_files("name: x", {"train.jsonl": rows})[0] != archives[0][0]
    assert package.sweep_files("name: y", {"train.jsonl": rows})[0] != package.sweep_files("name: x", {})[0]


def test_a_trainable_of_ones_own_travels(tmp_path, monkeypatch):
    (tmp_path / "house").mkdir()
    for name in ("__init__", "training", "helpers"):
        (tmp_path / "house" / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    expected = {"house/__init__.py", "house/helpers.py", "house/training.py"}
    assert set(package.own_module("house.training")) == expected
    assert package.own_module("toy") == {}
    assert package.own_module("trainables.toy") == {}
    assert package.own_module("pydantic.fields") == {}, "what is installed here must be installed there"
    monkeypatch.setattr(package, "MOST_MODULE_BYTES", -1)
    with pytest.raises(SubmissionFailed, match=r"house\.training.*move it"):
        package.own_module("house.training")


def test_what_travelled_is_placed_once_and_the_command_runs_at_home(tmp_path):
    """The package as Ray unpacks it, with `sweeps` in the place of the real one."""
    unpacked, home = tmp_path / "unpacked", tmp_path / "home"
    home.mkdir()
    identity, files = package.sweep_files("name: x", {})
    code = {name: path for name, path in package.code().items() if not name.startswith("sweeps/")}
    words = "import os, sys; print(os.getcwd(), os.environ['QSWEEP_SWEEP_ID'], *sys.argv[1:])"
    package.write(
        tmp_path / "it.zip", {**code, **files, "sweeps/__init__.py": b"", "sweeps/__main__.py": words.encode()}
    )
    with zipfile.ZipFile(tmp_path / "it.zip") as archive:
        archive.extractall(unpacked)
    environment = {"PYTHONPATH": str(unpacked), "HOME": str(home), "PATH": os.environ["PATH"]}
    place = home / ".cache" / "qlora-sweeps" / "submitted" / identity
    for _ in range(2):
        given = ("launch", f"submitted:{identity}", "~/s", "~root/s", "~no", "--json")
        done = subprocess.run(
            [sys.executable, "-P", "-m", on_node.ENTRY, "x-1", *given],
            cwd=unpacked, env=environment, capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        theirs = [str(home / "s"), str(Path("~root/s").expanduser()), "~no"]
        told = [str(home), "x-1", "launch", str(place / "sweep.yaml"), *theirs, "--json"]
        assert done.stdout.split() == told
        assert (place / "sweep.yaml").read_text() == "name: x"
        assert list(place.parent.iterdir()) == [place]
