"""How long the driver of a sweep waits, and how often it looks: every such number of `tune`, `steering` and `report`.

A number that an environment variable sets names the variable; nobody can set the others. How long a host that is lost,
slow or silent is waited for is the cluster's own: see `cluster/timeouts.py`.
"""

from __future__ import annotations

# A trial's process, the broker and its hosts

CALL_SECONDS = 2.0
"""How long one call of a trial's process to a host or to the broker lasts at most. A stop is noticed that soon; the
shorter the calls, the fewer trials one broker serves (docs/speed.md)."""
RETRY_SECONDS = 0.5
"""Pause before an actor that was lost is called again, or another lease is asked for."""
ANEW_SECONDS = 120.0
"""How long a caller waits for Ray to make a lost broker, or a lost keeper of files, anew."""

# The start of the hosts

START_LOOK_SECONDS = 0.5
"""Pause between two looks at the hosts that start: how soon a stop or a line about them is noticed."""

# Between two steps of Ray Tune

BASE_AGAIN_SECONDS = 10.0
"""Pause before the base's evaluation is asked for again, after its host was lost or while there is no host."""
BASE_END_SECONDS = 30.0
"""How long the end of a sweep waits for the base's evaluation: the trials of other hosts may have been faster."""
STEPS_SECONDS = 2.0
"""Pause between questions for the steps that trials have taken, for the live table."""
COUNT_SECONDS = 5.0
"""Pause between questions for the number of hosts: no line tells that a host begins to load, or has left."""
NEWS_SECONDS = 30.0
"""How long one question for news of the hosts waits for an answer."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 10.0
"""Pauses between two questions to a broker that is lost. Each pause is twice as long as the one before."""

# The end of a sweep

LEAVE_SECONDS = 120.0
"""How long trials have to end their step and save themselves once the sweep is asked to end."""
STOP_SECONDS = 240.0
"""How long a sweep that was asked to end may take in all: trials save themselves, then Ray Tune and Ray end."""
START_STOP_SECONDS = 3.0
"""The same while Ray is not there yet: there is nothing to save."""
RAY_END_SECONDS = 30.0
"""How long Ray's own end may take. Then the driver leaves Ray behind."""
SUPERVISION_SECONDS = 0.2
"""Pause between two looks at the thread that is inside Ray. Signals and requests are noticed that soon."""
DRAIN_SECONDS = 120.0
"""How long the end of a sweep waits for the next event to reach MLflow, and for the mirror. The environment variable
QSWEEP_DRAIN_SECONDS sets another number."""
NOTIFY_SECONDS, NOTIFY_END_SECONDS = 10.0, 20.0
"""How long a webhook or a command of `notify` has for a message, and how long the end of a sweep waits for both."""

# What people see

QUIET_SECONDS = 60.0
"""In a log, after so long without a line, a line says where the trials stand."""
PASSING_SECONDS = 15.0
"""Outside a terminal, a line about how far something has come is printed after so long without one."""
TABLE_SECONDS = 0.5
"""Pause between two drawings of the live table."""
