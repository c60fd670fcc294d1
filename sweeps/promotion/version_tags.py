"""The tags of a promoted version in MLflow's registry. A new tag is one more entry here.

Those by which promotion finds its versions again are in `sweeps/tracking/registry.py`.
"""

from __future__ import annotations

from sweeps.promotion.cards import VersionFacts
from sweeps.promotion.evidence import Winner
from sweeps.promotion.gate import CHAMPION
from sweeps.tracking.lookup import TrackedSweep
from trainables.scoring.requests import BASE

FORCED = "promotion.forced"
"""The objections that --force overrode in any promotion of the version."""
OF_A_CHAMPION = (f"loss.{CHAMPION}", f"gain.{CHAMPION}")
"""Tags of a version only if its last promotion compared it with a champion."""


def is_of_files(tag: str) -> bool:
    """Whether a tag tells what the files of a version are: the base that they name, the adapter, the libraries."""
    return tag in ("adapter_sha256", "base", "base.identity") or tag.startswith("version.")


def of(sweep: TrackedSweep, winner: Winner, facts: VersionFacts) -> dict[str, str]:
    """Where the version comes from: sweep, run, base, rows, losses and gains, versions of the libraries."""
    candidate, verdict, answer = winner.candidate, winner.verdict, winner.evidence.answer
    compared = winner.champion if CHAMPION in verdict.losses else None
    compared_with = f"version {compared.number}" if compared is not None else "base"
    tags = {
        "sweep.id": sweep.sweep_id,
        "sweep.parent_run": sweep.parent_run,
        "sweep.run": candidate.trial.run_id,
        "sweep.trial_key": candidate.trial.trial_key,
        "adapter_sha256": candidate.adapter_sha256,
        "base": facts.base,
        "base.identity": winner.base_identity,
        "data.fingerprint": sweep.data_fingerprint or "",
        "promotion.rows": f"{facts.rows}, {verdict.rows_in_words}",
        "promotion.rows_fingerprint": answer.fingerprint,
        "promotion.hardware": answer.hardware,
        "promotion.decision": f"passed, min_gain {verdict.min_gain:g}",
        "promotion.candidates": str(len(winner.evidence.candidates)),
        "promotion.compared_with": compared_with,
    }
    tags |= {f"loss.{name}": f"{verdict.losses[name]:.6f}" for name in (BASE, CHAMPION) if name in verdict.losses}
    tags["loss"] = f"{verdict.losses[candidate.label]:.6f}"
    for comparison in verdict.comparisons[candidate.label]:
        interval = f"{comparison.low:.6f} to {comparison.high:.6f}"
        tags[f"gain.{comparison.key}"] = f"{comparison.difference:.6f} ({interval})"
    tags |= {f"version.{name}": number for name, number in facts.versions.items()}
    if winner.forced:
        tags[FORCED] = "; ".join(winner.forced)[:5000]
    return tags
