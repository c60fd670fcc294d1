"""Where adapters are scored: a process of its own, a host of a cluster, and what is said when neither can."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import promotions
import psutil
import pytest
import python_imports
from ray.exceptions import GetTimeoutError, OutOfMemoryError

from cluster import timeouts
from cluster.devices import MEMORY_SHARE
from cluster.errors import HostError, HostsDied
from cluster.scoring import host, scoring
from cluster.scoring.host import can_score, check_memory, reply, returned
from trainables import qlora
from trainables.errors import DataError
from trainables.scoring.requests import BASE, ScoringProgress, ScoringRequest
from trainables.specs import TrialSpec


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
    return scorer.score(ROWS)


ROWS = ScoringRequest(rows="test", with_base=True)
SCRIPT = "import sys, json; print(json.dumps([sys.argv[1], json.load(sys.stdin), open(sys.argv[1] + '/a/b').read()]))"


def test_a_process_elsewhere_scores_the_same(base, expected):
    with scoring(base) as elsewhere:
        assert elsewhere.fingerprint() == qlora.fingerprint(base)
        found = elsewhere.score(ROWS)
        assert (found.fingerprint, found.hardware) == (expected.fingerprint, expected.hardware)
        # Another number of threads adds up in another order.
        assert found.scores[BASE].row_losses == pytest.approx(expected.scores[BASE].row_losses, rel=1e-5)
        assert elsewhere.base_facts().columns == ("question",)
        with pytest.raises(HostError, match=r"nowhere.jsonl does not exist"):
            elsewhere.score(ScoringRequest(rows="/nowhere.jsonl", with_base=True))
        # A file need not be there: its content is sent.
        rows = b'{"question": "q", "answer": "a"}\n'
        sent = elsewhere.score(ScoringRequest(rows="/nowhere.jsonl", content=rows, with_base=True))
        assert len(sent.scores[BASE].row_losses) == 1
        with pytest.raises(HostError, match=r"^--eval-data: /nowhere.jsonl, line 2: column 'answer' is null"):
            bad = rows + b'{"question": "q", "answer": null}\n'
            elsewhere.score(ScoringRequest(rows="/nowhere.jsonl", content=bad, with_base=True))
        path, job, content = json.loads(elsewhere.serve(SCRIPT, {"a/b": b"text"}, '{"x": 1}'))
        assert (job, content) == ({"x": 1}, "text")
        assert path.endswith("/model")
        with pytest.raises(HostsDied, match="the packaged model cannot be served: ValueError: no"):
            elsewhere.serve("raise ValueError('no')", {}, "")
        # Another base is scored in a process of its own there.
        nf4 = base.model_copy(update={"quantization": base.quantization.model_copy(update={"scheme": "nf4"})})
        apart = elsewhere.score_apart(nf4, ROWS)
        assert apart.fingerprint == found.fingerprint
        assert apart.scores[BASE].row_losses != pytest.approx(found.scores[BASE].row_losses, rel=1e-4)
        # The base is loaded again.
        assert elsewhere.score(ROWS) == found


@pytest.mark.ray
def test_a_host_of_a_cluster_scores_the_same_and_tells_how_far_it_has_come(base, expected, monkeypatch):
    monkeypatch.setattr(timeouts, "SCORING_TURN_SECONDS", 0.01)
    told: list[ScoringProgress] = []
    with scoring(base, "local", told.append) as elsewhere:
        assert elsewhere.fingerprint() == qlora.fingerprint(base)
        found = elsewhere.score(ROWS)
        # The host is asked now and then: while it loads the base, for certain.
        assert ScoringProgress() in told
        assert found.scores[BASE].row_losses == pytest.approx(expected.scores[BASE].row_losses, rel=1e-5)
        with pytest.raises(HostError, match=r"nowhere.jsonl does not exist"):
            elsewhere.score(ScoringRequest(rows="/nowhere.jsonl", with_base=True))


MODULE = """
import os
from trainables.errors import ModelError
from trainables.contract import Evaluation
from trainables.scoring.requests import BASE, ScoringProgress, ScoringResult
from trainables.toy import *


class Scorer:
    def score(self, request, tell):
        for done in (0, 2, 3):
            tell(ScoringProgress(name=BASE, done=done, rows=3))
            if done == 2:
                while request.rows.endswith("waits") and not os.path.exists(request.rows):
                    pass
        if not request.with_base:
            raise ModelError("no base was asked for")
        scores = {BASE: Evaluation(metrics={"eval_loss": 1.0}, row_losses=(1.0,), row_tokens=(1,))}
        return ScoringResult(scores=scores, hardware="cpu float32", fingerprint="0")


def open_scorer(base, cache):
    return Scorer()


def scoring_bytes(base, device):
    return None
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A trainable that scores without a model, and another whose scorer ends its process."""
    (tmp_path / "modules" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "modules")  # a Ray that is started here imports from here
    Path("mine", "steady.py").write_text(MODULE)
    dying = "import os\nfrom mine.steady import *\ndef open_scorer(base, cache): os._exit(9)\n"
    Path("mine", "dying.py").write_text(dying)
    monkeypatch.syspath_prepend(Path.cwd())
    return TrialSpec(trainable="mine.steady")


def test_what_is_told_comes_before_the_answer_also_of_a_call_that_fails_or_of_another_process_that_dies(mine):
    told: list[ScoringProgress] = []
    passes = [ScoringProgress(name=BASE, done=done, rows=3) for done in (0, 2, 3)]
    with scoring(mine, tell=told.append) as elsewhere:
        assert elsewhere.score(ROWS).scores.keys() == {BASE}
        assert [each for each, _ in groupby(told)] == [ScoringProgress(), *passes]  # the first: the base is loaded
        told.clear()
        with pytest.raises(HostError, match="no base was asked for"):
            elsewhere.score(ScoringRequest(rows="test"))
        assert [each for each, _ in groupby(told)] == passes
        with pytest.raises(HostsDied, match=r"the process that evaluates died \(exit code 9\).*--address"):
            elsewhere.score_apart(TrialSpec(trainable="mine.dying"), ROWS)
        assert elsewhere.score(ROWS).scores.keys() == {BASE}, "its death ends nothing else"


BUSY = r"--address auto: waited 10 minutes for a GPU \(1 in the cluster, 0 of them free\): wait for the sweep"


def test_a_pass_that_takes_long_is_told_again_and_again(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(timeouts, "SCORING_TURN_SECONDS", 0.01)
    told: list[ScoringProgress] = []

    def tell(progress: ScoringProgress) -> None:
        told.append(progress)
        if told.count(ScoringProgress(name=BASE, done=2, rows=3)) == 3:
            (tmp_path / "waits").touch()

    with scoring(mine, tell=tell) as elsewhere:
        # The pass ends once its progress has been told three times.
        assert elsewhere.score(ROWS.model_copy(update={"rows": str(tmp_path / "waits")})).scores.keys() == {BASE}
    assert told[-1].done == 3


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([OutOfMemoryError("")], "the host that evaluates cannot start: OutOfMemoryError"),
        ([None, OutOfMemoryError("")], "the host that evaluates is lost: OutOfMemoryError"),
        ([GetTimeoutError()], BUSY),
    ],
)
def test_a_host_of_a_cluster_that_is_lost_or_does_not_start_is_told(mine, monkeypatch, answers, told):
    monkeypatch.setattr("cluster.connect.connected", lambda *_: nullcontext())
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "GPU": 1.0})
    monkeypatch.setattr("ray.available_resources", dict)
    monkeypatch.setattr("ray.remote", Mock())
    monkeypatch.setattr("ray.wait", lambda *_, **__: [True])
    monkeypatch.setattr("ray.get", Mock(side_effect=answers))
    with pytest.raises(HostsDied, match=told), scoring(mine, "auto") as elsewhere:
        elsewhere.fingerprint()


PLAIN = """
import sys
from cluster.scoring import scoring
from trainables.specs import TrialSpec

with scoring(TrialSpec.model_validate_json(sys.argv[1])) as elsewhere:
    print(elsewhere.fingerprint()["toy"], flush=True)
    elsewhere.serve(sys.argv[2], {}, "")
"""


@pytest.fixture
def script(mine, tmp_path, hears_signals):
    """A script that has no `__main__` guard, in another folder than ours, and serves what takes forever."""
    (tmp_path / "plain.py").write_text(PLAIN)
    # What Python would import from there, it must not.
    (tmp_path / "cluster.py").write_text("raise AssertionError('not ours')")
    forever = "import time; time.sleep(3600)"
    command = [sys.executable, "-P", str(tmp_path / "plain.py"), mine.model_dump_json(), forever]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_nothing_goes_on_when_the_caller_ends(script, how):
    """The process that evaluates, and the one that serves for a check, which it had started, in the midst of it."""
    assert script.stdout.readline().strip() == "1", "no __main__ guard is needed"
    below: list[psutil.Process] = []
    deadline = time.monotonic() + 100
    while len(below) < 2:
        assert time.monotonic() < deadline, below
        below = psutil.Process(script.pid).children(recursive=True)
    script.send_signal(how)
    script.wait(100)
    gone, alive = psutil.wait_procs(below, timeout=100)
    assert (len(gone), alive) == (2, [])


def free(monkeypatch, gpus: list[str], size: int) -> None:
    """This machine has these GPUs, and so many bytes free on what evaluates."""
    monkeypatch.setattr(host, "visible", lambda: gpus)
    monkeypatch.setattr(host, "free_bytes", lambda device, own: size)


def test_a_base_that_does_not_fit_is_refused_with_the_way_out(base, monkeypatch):
    monkeypatch.setattr(qlora, "scoring_bytes", lambda *_: 40_000_000_000)
    free(monkeypatch, [], 10_000_000_000)
    with pytest.raises(HostError, match=r"about 40.0 GB .* this machine has 8.5 GB free: give --address"):
        check_memory(base, can_score("qlora"))
    free(monkeypatch, ["0"], 10_000_000_000)
    with pytest.raises(HostError, match="this GPU has"):
        check_memory(base, can_score("qlora"))
    free(monkeypatch, [], 48_000_000_000)
    check_memory(base, can_score("qlora"))


def test_a_base_that_is_spread_is_checked_on_the_fullest_gpu(base, monkeypatch):
    alone, shared = (qlora.scoring_bytes(base, "cuda", gpus) for gpus in (1, 2))
    assert alone is not None
    assert shared is not None
    free(monkeypatch, ["0", "1"], int((alone + shared) / 2 / MEMORY_SHARE))
    check_memory(base, can_score("qlora"))
    free(monkeypatch, ["0", "1"], shared)
    with pytest.raises(HostError, match="GB on each of its GPUs to be evaluated and this machine's fullest of 2 GPUs"):
        check_memory(base, can_score("qlora"))


def test_only_a_mistake_of_the_user_is_told_as_one(monkeypatch):
    failing: Any = SimpleNamespace(
        mistake=Mock(side_effect=DataError("data.eval: no such file")),
        too_large=Mock(side_effect=RuntimeError("CUDA out of memory")),
    )
    with pytest.raises(HostError, match="no such file") as found:
        returned(reply(failing, "mistake", ()))
    assert found.value.exit_code == 2
    with pytest.raises(HostsDied, match="RuntimeError: CUDA out of memory") as found:
        returned(reply(failing, "too_large", ()))
    assert found.value.exit_code == 1

    monkeypatch.setattr(subprocess, "run", Mock(side_effect=subprocess.TimeoutExpired("check.py", 1800)))
    with pytest.raises(HostsDied, match="cannot be served: it gave no answer within 30 minutes"):
        host.serve("", {}, "")


def test_a_trainable_without_adapters_is_told():
    with pytest.raises(HostError, match="trainable: 'toy' has no adapters to promote: its trials leave none"):
        can_score("toy")


def test_scoring_is_imported_without_anything_heavy(tmp_path):
    assert python_imports.heavy("import sys, cluster.scoring", folder=tmp_path) == set()
