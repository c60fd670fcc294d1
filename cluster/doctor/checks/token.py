"""The token of the Ray cluster: whether it is asked for, is there, and is private. Its value is not shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cluster.doctor.contract import DRIVER, Asked, Diagnosis, Facts

ON, NEEDS_FILE, TAKES_GPU = "driver", False, False
SECONDS = 30.0
HUNG = "the home folder does not answer: check its mount"


def look(_asked: Asked) -> Facts:
    """Where Ray takes its token from (ray/_private/authentication, 2.60), and who may read that file."""
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(given).expanduser() if given else Path.home() / ".ray" / "auth_token"
    facts = {"mode": os.environ.get("RAY_AUTH_MODE"), "in_environment": bool(os.environ.get("RAY_AUTH_TOKEN"))}
    try:
        rights = file.stat().st_mode
    except OSError:
        return {**facts, "file": str(file), "is_there": False, "is_open": False}
    return {**facts, "file": str(file), "is_there": True, "is_open": bool(rights & (stat.S_IRGRP | stat.S_IROTH))}


def judge(facts: Facts, _driver: Facts, asked: Asked) -> Diagnosis:
    """Fails when a token is asked for and there is none; warns when others can read it or a cluster takes anyone."""
    mode, has_token = facts["mode"], facts["in_environment"] or facts["is_there"]
    if mode == "token" and not has_token:
        return Diagnosis(
            "fail",
            f"RAY_AUTH_MODE=token, but there is no {facts['file']} and no RAY_AUTH_TOKEN",
            "copy the token of the head node, or make one there: ray get-auth-token --generate",
        )
    if facts["is_open"] and not facts["in_environment"]:
        return Diagnosis("warn", f"others can read {facts['file']}", f"chmod 600 {facts['file']}")
    if mode == "token":
        return Diagnosis("ok", "RAY_AUTH_MODE=token, and there is a token")
    if asked.node == DRIVER:
        return Diagnosis(
            "warn",
            f"RAY_AUTH_MODE is {mode or 'not set'}: a cluster that asks for a token refuses this driver, and one that "
            "does not runs the code of whoever reaches its ports",
            "start Ray with RAY_AUTH_MODE=token and set it here too (docs/cluster.md)",
        )
    return Diagnosis("ok", "a Ray of the sweep's own needs none")
