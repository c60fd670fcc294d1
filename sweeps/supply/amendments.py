"""Decides on requests after a launch: one more point, larger budgets, another number of hosts.

Pure, except `Amendments.of`, which looks at this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from cluster import devices
from search_spaces.space import Point, SearchSpace
from sweeps.config import messages, points, resource, searched_fields
from sweeps.config.load import LoadedSweep
from sweeps.config.model import LENGTHS, SweepConfig
from sweeps.config.number_words import limit
from sweeps.config.points import Scalar
from sweeps.planning import capacity
from sweeps.planning.forecast import distinct_trials
from sweeps.record import limits
from sweeps.record.events import Reply
from sweeps.record.limits import CHANGEABLE
from sweeps.record.run_names import HEADINGS, label
from sweeps.record.spent import HOUR
from sweeps.record.sweep_record import SweepRecord, TrialRecord
from sweeps.supply import target_modules
from sweeps.supply.trial_source import PlannedTrial, planned
from trainables import catalogue
from trainables.contract import Trainable
from trainables.errors import TrainableError
from trainables.inputs.legible import legible
from trainables.inputs.similar import did_you_mean
from trainables.specs import seconds

ALPHA, RATIO = "adapter.lora_alpha", "adapter.alpha_over_r"
ADD = "qsweep add SWEEP FIELD=VALUE"


@dataclass(frozen=True)
class Amendments:
    """Decides on the requests of one sweep."""

    config: SweepConfig
    """The configuration at launch, without later changes."""
    space: SearchSpace
    trainable: Trainable | None
    """None skips the trainable's own check of values."""
    gpus: int = 0
    """GPUs of this machine, if the sweep runs its own Ray and hosts take GPUs; 0: any number of hosts is allowed."""

    @classmethod
    def of(cls, sweep: LoadedSweep) -> Amendments:
        """Decides for this sweep on this machine; raises NotTrainable if its trainable is gone."""
        cluster = sweep.config.cluster
        has_own_gpus = cluster.has_own_ray and cluster.gpus_per_host != 0
        trainable = catalogue.find(sweep.config.trainable)
        return cls(sweep.config, sweep.space, trainable, devices.gpus() if has_own_gpus else 0)

    def point(self, values: Mapping[str, object], record: SweepRecord) -> Reply:
        """Decides whether a point is tried next.

        `values` maps fields to JSON values. A field is named in full, by the last part of its name, or by its heading
        in tables. A field that is left out keeps the value of the sweep file.
        """
        named, wrong = self._fields(values)
        try:
            wrong = wrong or [*searched_fields.one_point(self.config, self.space, self.trainable, named)]
            trial = None if wrong else self._trial(points.completed(self.config.base, self.space, named), record)
        except ValidationError as error:
            trial, wrong = None, messages.of_validation(error, {})
        except TrainableError as error:
            trial, wrong = None, [f"the trainable {self.config.trainable} cannot check the point: {error}"]
        if trial is not None:
            wrong = resource.too_large(self.config, resource.rows_per_step(trial.spec.training))
        if trial is None or wrong:
            return Reply(False, "; ".join(wrong))
        problem = self._targets(record).problem(trial.spec.adapter.target_modules)
        if problem is not None:
            return Reply(False, f"{target_modules.FIELD}: {problem}")
        known = record.trials.get(trial.trial_key)
        if known is not None:
            later = ", and goes on when the sweep has more time" if known.may_go_on else ""
            return Reply(True, f"this point is {_standing(known, record)}: it is not tried again{later}")
        over = self._over(record, {}, None)
        if over:
            return Reply(False, over)
        shown = ", ".join(f"{name}={legible(str(value))}" for name, value in trial.params.items())
        if trial.trial_key in self._added(record):
            return Reply(True, f"{shown}: asked for already: it has the next free slot")
        told = f"{shown}: it has the next free slot, and is one trial beyond budget.trials"
        return Reply(True, told, point=trial.point)

    def _fields(self, values: Mapping[str, object]) -> tuple[dict[str, Any], list[str]]:
        named: dict[str, Any] = {}
        wrong = [] if values else ["a point needs a value: write FIELD=VALUE"]
        for name, value in values.items():
            same = [each for each in self.space.domains if name in _short_names(each)]
            if name not in self.space.domains and len(same) > 1:
                wrong.append(f"{name}: may be {' or '.join(same)}: write the whole name")
                continue
            field = name if name in self.space.domains or not same else same[0]
            if field in named:
                wrong.append(f"{field}: is given twice")
            named[field] = tuple(value) if isinstance(value, list) else value
        if ALPHA not in self.space.domains and RATIO in self.space.domains:
            wrong += self._alpha_over_r(named)
        return named, wrong

    def _alpha_over_r(self, named: dict[str, Any]) -> list[str]:
        """Replaces lora_alpha by its ratio to r: tables show lora_alpha even where the ratio is searched."""
        given = next((name for name in (ALPHA, *_short_names(ALPHA)) if name in named), None)
        if given is None:
            return []
        alpha, r = named[given], named.get("adapter.r", self.config.base.adapter.r)
        if RATIO in named:
            return [f"{given}: follows from {RATIO}: give one of them"]
        if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (alpha, r)) or r <= 0:
            return [f"{given}: {alpha!r} over r = {r!r} is no number: give {RATIO} in its place"]
        del named[given]
        named[RATIO] = alpha / r
        return []

    def _trial(self, point: Point, record: SweepRecord) -> PlannedTrial:
        return planned(0, self.config, self._targets(record).represent(point), record.fingerprints)

    def _targets(self, record: SweepRecord) -> target_modules.Targets:
        return target_modules.from_log(record.targets, target_modules.possible_values(self.config, self.space))

    def _added(self, record: SweepRecord) -> set[str]:
        """Returns the keys of the trials that users asked for."""
        return {self._trial(point, record).trial_key for point in record.added}

    def changes(self, wanted: Mapping[str, object], record: SweepRecord, now: float | None) -> Reply:
        """Decides whether keys of the sweep file get other values.

        `wanted` maps dotted keys to JSON values. `now` is in seconds since the epoch; None if no driver runs.
        """
        current = limits.changed(self.config, record.changes)
        wrong = [] if wanted else [f"nothing to change: write KEY=VALUE, for example {CHANGEABLE[0]}=32"]
        wrong += [line for key in wanted for line in self._unchangeable(key)]
        wrong = wrong or _invalid(current, wanted)
        if wrong:
            return Reply(False, "; ".join(wrong))
        values = {key: _checked(current, key, value) for key, value in wanted.items()}
        before = {key: _value(current, key) for key in values}
        new = {key: value for key, value in values.items() if value != before[key]}
        wrong = [*self._too_little(new, record, now), *self._too_many(new.get("cluster.hosts"))]
        over, way_out = (self._over(record, new, now), self._in_vain(current, new, record)) if new else ("", "")
        # A raise of a used-up budget is granted, even if it alone trains nothing: without it no point can be added.
        if way_out and not over and not self._over(record, {}, now):
            keys = ", ".join(f"{key} {limit(value)}" for key, value in new.items())
            nothing = "nothing would be trained: the sweep has finished, and none of its trials goes on"
            over = f"{keys}: {nothing}; {way_out}"
        if wrong or over:
            return Reply(False, "; ".join(wrong) or over)
        told = [
            f"{key} is {limit(value)}, and was {limit(before[key])}"
            if key in new
            else f"{key} is {limit(value)} already"
            for key, value in values.items()
        ]
        has_more_slots = capacity.at_most(limits.changed(current, new)) > capacity.at_most(current)
        # A running driver keeps its number of slots; the next driver counts slots anew.
        if now is not None and has_more_slots and self.config.cluster.slots_per_host == "auto":
            told.append("there are no more slots for them yet: qsweep stop and qsweep resume count slots anew")
        return Reply(True, "; ".join(told), changes=new)

    def _over(self, record: SweepRecord, new: Mapping[str, Scalar | None], now: float | None) -> str:
        """Says why a driver would end the sweep at once, even with the new values; empty if it would go on."""
        budget = limits.changed(self.config, {**record.changes, **new}).budget
        reached = limits.reached(budget, record, record.known_until if now is None else now)
        if reached is None:
            return ""
        if reached.can_be_raised:
            return f"{reached}, so nothing more would be trained: raise it first, qsweep extend SWEEP {reached.key}=..."
        return (
            f"{reached}, and {reached.key} stays as it is: launch another sweep, which may learn from this one by "
            "warm_start"
        )

    def _in_vain(self, current: SweepConfig, new: Mapping[str, Scalar | None], record: SweepRecord) -> str:
        """Says what else to change if an ended sweep would train nothing with the new values; else empty."""
        after = limits.changed(current, new)
        reached = limits.out_of_patience(after.budget, record)
        if not record.is_finished or self._goes_on(current, record, begins=reached is None):
            return ""
        if reached is not None:
            return f"{reached}: raise {reached.key} with it, or set it to null"
        distinct = distinct_trials(self.config, self.space)
        if distinct is not None and len(self._own(record)) >= distinct:
            return f"the search space has {distinct} points, which are all tried: ask for another point first: {ADD}"
        has_more = after.budget.count > current.budget.count
        return "" if has_more else f"raise budget.trials with it, or ask for a point first: {ADD}"

    def _goes_on(self, current: SweepConfig, record: SweepRecord, begins: bool) -> bool:
        """Tells whether an ended sweep has something left to train. A finished sweep looked for more in vain.

        `begins` tells whether patience lets new trials begin.
        """
        if record.ended is None or record.ended.reason == "finished":
            return False
        has_added = not self._added(record) <= record.trials.keys()
        has_begun = any(trial.may_go_on for trial in record.trials.values())
        has_left = begins and self._drawn(record) < current.budget.count
        return has_left or has_added or has_begun or self.config.searcher.repeats > 0

    def _unchangeable(self, key: str) -> list[str]:
        if key in CHANGEABLE:
            return []
        these = f"these can change: {', '.join(CHANGEABLE)}"
        section, _, name = key.partition(".")
        if section == "budget" and name in LENGTHS:
            these = "qsweep refit SWEEP trains the best trial, or a named one, anew for longer"
            return [f"{key}: the schedule of the learning rate spans the steps, so all trials keep theirs: {these}"]
        known = getattr(self.config, section, None) if section in SweepConfig.model_fields else None
        if (
            key in SweepConfig.model_fields
            or name in getattr(type(known), "model_fields", {})
            or section == "search_space"
        ):
            return [f"{key}: is the same for all trials of a sweep: launch another sweep for it; {these}"]
        return [f"{key}: unknown key{did_you_mean(key, CHANGEABLE)}; {these}"]

    def _too_little(self, new: Mapping[str, Scalar | None], record: SweepRecord, now: float | None) -> list[str]:
        """Lists the budgets that would fall below what is spent already."""
        wrong = []
        end = "" if now is None else "; end the sweep with qsweep stop"
        trials, clock, hours = (new.get(f"budget.{name}") for name in ("trials", "wall_clock", "gpu_hours"))
        drawn = self._drawn(record)
        if isinstance(trials, int) and trials < drawn:
            wrong.append(
                f"budget.trials: {trials} is too few: {drawn} trials have begun already, and count also when they are "
                f"stopped{end}"
            )
        spent = record.seconds_spent(now)
        if isinstance(clock, str) and seconds(clock) <= spent:
            wrong.append(f"budget.wall_clock: {clock} is too little: {spent:.0f}s are spent{end}")
        held = record.gpu_seconds_spent(now) / HOUR
        if isinstance(hours, int | float) and hours <= held:
            wrong.append(f"budget.gpu_hours: {hours:g} is too little: {held:.3g} are spent{end}")
        return wrong

    def _drawn(self, record: SweepRecord) -> int:
        """Counts the trials that have begun and count towards budget.trials."""
        return sum(trial.state.counts_as_trial for trial in self._own(record))

    def _own(self, record: SweepRecord) -> list[TrialRecord]:
        """Returns the trials of the sweep's own points, infeasible points too."""
        added = self._added(record)
        return [trial for key, trial in record.trials.items() if trial.repeats is None and key not in added]

    def _too_many(self, hosts: Scalar | None) -> list[str]:
        """Refuses more hosts than this machine's GPUs can hold: no node joins the sweep's own Ray."""
        each = self.config.cluster.spread
        most = self.gpus // each
        if not isinstance(hosts, int) or not 0 < most < hosts:
            return []
        takes = "a GPU" if each == 1 else f"{each} GPUs"
        there = f"each host takes {takes}, and this machine has {self.gpus}; at most {most}, or auto"
        return [f"cluster.hosts: {hosts} is too many: {there}"]


def _short_names(field: str) -> tuple[str, str]:
    """Returns the last part of a field's name, as MLflow shows it, and the heading of its column in tables."""
    name = points.param(field)
    return name, HEADINGS.get(name, name)


def _invalid(current: SweepConfig, wanted: Mapping[str, object]) -> list[str]:
    wrong = []
    for key, value in wanted.items():
        if key == "budget.trials" and value == "auto":
            wrong.append(f"{key}: auto: was made a number when the sweep was launched: write a number")
            continue
        if key == "budget.trials" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            wrong.append(f"{key}: {value}: must be a whole number of at least 1")
            continue
        try:
            _checked(current, key, value)
        except ValidationError as error:
            section, _, name = key.partition(".")
            wrong += [f"{section}.{line}" for line in messages.of_validation(error, {name: value})]
    return wrong


def _checked(current: SweepConfig, key: str, value: object) -> Scalar | None:
    section, _, name = key.partition(".")
    checked: Scalar | None = getattr(type(getattr(current, section)).model_validate({name: value}), name)
    return checked


def _value(config: SweepConfig, key: str) -> Scalar | None:
    section, _, name = key.partition(".")
    value: Scalar | None = getattr(getattr(config, section), name)
    return value


def _standing(trial: TrialRecord, record: SweepRecord) -> str:
    """Returns words such as "t03 already, STOPPED at step 9, eval_loss 0.3121"."""
    metric = record.judges(trial).metric
    value = f", {metric} {trial.value(metric):.4f}" if trial.best_metrics else ""
    return f"{label(trial.number)} already, {trial.state.value} at step {trial.step}{value}"
