"""How long this package waits for hosts, nodes, Ray and stores, and how often it looks: seconds, each with its reason.

No key of a sweep file sets these times. Two environment variables do: `RAY_gcs_rpc_server_reconnect_timeout_s` replaces
`RAY_ENDS_ITSELF_SECONDS`, and `qsweep doctor` multiplies its limits by `QSWEEP_DOCTOR_PATIENCE`.
"""

from __future__ import annotations

# What is lost: a host, a trial, the head of the cluster

LOST_HOST_SECONDS = 20.0
"""How long a host may stay out of reach before it counts as lost: a short fault of the network is no death. A host
whose process Ray knows to be dead is not waited for."""
LOST_HOST_AGAIN_SECONDS = 1.0
"""Pause before a host that is out of reach is asked again."""
LOST_HEAD_SECONDS = 60.0
"""How long the driver waits for the lost head service of a joined cluster. It does not wait for the head of its own
Ray, which nobody starts again."""
HEAD_PROBE_SECONDS = 5.0
"""Time between two tries to connect to the head service of a joined cluster."""
HEAD_ANSWER_SECONDS = 2.0
"""How long the head service may take to accept the connection of such a try."""
RAY_ENDS_ITSELF_SECONDS = 600.0
"""A process of Ray's ends itself, whatever it is doing, once the head service has been gone for this time
(rpc_client.h, 2.60; Ray's default is 60). A driver needs longer to deliver its results."""

# What may hang: a host that is there and does nothing

HOST_ANSWER_SECONDS = 5.0
"""How long a host may take to report the last steps of its trials, or to answer whether it is there."""
HANG_SECONDS = 600.0
"""How long any part of a host's work may last before a message says that the host may hang."""
HANG_AT_FIRST_SECONDS = 7200.0
"""The same for the first part of each kind of work: it may compile, and takes long on a slow CPU."""

# How hosts are made

FOLLOW_NODES_SECONDS = 3.0
"""Time between two looks at the nodes, by which hosts are made and given up."""
HOST_RETRY_SECONDS = 10.0
"""Pause before the next attempt after a host could not be made."""
HOST_SOON_SECONDS = 2.0
"""The same after the first process that died at its start: Ray may not have known that its node was lost."""
HOST_LONGEST_PAUSE_SECONDS = 60.0
"""Longest pause before the next host, if hosts die before their trials come to a report point."""
HOST_PLACED_SECONDS = 600.0
"""How long a host counts as holding a GPU before its node is known: Ray may install packages first."""
HOSTS_SETTLE_SECONDS = 60.0
"""How long the start waits for further hosts once the first is ready. Later hosts join the running sweep."""
ASK_FOR_GPUS_SECONDS = 10.0
"""Time between two lines of `cluster.launch.ask_for_gpus`, which waits for a cluster's GPUs."""

# How Ray is started, joined and ended

JOIN_SECONDS = 10.0
"""How long a cluster to join may take to accept a connection. Ray itself tries for minutes."""
DAEMON_END_SECONDS = 10.0
"""How long a daemon may take to end after Ray did not start."""
FOLDER_ABANDONED_SECONDS = 60.0
"""Age from which an unlocked temporary folder is abandoned: a younger folder may be locked in a moment."""
FOLDER_REMOVAL_SECONDS = 5.0
"""How long ending processes may still write into a folder that is being removed."""

# Object stores

STORE_REQUEST_SECONDS = 10.0
"""How long a small request to an object store may take, and all its repetitions."""
STORE_CONNECT_SECONDS = 3.0
"""How long a connection to an object store may take."""

# How adapters are scored again

SCORING_START_SECONDS = 600.0
"""How long a host of a cluster may take to start, waiting for a GPU included."""
SCORING_TURN_SECONDS = 1.0
"""Time between two questions for the progress of a host of a cluster, or before a progress is told again."""
SCORING_PROGRESS_SECONDS = 5.0
"""How long the answer may take: the host may be loading a base."""
SCORING_END_SECONDS = 5.0
"""How long a broken process may take to end, so that its exit code can be told."""
SERVING_SECONDS = 1800.0
"""How long a packaged model may take to answer in a fresh process, which loads it first."""

# Submitted jobs

JOB_CONNECT_SECONDS = 5.0
"""How long a head node may take to accept a connection."""
JOB_ANSWER_SECONDS = 30.0
"""How long the dashboard may take for one answer; Ray's client would wait for ever."""
JOB_UPLOAD_SECONDS = 600.0
"""How long the dashboard may take to answer once files were sent to it."""
JOB_STOP_SECONDS = 900
"""How long a stopped job may save its trials and deliver to MLflow before Ray kills it. Ray's default is 3 s
(dashboard/modules/job/job_supervisor.py, 2.60)."""
AGENT_START_SECONDS = 60.0
"""How long a new head node may take to start its agent, which starts jobs."""
AGENT_AGAIN_SECONDS = 2.0
"""Pause before a head node without an agent is asked again."""
JOB_LOOK_SECONDS = 2.0
"""Pause between two looks at a job that is followed."""
JOB_SILENT_SECONDS = 300.0
"""How long a cluster may be silent before it is given up."""
SHORT_JOB_SECONDS = 120.0
"""How long a short job may take."""
SHORT_JOB_LOOK_SECONDS = 0.3
"""Pause between two looks at a short job."""

# The doctor

DOCTOR_TRAINS_FACTOR = 10.0
"""Multiplies each time limit if passes are tested: the base is loaded, and perhaps fetched and quantised first."""
DOCTOR_LOOK_SECONDS = 180.0
"""How long the checks of a machine may take together. torch, and CUDA with it, may need a minute on a busy machine to
load, and the hub as long to be given up."""
DOCTOR_CONNECT_SECONDS = 90.0
"""How long a connection to Ray may take."""
DOCTOR_NODE_SECONDS = 240.0
"""How long the nodes may take for all checks but those on GPUs. A busy node may need a minute to start a process."""
DOCTOR_GPU_SECONDS = 240.0
"""How long to wait for GPUs that were free, and for the checks on them."""
DOCTOR_NODES_SECONDS = 500.0
"""How long the nodes may take together, after the connection."""
DOCTOR_CLOCK_SECONDS = 15.0
"""How long a node may take to tell its time."""
MLFLOW_ANSWER_SECONDS = 5.0
"""How long MLflow may take to answer the doctor, or `qsweep launch`, which asks too."""
