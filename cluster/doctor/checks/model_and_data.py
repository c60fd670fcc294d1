"""Whether a place reaches the sweep's model and data: its folders and files, or the hub."""

from __future__ import annotations

from cluster import devices
from cluster.doctor.contract import Asked, Diagnosis, Facts
from trainables import catalogue
from trainables.contract import LookedUp

ON, NEEDS_FILE, TAKES_GPU = "nodes", True, False
SECONDS = 60.0
HUNG = (
    "the hub, a proxy or a network drive does not answer: check HTTPS_PROXY, HF_ENDPOINT and the mounts there, or put "
    "the model in a folder"
)


def look(asked: Asked) -> Facts:
    """What the trainable finds of local files, and what the hub says."""
    assert asked.base is not None
    trainable = catalogue.find(asked.base.trainable)
    looked_up = LookedUp()
    problems = catalogue.check(trainable, asked.base)
    if not problems and hasattr(trainable, "look_up"):
        looked_up = trainable.look_up(asked.base, devices.cache())
    return {
        "problems": [*problems, *looked_up.problems],
        "unreachable": list(looked_up.unreachable),
        "notices": list(looked_up.notices),
    }


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when something is missing or out of reach."""
    if facts["problems"]:
        return Diagnosis("fail", "; ".join(facts["problems"]), "put it at the same path on each node, or mend the file")
    if facts["unreachable"]:
        return Diagnosis("fail", "; ".join(facts["unreachable"]), HUNG)
    base = asked.base
    named = [
        f"{key} {value}"
        for key, value in (
            ("model", base.model.source if base is not None and base.model is not None else None),
            ("data", base.data.train if base is not None and base.data is not None else None),
        )
        if value is not None
    ]
    if not named:
        return Diagnosis("ok", "the sweep reads no model and no data")
    if facts["notices"]:
        return Diagnosis("warn", "; ".join(facts["notices"]))
    return Diagnosis("ok", f"{' and '.join(named)}: reached")
