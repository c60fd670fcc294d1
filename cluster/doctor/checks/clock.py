"""Whether a node's clock agrees with the driver's. Only on a cluster: `cluster/doctor/on_cluster.py` measures it."""

from __future__ import annotations

from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "nodes", False, False
SECONDS = 30.0
HUNG = "the node is overloaded: try again"
MOST, TOO_MUCH = 2.0, 300.0
"""Seconds. Object stores refuse requests that were signed 15 minutes off, Kerberos those 5 minutes off."""
_MEND = "start a time service there (chrony, systemd-timesyncd): timedatectl set-ntp true"


def look(_asked: Asked) -> Facts:
    """Nothing: a clock is compared from elsewhere."""
    return {}


def judge(facts: Facts, _driver: Facts, _asked: Asked) -> Diagnosis:
    """Warns when the clocks certainly differ by more than seconds, and fails when by minutes.

    The node's time was read between two readings here, so the difference lies between `least` and `most`.
    """
    least, most = facts["least"], facts["most"]
    certain = max(0.0, least, -most)
    seen = (
        f"{'ahead' if least > 0 else 'behind'} by at least {certain:.1f} s" if certain else "agrees with the driver's"
    )
    if certain > TOO_MUCH:
        return Diagnosis("fail", seen, _MEND)
    if certain > MOST:
        return Diagnosis("warn", seen, _MEND)
    return Diagnosis("ok", f"{seen} (within {max(abs(least), abs(most)):.1f} s)")
