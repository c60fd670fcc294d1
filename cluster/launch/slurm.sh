#!/usr/bin/env bash
# A sweep as one Slurm job: Ray starts on the job's nodes, the sweep runs on the first of them, and Ray ends with it.
#
# Run these commands in the root of the repository, on a file system that all nodes share, with the project in .venv.
# Once: fill in the lines that are marked CHANGE.
#   make sweep
#   .venv/bin/pip install --constraint constraints.txt "ray[default]==2.60.0"
# Start a sweep. Its own time limit is shorter than the job's, so that it is saved in order.
#   sbatch cluster/launch/slurm.sh launch llama-3.1-8b-qlora cluster.profile=attached budget.wall_clock=11h \
#     tracking.uri=sqlite:///mlflow.db
# Look at it from the login node, end it in order, and go on with it in another job.
#   .venv/bin/qsweep status llama-3.1-8b-qlora
#   .venv/bin/qsweep stop llama-3.1-8b-qlora
#   sbatch cluster/launch/slurm.sh resume results/llama-3.1-8b-qlora
#
# The nodes must be the job's alone: at its end `ray symmetric-run` ends every Ray of yours on them.
#SBATCH --job-name=qsweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --output=%x-%j.log
#SBATCH --partition=gpu  # CHANGE: your partition, and account if need be

set -euo pipefail
if [ $# -eq 0 ]; then
    echo "usage: sbatch cluster/launch/slurm.sh (launch FILE | resume DIR) [KEY=VALUE]..." >&2
    exit 2
fi
export PATH="$PWD/.venv/bin:$PATH"

# Every process of the job has the same home, and so the same token.
umask 077
export RAY_AUTH_MODE=token
ray get-auth-token --generate > /dev/null
chmod 600 ~/.ray/auth_token

# Nodes of a large job arrive at different times; Ray alone would wait for 30 seconds.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300
# Workers end within about 10 seconds after the head, not 70. The sweep's own process keeps its longer patience.
export RAY_gcs_rpc_server_reconnect_timeout_s=5

# This script runs on the first node. Set HEAD_IP where its first address is not in the network of the nodes.
head_ip=${HEAD_IP:-$(hostname -I | cut -d " " -f 1)}

# The exit code is that of the sweep.
exec srun --nodes="$SLURM_NNODES" --ntasks="$SLURM_NNODES" --ntasks-per-node=1 \
    ray symmetric-run --address "$head_ip:6379" --min-nodes "$SLURM_NNODES" \
    --num-cpus="${SLURM_CPUS_PER_TASK:-8}" --num-gpus="${SLURM_GPUS_ON_NODE:-1}" --disable-usage-stats \
    -- env -u RAY_gcs_rpc_server_reconnect_timeout_s qsweep "$@"
