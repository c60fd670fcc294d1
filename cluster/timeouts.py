"""How long this package waits for hosts, nodes, Ray and stores, and how often it looks: seconds, each with why.

No key of a sweep file sets any of them. Two environment variables do: `RAY_gcs_rpc_server_reconnect_timeout_s` in place
of `RAY_ENDS_ITSELF_SECONDS`, and `QSWEEP_DOCTOR_PATIENCE`, by which `qsweep doctor` multiplies its limits. How long
submitted jobs are waited for stands in `cluster/submission`.
"""

from __future__ import annotations

# What is lost: a host, a trial, the head of the cluster

LOST_HOST_SECONDS = 20.0
"""How long a host may stay out of reach before it counts as lost: a short fault of the network is no death. A host
whose process Ray knows to be dead is not waited for."""
LOST_HOST_AGAIN_SECONDS = 1.0
"""Pause before a host that is out of reach is asked again."""
LEASE_SECONDS = 60.0
"""A lease that is not renewed for this time is over: its trial is gone."""
LOST_HEAD_SECONDS = 60.0
"""How long the driver waits for the head service of a cluster that it has joined. The head of its own Ray is not waited
for: nobody starts that head again."""
HEAD_PROBE_SECONDS = 5.0
"""Time between two looks whether the head service of a joined cluster is there."""
HEAD_ANSWER_SECONDS = 2.0
"""How long the head service may take to accept such a connection."""
RAY_ENDS_ITSELF_SECONDS = 600.0
"""A process of Ray's ends itself when the head service has been gone for this time, whatever it is doing (rpc_client.h,
2.60; Ray's default is 60). A driver needs longer to deliver its results."""

# What may hang: a host that is there and does nothing

HOST_ANSWER_SECONDS = 5.0
"""How long a host may take to report the last steps of its trials."""
HANG_SECONDS = 600.0
"""So long may any part of a host's work last before it is told that the host may hang."""
HANG_AT_FIRST_SECONDS = 7200.0
"""The same for a part of which the host has ended none: the first may compile, and on a slow CPU it takes long."""

# How hosts are made

FOLLOW_NODES_SECONDS = 3.0
"""Time between two looks at the nodes, by which hosts are made and given up."""
HOST_RETRY_SECONDS = 10.0
"""Pause before the next attempt, when a host could not be made."""
HOST_SOON_SECONDS = 2.0
"""The same after the first process that died while it started: Ray may not have known that its node was lost."""
HOST_LONGEST_PAUSE_SECONDS = 60.0
"""Longest pause before hosts are made again that die before their trials come to a report point."""
HOST_PLACED_SECONDS = 600.0
"""How long a host counts as holding a GPU while it is not known where it is: its packages may be installed first."""
HOSTS_SETTLE_SECONDS = 60.0
"""How long the start waits for further hosts once the first is ready. Those that come later join then."""
ASK_FOR_GPUS_SECONDS = 10.0
"""Time between two lines of `cluster.launch.ask_for_gpus`, which waits for a cluster's GPUs."""

# How Ray is started, joined and ended

JOIN_SECONDS = 10.0
"""How long a cluster that is to be joined may take to accept a connection. Ray itself tries for minutes."""
OWN_NODE_SECONDS = 10.0
"""How long this process looks for the node of its own Ray before Ray does."""
OWN_NODE_TURN_SECONDS = 0.02
"""Time between two such looks."""
DAEMON_END_SECONDS = 10.0
"""How long a daemon of a Ray that did not start may take to end."""
FOLDER_ABANDONED_SECONDS = 60.0
"""An unlocked temporary folder of this age is abandoned: a younger one may be locked in a moment."""
FOLDER_REMOVAL_SECONDS = 5.0
"""How long processes that are ending may still write into a folder that is removed."""

# Object stores

STORE_REQUEST_SECONDS = 10.0
"""How long a small request to an object store may take, and all its repetitions."""
STORE_CONNECT_SECONDS = 3.0
"""How long a connection to it may take."""

# How adapters are scored again

SCORING_START_SECONDS = 600.0
"""How long a host of a cluster may take to start, waiting for a GPU included."""
SCORING_TURN_SECONDS = 1.0
"""How often a host of a cluster is asked how far it is."""
SCORING_PROGRESS_SECONDS = 5.0
"""How long its answer may take: it loads a base meanwhile."""
SCORING_END_SECONDS = 5.0
"""How long a process that broke off may take to end, so that its exit code can be told."""
SERVING_SECONDS = 1800.0
"""How long a packaged model may take to answer in a fresh process, which loads it first."""

# The doctor

DOCTOR_LOOK_SECONDS = 30.0
"""How long a check may look at a machine: a busy machine may need seconds to start a process."""
DOCTOR_HUB_SECONDS = 60.0
"""The same for what is asked of the hub."""
DOCTOR_TORCH_SECONDS = 120.0
"""The same for what loads torch, and CUDA with it."""
DOCTOR_CONNECT_SECONDS = 90.0
"""How long a connection to Ray may take."""
DOCTOR_NODE_SECONDS = 240.0
"""How long the nodes may take for all checks but those on GPUs. A busy node may need a minute to start a process."""
DOCTOR_GPU_SECONDS = 180.0
"""How long to wait for GPUs that were free, and for what is tried on them."""
DOCTOR_NODES_SECONDS = 500.0
"""How long the nodes may take together, after the connection."""
DOCTOR_CLOCK_SECONDS = 15.0
"""How long a node may take to tell its time."""
MLFLOW_ANSWER_SECONDS = 5.0
"""How long MLflow may take to answer the doctor, or `qsweep launch`, which asks too."""
