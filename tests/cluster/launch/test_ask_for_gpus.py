"""Asking for GPUs, with a cluster that gets one more each time it is looked at."""

from __future__ import annotations

import itertools
import threading

import pytest
import ray

from cluster.launch import ask_for_gpus


@pytest.fixture
def asked(monkeypatch) -> list[list[dict[str, int]]]:
    """What was asked of the autoscaler."""
    requests: list[list[dict[str, int]]] = []
    gpus = itertools.count()
    monkeypatch.setattr(ray, "init", lambda **options: requests.append([]) if options["address"] != "auto" else None)
    monkeypatch.setattr(
        ray, "cluster_resources", lambda: {"CPU": 8.0} | ({"GPU": float(n)} if (n := next(gpus)) else {})
    )
    monkeypatch.setattr(ask_for_gpus, "request_resources", lambda bundles: requests.append(bundles))
    monkeypatch.setattr(threading.Event, "wait", lambda _self, _seconds: True)
    return requests


def ask(monkeypatch, *words: str) -> None:
    monkeypatch.setattr("sys.argv", ["ask_for_gpus", *words])
    ask_for_gpus.main()


def test_it_returns_when_the_gpus_are_there(asked, monkeypatch, capsys):
    ask(monkeypatch, "2")
    assert asked == [[{"GPU": 1}, {"GPU": 1}]]
    assert capsys.readouterr().out.splitlines() == [
        "0 of 2 GPUs are there",
        "1 of 2 GPUs are there",
        "asked for 2 GPUs; 2 are there",
    ]


def test_nothing_is_held_any_more(asked, monkeypatch, capsys):
    ask(monkeypatch, "0")
    assert asked == [[]]
    assert capsys.readouterr().out == "asked for 0 GPUs; 0 are there\n"


@pytest.mark.parametrize("word", ["-1", "two"])
def test_another_word_is_a_mistake_and_asks_for_nothing(asked, monkeypatch, capsys, word):
    with pytest.raises(SystemExit) as ended:
        ask(monkeypatch, word)
    assert ended.value.code == 2
    assert word in capsys.readouterr().err
    assert asked == []
