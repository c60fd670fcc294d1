"""How many files a process may hold open: Ray needs one for each connection."""

from __future__ import annotations

import resource

from cluster.doctor.contract import Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "both", False, False
SECONDS = 30.0
HUNG = "the machine is overloaded: try again"
LEAST, ADVISED = 4096, 8192
"""Below the first Ray warns of lost connections; it advises the second (ray/_private/worker.py, 2.60: `init`)."""


def look(_asked: Asked) -> Facts:
    """The limits of a process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return {"soft": soft, "hard": hard}


def judge(facts: Facts, _driver: Facts, _asked: Asked) -> Diagnosis:
    """Judges the hard limit: Ray raises the soft one to it, up to 65536."""
    soft, hard = (f"{value}" if value >= 0 else "unlimited" for value in (facts["soft"], facts["hard"]))
    seen = f"ulimit -n: {soft}, at most {hard}"
    most = facts["hard"] if facts["hard"] >= 0 else 65536
    mend = "raise it before Ray starts: ulimit -n 65536 (limits.conf, LimitNOFILE= of a service, --ulimit of Docker)"
    if most < LEAST:
        return Diagnosis("fail", seen, mend)
    return Diagnosis("warn", seen, mend) if most < ADVISED else Diagnosis("ok", seen)
