"""What the doctor says of a cluster as a whole. Nothing is looked at here."""

from __future__ import annotations

import pytest

from cluster.doctor import contract, examine
from cluster.doctor.contract import Asked, Finding, Health
from cluster.doctor.messages import Line, NodeFacts


@pytest.mark.parametrize(
    ("gpus", "gpus_per_host", "state"),
    [
        ((0, 1, 1), 2, "fail"),
        ((0, 1, 2), 2, "ok"),
        ((0, 0), 2, "warn"),  # an autoscaler may bring one
        ((0, 0), 1, "ok"),
        ((1, 1), 1, "ok"),
    ],
)
def test_a_cluster_on_which_no_machine_can_take_a_host_fails(
    monkeypatch: pytest.MonkeyPatch, gpus: tuple[int, ...], gpus_per_host: int, state: Health
) -> None:
    nodes = tuple(NodeFacts(name=str(place), gpus=float(count)) for place, count in enumerate(gpus))
    monkeypatch.setattr(examine, "_answers", lambda question: iter([Line(nodes=nodes)]))
    monkeypatch.setattr(contract, "chosen", lambda place, has_file: ())
    (found,) = examine.a_cluster(Asked(gpus_per_host=gpus_per_host), "auto")
    seen, mend = f"{len(gpus)} nodes with {sum(gpus)} GPUs at auto", ""
    if state != "ok":
        seen += "; a host takes 2 GPUs of one machine, and none has so many: the sweep waits for one that has"
        mend = "lower cluster.gpus_per_host, or let such a machine join"
    assert found == Finding(examine.CONNECTION, contract.DRIVER, state, seen, mend)
