"""Trainables by name: found, listed, and refused with what there is instead."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import python_imports

from trainables import catalogue, toy
from trainables.contract import LookedUp, Preview
from trainables.errors import NotTrainable
from trainables.specs import TrialSpec


def test_available_imports_no_trainable_and_says_what_each_is_for():
    program = """
import sys
from trainables import catalogue
found = catalogue.available()
assert {"qlora", "toy"} <= found.keys() and all(found.values()), found
assert [name for name in found if catalogue.has_adapters(name)] == ["qlora"]
assert not [name for name in found if f"trainables.{name}" in sys.modules], "a trainable was imported"
"""
    assert python_imports.heavy(program) == set()


def test_find_takes_a_dotted_path_and_a_module_of_ones_own(tmp_path, monkeypatch):
    assert catalogue.find("trainables.toy").open_pack is toy.open_pack
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "curves.py").write_text("from trainables.toy import *\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert catalogue.find("mine.curves").open_pack is toy.open_pack
    assert not catalogue.has_adapters("mine.curves")
    monkeypatch.setattr("mine.curves.open_scorer", object(), raising=False)
    assert catalogue.has_adapters("mine.curves") and not catalogue.has_adapters("mine.nothing")


MINE = """
from trainables import catalogue, toy
from trainables.contract import Trainable

class Curves(type(catalogue.find("toy"))):
    def fingerprint(self, base):
        return {"mine": str(self.REQUIRES)}

class Nothing(Trainable):
    def check(self, base):
        return []

class Broken:
    def __init__(self):
        raise RuntimeError("no licence")

class Needy(Curves):
    def __init__(self, shift):
        pass

class Lazy(Curves):
    def check(self, base):
        import nowhere_at_all
"""


def test_find_takes_a_class_of_a_file_and_keeps_what_the_class_does_not_say(tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    name = f"{tmp_path}/mine.py:Curves"
    assert not catalogue.has_adapters(name)
    found, base = catalogue.find(name), TrialSpec(trainable=name)
    assert dict(found.fingerprint(base)) == {"mine": "frozenset()"} and found.open_pack is toy.open_pack
    assert found.METRICS == toy.METRICS and not found.spreads and found.look_up(base, tmp_path) == LookedUp()
    assert not isinstance(found, catalogue.Promotable) and not catalogue.has_adapters(name)
    for kind, why in {
        "Nothing": "it lacks REQUIRES, fingerprint, prepare, open_pack, need; trainables/contract.py says",
        "Curve": "there is no class 'Curve'; did you mean Curves",
        "Broken": "importing it raises RuntimeError: no licence .*mine.py, line 15",
        "toy": "there is no class 'toy'",
        "": "it lacks REQUIRES, .*; its classes are Curves, Nothing, Broken, Needy, Lazy: name one with a colon",
        "Needy": r"Needy\(\) is made without arguments: give its own defaults \(missing a required argument: 'shift'\)",
    }.items():
        with pytest.raises(NotTrainable, match=why):
            catalogue.find(f"{tmp_path}/mine.py:{kind}" if kind else f"{tmp_path}/mine.py")
    with pytest.raises(NotTrainable, match="its check raises ModuleNotFoundError: No module named 'nowhere_at_all'"):
        catalogue.check_base(catalogue.find(f"{tmp_path}/mine.py:Lazy"), base)
    (tmp_path / "itself.py").write_text(f"from trainables import catalogue\ncatalogue.find('{tmp_path}/itself.py:A')\n")
    with pytest.raises(NotTrainable, match=r"itself\.py names itself while it runs: put what launches"):
        catalogue.find(f"{tmp_path}/itself.py:A")
    with pytest.raises(NotTrainable, match=r"other.py: there is no such file; a relative path is read from"):
        catalogue.find("other.py:Curves")


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("qlra", r"no trainable 'qlra'; did you mean qlora\? \(there are: .*qlora.*toy.*; one of your own is "),
        ("specs", r"no trainable 'specs'.*there are: "),
        ("", r"no trainable ''"),
        (".toy", r"'.toy' is not the dotted path of a module"),
        ("nowhere.at_all", r"no module 'nowhere' to import the trainable 'nowhere.at_all' from"),
        ("trainables.nothing", r"no module 'trainables.nothing' to import"),
        ("trainables.specs", r"trainables.specs is not a trainable: it lacks REQUIRES, check, .*open_pack"),
    ],
)
def test_find_says_what_there_is_instead(wanted, message):
    with pytest.raises(LookupError, match=message):
        catalogue.find(wanted)


def test_a_metric_that_mlflow_cannot_hold_is_refused(monkeypatch):
    monkeypatch.setattr(toy, "METRICS", {"eval_loss": "min", "pass@1": "max"})
    with pytest.raises(NotTrainable, match=r"METRICS has 'pass@1': .*letters, digits"):
        catalogue.find("toy")


def test_what_a_module_offers_stands_in_place_of_the_defaults(tmp_path):
    """All that docs/extending.md names, and nothing of it is asked for in another way."""
    base = TrialSpec()
    needed: dict[str, Any] = {"REQUIRES": frozenset(), "open_pack": None, "need": lambda *_: None}
    plain = catalogue.of_module(SimpleNamespace(**needed))
    assert not isinstance(plain, catalogue.Promotable) and not plain.spreads and plain.METRICS == {"eval_loss": "min"}
    asked = {
        "look_up": (base, tmp_path), "fetch_config": (base,), "preview": (base,), "engine": (base,),
        "resolve_targets": (base, ["mlp"], tmp_path), "need_of_rows": (base, [], "cpu", None),
        "need_of_gpus": (base, [], "cuda", None, 2), "settle_auto": (None, base, [], None, 1), "blindness": (),
        "open_scorer": (base, tmp_path), "scoring_bytes": (base, "cpu"),
    }  # fmt: skip
    own = catalogue.of_module(
        SimpleNamespace(**needed, METRICS={"f1": "max"}, **{name: lambda *given: given for name in asked})
    )
    assert isinstance(own, catalogue.Promotable) and own.spreads and own.METRICS == {"f1": "max"}
    assert {name: getattr(own, name)(*given) for name, given in asked.items()} == asked
    defaults = [getattr(plain, name)(*given) for name, given in asked.items() if hasattr(plain, name)]
    assert defaults == [LookedUp(), False, Preview(), None, None, None, None, None, None]


def test_an_engine_is_optional_and_must_be_a_name():
    base = TrialSpec(trainable="toy")
    assert catalogue.engine(catalogue.find("toy"), base) is None
    for answer in (lambda _: 7, lambda _: 1 / 0):
        with pytest.raises(NotTrainable, match="its engine raises"):
            catalogue.engine(catalogue.of_module(SimpleNamespace(engine=answer)), base)
