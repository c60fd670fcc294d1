"""Asking for GPUs, with a cluster that gets one more each time it is looked at."""

from __future__ import annotations

import itertools
import threading

import pytest
import ray

from cluster.launch import ask_for_gpus


@pytest.fixture
def ask(monkeypatch):
    """Asks with these words; and what the autoscaler was asked for."""
    asked: list[object] = []
    seen = itertools.chain([{"CPU": 8.0}], ({"CPU": 8.0, "GPU": float(count)} for count in itertools.count(1)))
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options) if options["address"] != "auto" else None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: next(seen))
    monkeypatch.setattr(ask_for_gpus, "request_resources", lambda bundles: asked.append(bundles))
    monkeypatch.setattr(threading.Event, "wait", lambda _self, _seconds: True)

    def ask(*words: str) -> None:
        monkeypatch.setattr("sys.argv", ["ask_for_gpus", *words])
        ask_for_gpus.main()

    return ask, asked


@pytest.mark.parametrize(
    ("word", "asked", "said"),
    [
        (
            "2",
            [{"GPU": 1}, {"GPU": 1}],
            ["0 of 2 GPUs are there", "1 of 2 GPUs are there", "asked for 2 GPUs; 2 are there"],
        ),
        ("0", [], ["asked for 0 GPUs; 0 are there"]),  # nothing is held any more
    ],
)
def test_it_returns_when_the_gpus_are_there(ask, capsys, word, asked, said):
    asks, found = ask
    asks(word)
    assert found == [asked]
    assert capsys.readouterr().out.splitlines() == said


@pytest.mark.parametrize("word", ["-1", "two"])
def test_another_word_is_a_mistake_and_asks_for_nothing(ask, capsys, word):
    asks, found = ask
    with pytest.raises(SystemExit) as ended:
        asks(word)
    assert (ended.value.code, found) == (2, [])
    assert word in capsys.readouterr().err
