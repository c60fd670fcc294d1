"""How often past sweeps took the steps and the time that a plan says. Pure: nothing is trained.

    python -m tests.benchmarks.plans [SWEEP...] [--write FILE]

Each past sweep is planned with the rates that the sweeps before it left, and compared with what it took. SWEEP are the
folders of past sweeps; without any, those of `figures/plans/past.json` are taken: 46 sweeps on 2 CPU cores, beside
tests, builds and other sweeps. --write keeps the figures of the folders in a file.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from search_spaces.space import SearchSpace
from sweeps import saved_sweep
from sweeps.config.model import SweepConfig
from sweeps.planning import measuring
from sweeps.planning.capacity import Machine
from sweeps.planning.forecast import Forecast, RowsAndRates, forecast
from sweeps.planning.rates import Range, Rate, RateKey, answers_key, rate_key, with_rate
from sweeps.record.events import DataPrepared, HostsStarted
from sweeps.record.folder import SweepFolder, read_events
from sweeps.record.spent import spent
from sweeps.record.sweep_record import SweepRecord
from trainables.contract import RowShape, Summary
from trainables.specs import Spec

KEPT = Path(__file__).parent / "figures" / "plans" / "past.json"
FACTORS = (1.25, 1.5, 2.0, 2.5, 3.0)
DEVICE = "CPU"


class Past(Spec):
    """A sweep that is over, without its trials."""

    began: float
    config: dict[str, Any]
    hosts: int
    slots: int
    """Of each host."""
    rows: RowShape | None
    key: RateKey
    rate: Rate | None
    """What this sweep measured; None if it was too short."""
    steps: int
    seconds: float


class Compared(NamedTuple):
    """A past sweep and its plan."""

    past: Past
    plan: Forecast

    @property
    def is_whole(self) -> bool:
        """Whether the plan tells the time, and all of it: the time of answers may be unknown, and is not counted."""
        answers = self.plan.answers
        return self.plan.seconds is not None and (answers is None or answers.share is not None)

    @property
    def off(self) -> float:
        """The time over the expected one."""
        assert self.plan.seconds is not None
        return self.past.seconds / self.plan.seconds.expected


def past(path: Path) -> Past:
    """Reads the folder of a sweep that has run to its end under one driver."""
    folder = SweepFolder(path)
    events, record = [event for event, _ in read_events(folder.events)], SweepRecord()
    for event in events:
        record = record.apply(event)
    sweep, _ = saved_sweep.load(folder)
    [hosts] = [event for event in events if isinstance(event, HostsStarted)]
    data = [event.summary for event in events if isinstance(event, DataPrepared) and event.summary]
    key = rate_key(sweep.config, DEVICE)
    rate = measuring.rate_of_sweep(events, key, sweep.config.evaluation, answers_key(sweep.config))
    config = _without_places(sweep.config)
    key = key.model_copy(update={"model": Path(key.model).name})
    if rate is not None:
        answers = answers_key(SweepConfig.model_validate(config)) if rate.answers else ""
        rate = rate.model_copy(update={"key": key, "answers": answers})
    return Past(
        began=events[0].time,
        config=config,
        hosts=hosts.hosts,
        slots=hosts.slots // hosts.hosts,
        rows=Summary.model_validate(data[-1]).shape if data and sweep.config.data is not None else None,
        key=key,
        rate=rate,
        steps=spent(record, 0).steps,
        seconds=round(spent(record, 0).seconds, 1),
    )


def kept() -> list[Past]:
    """Reads the figures of past sweeps."""
    plain = json.loads(KEPT.read_text())
    return [
        Past.model_validate_json(json.dumps({**each, "rate": each["rate"] and {**each["rate"], "key": each["key"]}}))
        for each in plain
    ]


def _without_places(config: SweepConfig) -> dict[str, Any]:
    """The configuration without the folders of the machine that the sweep ran on."""
    plain = config.model_dump(
        mode="json", exclude_defaults=True, exclude={"adapter", "promotion", "storage", "tracking"}
    )
    for section, field in (("model", "source"), ("data", "train"), ("data", "eval"), ("data", "test")):
        if plain.get(section, {}).get(field):
            plain[section][field] = Path(plain[section][field]).name
    return {
        **plain,
        **{part: plain.get(part, {}) | {"kind": getattr(config, part).kind} for part in ("scheduler", "searcher")},
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) and value < 1e6 else value


def compared(sweeps: Sequence[Past]) -> Iterator[Compared]:
    """Plans each sweep as it would have been planned when it began."""
    rates: tuple[Rate, ...] = ()
    for each in sorted(sweeps, key=lambda each: each.began):
        config = SweepConfig.model_validate(each.config)
        machine, known = Machine("cpu", each.hosts, None), RowsAndRates(rates, each.key, each.rows)
        yield Compared(each, forecast(config, SearchSpace.parse(config.search_space), machine, each.slots, known))
        rates = rates if each.rate is None else with_rate(rates, each.rate)


def lines(found: Sequence[Compared]) -> Iterator[str]:
    """The table, and how many sweeps lie within their range."""
    yield f"{'sweep':14} {'steps':>6}  {'planned':18} {'seconds':>8}  planned"
    for each in found:
        seconds = each.plan.seconds
        time = "" if seconds is None else _range(seconds) + ("" if each.is_whole else ", without answers")
        name = each.past.config["name"]
        yield f"{name:14} {each.past.steps:6}  {_range(each.plan.steps):18} {each.past.seconds:8.0f}  {time}".rstrip()
    steps = [_holds(each.plan.steps, each.past.steps) for each in found]
    yield f"steps within their range: {sum(steps)} of {len(steps)}"
    whole = [each for each in found if each.is_whole]
    times = [_holds(each.plan.seconds, each.past.seconds) for each in whole if each.plan.seconds is not None]
    yield f"time within its range: {sum(times)} of {len(times)}"
    for factor in FACTORS:
        held = sum(1 / factor <= each.off <= factor for each in whole)
        yield f"  a factor of {factor:g} up and down of the expected time holds {held} of {len(whole)}"


def _range(range_: Range) -> str:
    return f"{range_.expected:.0f} ({range_.low:.0f} to {range_.high:.0f})"


def _holds(range_: Range, taken: float) -> bool:
    return round(range_.low) <= taken <= round(range_.high)


def main(words: Sequence[str] | None = None) -> None:
    """Prints what the plans said and what the sweeps took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweeps", nargs="*", type=Path)
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args(words)
    sweeps = [past(folder) for folder in arguments.sweeps] or kept()
    if arguments.write is not None:
        rows = [json.dumps(_rounded(each.model_dump(mode="json", exclude={"rate": {"key"}}))) for each in sweeps]
        arguments.write.write_text("[\n" + ",\n".join(rows) + "\n]\n")
    print("\n".join(lines(list(compared(sweeps)))))


if __name__ == "__main__":
    main()
