"""Where adapters are scored: a process of its own, a host of a cluster, and what is said when neither can."""

from __future__ import annotations

import json
import os
import sys

import promotions
import pytest

from cluster import scoring
from cluster.errors import HostError
from trainables import qlora
from trainables.scoring import BASE, Request


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("scoring")
    promotions.write_data(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QSWEEP_CACHE", str(root / "cache"))
        yield promotions.config(root, "sqlite:///none.db").base


@pytest.fixture(scope="module")
def expected(base, tmp_path_factory):
    """What this process itself computes."""
    scorer = qlora.open_scorer(base, tmp_path_factory.mktemp("cache"))
    return scorer.score(Request(rows="test", with_base=True))


SCRIPT = "import sys, json; print(json.dumps([sys.argv[1], json.load(sys.stdin), open(sys.argv[1] + '/a/b').read()]))"


@pytest.mark.parametrize("address", [None, pytest.param("local", marks=pytest.mark.ray)])
def test_a_process_elsewhere_scores_the_same(base, expected, address):
    with scoring.scoring(base, address) as elsewhere:
        assert elsewhere.fingerprint() == qlora.fingerprint(base)
        found = elsewhere.score(Request(rows="test", with_base=True))
        assert (found.fingerprint, found.hardware) == (expected.fingerprint, expected.hardware)
        # Another number of threads adds up in another order.
        assert found.scores[BASE].row_losses == pytest.approx(expected.scores[BASE].row_losses, rel=1e-5)
        assert elsewhere.parts().columns == ("question",)
        with pytest.raises(HostError, match=r"nowhere.jsonl does not exist"):
            elsewhere.score(Request(rows="/nowhere.jsonl", with_base=True))
        path, job, content = json.loads(elsewhere.serve(SCRIPT, {"a/b": b"text"}, '{"x": 1}'))
        assert (job, content) == ({"x": 1}, "text")
        assert path.endswith("/model")
        with pytest.raises(HostError, match="the packaged model cannot be served: ValueError: no"):
            elsewhere.serve("raise ValueError('no')", {}, "")
        # The base is loaded again.
        assert elsewhere.score(Request(rows="test", with_base=True)) == found


def test_a_process_that_dies_is_told(base, monkeypatch):
    with scoring.scoring(base) as elsewhere:
        elsewhere.fingerprint()
        monkeypatch.setattr(promotions.Held, "__reduce__", lambda _: (os._exit, (9,)), raising=False)
        with pytest.raises(HostError, match=r"the process that evaluates died \(exit code 9\).*--address"):
            elsewhere._call("fingerprint", (promotions.Held(base),))


def test_a_base_that_does_not_fit_is_refused_with_the_way_out(base):
    class Large:
        def open_scorer(self, base, cache):
            raise AssertionError("it is not loaded")

        def scoring_bytes(self, base, device):
            return 40_000_000_000

    with pytest.raises(HostError, match=r"about 40.0 GB .* this machine has 8.5 GB free: give --address"):
        scoring.check_memory(base, Large(), "cpu", lambda _device: 10_000_000_000)
    with pytest.raises(HostError, match="this GPU has"):
        scoring.check_memory(base, Large(), "cuda", lambda _device: 10_000_000_000)
    scoring.check_memory(base, Large(), "cpu", lambda _device: 48_000_000_000)


def test_the_estimate_is_of_the_tiny_model(base):
    """The process itself, and a pass of 2048 tokens over 304 words: no more."""
    assert 700_000_000 < qlora.scoring_bytes(base, "cpu") < 760_000_000


def test_a_trainable_without_adapters_is_told():
    with pytest.raises(HostError, match="trainable: 'toy' has no adapters to promote"):
        scoring.can_score("toy")


def test_scoring_is_imported_without_anything_heavy():
    import subprocess

    code = "import sys, cluster.scoring; print([n for n in ('ray', 'torch', 'mlflow') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
