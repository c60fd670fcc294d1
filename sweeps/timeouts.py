"""How long the driver of a sweep waits, and how often it looks, in seconds: for `launch`, `tune` and `report`.

The docstring of a number names the environment variable that sets the number; the other numbers are fixed. The times
for hosts that are lost, slow or silent stand in `cluster/timeouts.py`.
"""

from __future__ import annotations

# Stubs, the broker and its hosts

CALL_SECONDS = 2.0
"""How long one call of the broker to a host for a trial may last, and one wait for a slot. A trial notices a stop
within this time. With shorter calls one broker serves fewer trials (docs/speed.md)."""
RESULT_SECONDS = 60.0
"""How long one question of a stub for the next result may last."""
RETRY_SECONDS = 0.5
"""Pause before a lost actor is called again."""
ANEW_SECONDS = 120.0
"""How long a caller waits for Ray to make a lost broker anew."""

# The start of the hosts

START_LOOK_SECONDS = 0.5
"""Pause between two looks at the starting hosts, or at the scoring of finalists. A stop, or a line about the hosts, is
noticed within this time."""

# Between two steps of Ray Tune

BASE_AGAIN_SECONDS = 10.0
"""Pause before the base's evaluation is asked for again, after its host was lost or while there is no host."""
BASE_FIRST_SECONDS = 60.0
"""How long the base's evaluation waits for the first report of a trial."""
STEPS_SECONDS = 2.0
"""Pause between questions for the steps that trials have taken, for the live table."""
COUNT_SECONDS = 5.0
"""Pause between questions for the number of hosts: no line tells that a host begins to load, or has left."""
NEWS_SECONDS = 30.0
"""How long one question for news of the hosts waits for an answer."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
"""Pauses between two questions to a broker that is lost. Each pause is twice as long as the one before."""

# The end of a sweep

NO_HOST_SECONDS = 600.0
"""How long the evaluation of the base, or the scoring of finalists, waits for a host once all trials have ended: one
that must still be started may take this long."""
STILL_SCORING_SECONDS = 30.0
"""Pause between two lines while the finalists are scored."""
LEAVE_SECONDS = 120.0
"""How long trials have to end their step and save themselves once the sweep is asked to end."""
STOP_SECONDS = 240.0
"""How long a sweep that was asked to end may take in all: trials save themselves, then Ray Tune and Ray end."""
START_STOP_SECONDS = 3.0
"""The same while Ray still starts: there is nothing to save."""
RAY_END_SECONDS = 30.0
"""How long Ray's own end may take. Then the driver leaves Ray behind."""
SUPERVISION_SECONDS = 0.2
"""Pause between two looks at the thread that is inside Ray. Signals and requests are noticed within this time."""
DRAIN_SECONDS = 120.0
"""How long the end of a sweep waits for the next event to reach MLflow, and for the mirror. The environment variable
QSWEEP_DRAIN_SECONDS sets another number."""
NOTIFY_SECONDS, NOTIFY_END_SECONDS = 10.0, 20.0
"""How long a webhook or a command of `notify` has for a message, and how long the end of a sweep waits for both."""

# What people see

QUIET_SECONDS = 60.0
"""Time without a line after which a line in the log says where the trials stand."""
PASSING_SECONDS = 30.0
"""Pause between two lines about the progress of a piece of work, outside a terminal."""
TABLE_SECONDS = 0.5
"""Pause between two drawings of the live table."""
