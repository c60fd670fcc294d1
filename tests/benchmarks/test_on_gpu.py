"""`make gpu` says clearly what failed, and its page is written whatever becomes of its parts."""

import json

import pytest

from benchmarks import on_gpu
from benchmarks.on_gpu import Part

GOOD = Part("good", "Does it work?", ["this"], 1)
BAD = Part("bad", "Does this work?", ["no_such_module"], 1)


def test_the_page_says_first_what_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "parts", lambda _results, _tiny: [BAD, GOOD])
    monkeypatch.setattr(on_gpu, "devices", type("None", (), {"gpus": lambda: 0, "name": lambda _kind: "no GPU"}))
    with pytest.raises(SystemExit):
        on_gpu.main(["--results", str(tmp_path)])
    page, kept = (tmp_path / "page.md").read_text(), json.loads((tmp_path / "page.json").read_text())
    assert "**FAILED: bad**" in page
    assert "No module named no_such_module" in page
    assert "Beautiful is better than ugly." in page
    assert {name: part["failure"] for name, part in kept["parts"].items()} == {"bad": "exit code 1", "good": ""}


def test_the_verdict_names_the_paths_that_are_not_used():
    rows = [{"path": "flat", "problem": ""}, {"path": "flat, grouped", "problem": "it hung"}]
    told = json.dumps({"ok": True, "findings": [{"state": "warn"}, {"state": "warn", "rows": rows}]})
    outcome = on_gpu.Outcome(1.0, "", f"warn  train\n{told}\n", "")
    machine = {"device": "H100", "processor": "x", "commit": "c", "versions": {}}
    page = on_gpu.page(machine, {"self-test": (GOOD, outcome)})
    assert "**NOT USED, since wrong or broken here: flat, grouped: it hung**" in page
    assert "NOT USED" not in on_gpu.page(machine, {"self-test": (GOOD, on_gpu.Outcome(1.0, "", "", ""))})


def test_a_part_that_takes_too_long_is_ended(tmp_path):
    outcome = on_gpu.run(Part("slow", "", ["http.server", "0"], 1), tmp_path, 0.1)
    assert outcome.failure == "not done after 0 s"


def test_all_parts_fit_into_twenty_minutes_and_tiny_ones_need_no_model(tmp_path):
    assert on_gpu.MINUTES < 20
    assert [part.name for part in on_gpu.parts(tmp_path, tiny=True)] == ["self-test", "tests", "packing"]
    assert "8B" in on_gpu.parts(tmp_path, tiny=False)[2].words
