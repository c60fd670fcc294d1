"""Tests the ways to compute passes where trials train: `qsweep doctor --train`."""

from __future__ import annotations

from cluster import devices
from cluster.doctor.contract import CheckResult, Site
from trainables import catalogue
from trainables.engine_paths import SelfTest, Tried
from trainables.specs import TrialSpec


def train(site: Site) -> CheckResult:
    """Has the trainable test its paths anew on this machine's GPUs, or on its CPU if there are none."""
    base = site.needs.base
    assert base is not None
    trainable = catalogue.find(base.trainable)
    devices.number_gpus_by_bus()
    data = trainable.prepare(base, devices.cache()).payload
    test = trainable.self_test(base, data, devices.cache(), True)
    if test is None:
        return CheckResult("ok", "there is one way to compute passes, and nothing to test")
    return told(test, base)


def told(test: SelfTest, base: TrialSpec) -> CheckResult:
    """Warns of the paths that sweeps leave out here."""
    settled, rows = test.settled(base), tuple(map(_row, test.tried))
    taken = "flat in turn, as on every CPU" if test.device == "cpu" else settled.path.name
    seen = f"{test.device}: sweeps train with {taken}"
    if settled.slots is not None:
        seen += f"; slots that pay: {settled.slots}"
    if settled.pass_tokens is not None and test.device != "cpu":
        seen += f", in passes of at most {settled.pass_tokens:,} tokens"
    seen += f" (tested in {test.seconds:.0f} s)"
    if not settled.refused:
        return CheckResult("ok", seen, rows=rows)
    mend = "sweeps leave these paths out: look for newer versions of torch and the driver"
    return CheckResult("warn", f"{seen}; {'; '.join(settled.refused)}", mend, rows)


def _row(tried: Tried) -> dict[str, str]:
    paying = tried.paying
    row = {
        "path": tried.path.name,
        "difference": "" if tried.difference is None else f"{tried.difference:.2f} of 1",
        "tokens/s": "" if paying is None else f"{paying.tokens_per_second:,.0f}",
        "slots": "" if paying is None else f"{paying.slots}",
        "memory": "",
        "problem": tried.problem,
    }
    last = tried.rates[-1] if tried.rates else None
    if last is not None and last.estimated_bytes is not None:
        measured = "" if last.peak_bytes is None else f"{last.peak_bytes / 1e9:.2f} of "
        row["memory"] = f"{measured}{last.estimated_bytes / 1e9:.2f} GB estimated, {last.slots} slots"
    return row
