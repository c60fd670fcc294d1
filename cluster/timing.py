"""How long the cluster's parts wait, in seconds: each number with its reason.

No key of the sweep file sets them. An environment variable does where the number says so; `QSWEEP_DOCTOR_PATIENCE`
multiplies the time limits of the doctor.
"""

from __future__ import annotations

# The doctor

DOCTOR_LOOK_SECONDS = 30.0
"""How long a check may look at a machine: a busy one may need seconds to start a process."""
DOCTOR_HUB_SECONDS = 60.0
"""The same for what is asked of the hub."""
DOCTOR_TORCH_SECONDS = 120.0
"""The same for what loads torch, and CUDA with it."""
DOCTOR_CONNECT_SECONDS = 90.0
"""How long a connection to Ray may take."""
DOCTOR_NODE_SECONDS = 240.0
"""How long the nodes may take for all checks but those on GPUs. A busy one may need a minute to start a process."""
DOCTOR_GPU_SECONDS = 180.0
"""How long to wait for GPUs that were free, and for what is tried on them."""
DOCTOR_NODES_SECONDS = 500.0
"""How long the nodes may take together, after the connection."""
DOCTOR_CLOCK_SECONDS = 15.0
"""How long a node may take to tell its time."""
DOCTOR_END_SECONDS = 5.0
"""How long a killed process may take to end. One that waits for a dead network drive does not end at all."""
MLFLOW_ANSWER_SECONDS = 5.0
"""How long MLflow may take to answer the doctor, or `qsweep launch`, which asks too."""
