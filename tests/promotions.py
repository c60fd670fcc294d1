"""Sweeps to promote from, without Ray: `import promotions`.

Adapters are trained once, by the real engine on the tiny model; a sweep is then written as its driver would, events and
folder, and delivered to a real MLflow by the real sink.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors.torch
import tiny_models

from cluster.scoring import Scoring
from cluster.scoring.host import ScoringHost
from sweeps import saved_sweep
from sweeps.config.model import Promotion as Policy
from sweeps.config.model import SweepConfig
from sweeps.promotion import versions
from sweeps.promotion.promote import promote
from sweeps.promotion.registration import PromotionResult
from sweeps.promotion.request import PromotionRequest
from sweeps.record import digests
from sweeps.record.events import (
    DataPrepared,
    Event,
    SweepEnded,
    SweepStarted,
    TrialEnded,
    TrialReported,
    TrialStarted,
    TrialState,
)
from sweeps.record.folder import SweepFolder
from sweeps.record.sweep_record import new_events
from sweeps.tracking import stores
from sweeps.tracking.sink import MlflowSink
from trainables import qlora
from trainables.contract import Evaluation, StepRecord
from trainables.scoring.requests import BaseFacts, ScoringRequest, ScoringResult, Tell, tell_nobody
from trainables.specs import TrialSpec

MODEL = "answers"
STEPS = {"weak": 2, "strong": 80}
"""Adapter -> optimizer steps; the strong one has the lower loss."""


def base_facts(**changed: Any) -> BaseFacts:
    """Of a base of the hub that training quantised."""
    made = BaseFacts(
        source="owner/name", revision=None, kind="hub", files={}, trust_remote_code=False, licence=None, form={},
        columns=(), tokenizer={}, quantization={"scheme": "nf4", "double_quant": True, "compute_dtype": "float32"},
    )  # fmt: skip
    return made.model_copy(update=changed)


@dataclass(frozen=True)
class Trained:
    """An adapter and what its trial reported of it."""

    files: Mapping[str, bytes]
    evaluation: Evaluation
    steps: int


def write_data(folder: Path, odd_rows: int = 0) -> None:
    """A base, and rows of a simple rule; `odd_rows` more to evaluate on break it: the better an adapter, the worse."""
    tiny_models.save("llama", folder / "base")
    for name, first, count in (("train", 0, 40), ("eval", 100, 8), ("test", 200, 40)):
        lines = [{"question": f"{n} and {n % 7}?", "answer": f"the total is {n}"} for n in range(first, first + count)]
        if name == "eval":
            lines += [odd(n) for n in range(odd_rows)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def odd(n: int) -> dict[str, str]:
    """A row that breaks the rule."""
    return {"question": f"{300 + n} and {n % 7}?", "answer": "9 8 7 6 5 4 3 2 1 9 8 7"}


def config(folder: Path, uri: str, **fields: Any) -> SweepConfig:
    """A sweep's configuration on the data of `write_data`; `fields` are those of the sweep file."""
    data = {name: str(folder / f"{name}.jsonl") for name in ("train", "eval", "test")}
    raw = {
        "name": "tickets",
        "model": {"source": str(folder / "base")},
        "quantization": {"scheme": "none", "compute_dtype": "float32"},
        "data": {**data, "prompt": "{question}", "completion": "{answer}", "max_length": 64, "eval_examples": 8},
        "adapter": {"r": 4, "target_modules": "all-linear"},
        "training": {"batch_size": 4, "learning_rate": 1e-2},
        "search_space": {"adapter.r": {"choice": [4, 8]}},
        "tracking": {"uri": uri},
        "promotion": {"model": MODEL},
    }
    return SweepConfig.model_validate(raw | fields)


def train(of: SweepConfig, cache: Path) -> dict[str, Trained]:
    """The adapters of `STEPS`."""
    prepared = qlora.prepare(of.base, cache)
    pack = qlora.open_pack(of.base, prepared.payload, cache)
    found = {}
    for slot, (name, steps) in enumerate(STEPS.items()):
        pack.open(slot, of.base.model_copy(update={"steps": max(STEPS.values()), "seed": slot}))
        for _ in range(steps):
            assert isinstance(pack.step([slot])[slot], StepRecord)
        evaluation = pack.evaluate([slot])[slot]
        assert isinstance(evaluation, Evaluation)
        found[name] = Trained(pack.adapter(slot), evaluation, steps)
        pack.close(slot)
    return found


@dataclass(frozen=True)
class Trial:
    """A trial of a sweep that is written down."""

    adapter: Trained
    state: TrialState = TrialState.COMPLETED
    reported_loss: float | None = None
    """What it says that its loss is, where that is not true."""


def deliver(
    of: SweepConfig, sweep_id: str, folder: Path, trials: Sequence[Trial], fingerprint: str, begun: float = 1.0
) -> SweepFolder:
    """Writes a sweep with trials k0, k1, ... and sends it to MLflow; its folder."""
    made = SweepFolder(folder)
    folder.mkdir(parents=True)
    made.config.write_text(json.dumps(saved_sweep.document(of, sweep_id)))
    prints = dict(qlora.fingerprint(of.base))
    events: list[Event] = [
        SweepStarted(sweep_id=sweep_id, time=begun, config=of.model_dump_json(), fingerprints=prints),
        DataPrepared(time=2.0, summary={"fingerprint": fingerprint, "test_rows": of.base.data_spec.test_examples or 0}),
    ]
    for number, trial in enumerate(trials):
        events += _trial_events(made, f"k{number}", number, trial)
    events.append(SweepEnded(time=90.0, reason="finished"))
    sink = MlflowSink(of, sweep_id, made)
    for event, record in new_events(events):
        sink.apply(event, record)
    return made


def _trial_events(folder: SweepFolder, key: str, number: int, trial: Trial) -> list:
    kept = trial.adapter
    digest = digests.of_files(kept.files)
    rows = {"step": kept.steps, "adapter_sha256": digest, **kept.evaluation.document()}
    files = {f"adapter/{name}": content for name, content in kept.files.items()}
    best = folder.keep(key, "best", kept.steps, files | {"eval_rows.json": json.dumps(rows).encode()})
    loss = kept.evaluation.loss if trial.reported_loss is None else trial.reported_loss
    metrics = kept.evaluation.metrics | {"eval_loss": loss}
    params: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "learning_rate": 1e-2}
    report = TrialReported(
        time=20.0, trial_key=key, adapter=str(best.relative_to(folder.path)), adapter_sha256=digest,
        step=kept.steps, metrics=metrics, best_step=kept.steps, best_metrics=metrics,
        history=(), tokens=1, seconds=1.0,
        peak_memory_bytes=1, trainable_params=1, evaluated_time=20.0,
    )  # fmt: skip
    return [
        TrialStarted(time=10.0, trial_key=key, number=number, params=params, spec="{}", point={}),
        report,
        TrialEnded(time=30.0, trial_key=key, state=trial.state, reason=""),
    ]


def broken(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """An adapter whose losses are not finite."""
    tensors = safetensors.torch.load(files["adapter_model.safetensors"])
    none = safetensors.torch.save({name: values * float("nan") for name, values in tensors.items()})
    return {**files, "adapter_model.safetensors": none}


class InProcess(ScoringHost):
    """Scores in this process, and believes a packaged model: what one really answers has its own test."""

    def __init__(self, base: TrialSpec) -> None:
        super().__init__(base)
        self._scored: dict[str, tuple[float, ...]] = {}
        """Digest of an adapter -> its losses on the rows that decided last."""

    def score(self, request: ScoringRequest) -> ScoringResult:
        answer = super().score(request)
        for name in request.adapters.keys() & answer.scores.keys() if request.samples else ():
            self._scored[digests.of_files(request.adapters[name])] = answer.scores[name].row_losses
        return answer

    def serve(self, script: str, files: Mapping[str, bytes], job: str) -> str:
        assert "MLmodel" in files
        losses = self._scored[digests.of_files(versions.adapter_in(files))]
        return json.dumps(
            {
                "losses": losses[: len(json.loads(job)["samples"])],
                "texts": ["as told"],
                "label_losses": [{}],
                "prompts": [],
            }
        )


@contextmanager
def in_process(
    base: TrialSpec, address: str | None = None, tell: Tell = tell_nobody, gpus: int = 1
) -> Iterator[Scoring]:
    """What `promote` and `export` take."""
    assert address is None
    host = _host(base.model_dump_json())
    host.tell = tell
    yield Scoring(lambda method, arguments: getattr(host, method)(*arguments))


@lru_cache
def _host(base: str) -> InProcess:
    return InProcess(TrialSpec.model_validate_json(base))


def run(sweep: object, said: list[str] | None = None, **asked: Any) -> PromotionResult:
    """Promotes from a sweep, in this process."""
    policy = {name: asked.pop(name) for name in Policy.model_fields.keys() & asked.keys()}
    said = [] if said is None else said
    clock = asked.pop("clock", lambda: 1000.0)
    place = stores.find(str(sweep), asked.pop("tracking_uri", None))
    request = PromotionRequest(place, policy, **asked)
    return promote(request, said.append, scored_by=in_process, clock=clock)
