#!/usr/bin/env bash
# A sweep as one Slurm job: Ray starts on the job's nodes, the sweep runs on the first of them, and Ray ends with it.
#
# Run these commands in the root of the repository, on a file system that all nodes share, with the project in .venv.
# Once: fill in the lines that are marked CHANGE.
#   make sweep
#   .venv/bin/pip install --constraint constraints.txt "ray[default]==2.60.0"
# Start a sweep. It may take longer than a job.
#   sbatch cluster/launch/slurm.sh launch llama-3.1-8b-qlora cluster.profile=attached tracking.uri=sqlite:///mlflow.db
# Look at it from the login node, or end it in order before the job's time is over.
#   .venv/bin/qsweep status llama-3.1-8b-qlora
#   .venv/bin/qsweep stop llama-3.1-8b-qlora
# Go on with it in another job: here one that begins when job 1234 is over. Finished trials stay, the others go on from
# their last snapshot. With nothing left to train, it says so and ends.
#   sbatch --dependency=afterany:1234 cluster/launch/slurm.sh resume results/llama-3.1-8b-qlora
#
# The job's exit code is that of the sweep: 0 when it is finished (`--dependency=afterok` goes on), 130 after `qsweep
# stop`, 2 for a mistake in your words. The job's log has what the sweep says, and qsweep-1234.ray.log what Ray says.
#
# Fifteen minutes before the job's time is over, Slurm sends USR1 to this script (`--signal` below), and the script sends
# TERM to the sweep: trials save themselves at their next step, and the job ends with exit code 143. Without `B:`, Slurm
# would signal Ray's own processes too. budget.wall_clock is not for this: what it has ended goes on only after `qsweep
# extend` has given the sweep more.
#
# `scancel` alone ends Ray at the same time: trials go on from their last snapshots. Slurm leaves the sweep KillWait,
# mostly 30 seconds, to close its runs; `resume` closes them later.
#
# When a node is lost, the sweep goes on without it (`--no-kill` below). With the first node the sweep is lost: the
# others cancel the job once Slurm knows. Then, or where another job takes the nodes, Slurm by itself would begin the job
# from its first line: `launch` would be a second sweep. So it does not (`--no-requeue` below); go on with `resume`.
#
# The nodes must be the job's alone: at its end every Ray of yours on the first of them ends.
#SBATCH --job-name=qsweep
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@900
#SBATCH --no-requeue
#SBATCH --no-kill
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

# This script runs on the first node. Set HEAD_IP where its first address is not in the network of the nodes.
head_ip=${HEAD_IP:-$(hostname -I | cut -d " " -f 1)}
ray_log="qsweep-$SLURM_JOB_ID.ray.log"
own=("--num-cpus=${SLURM_CPUS_PER_TASK:-8}" "--num-gpus=${SLURM_GPUS_ON_NODE:-1}" --disable-usage-stats)

# A node that says nothing for about 20 seconds counts as lost; Ray's own settings wait for a minute.
RAY_health_check_period_ms=2000 RAY_health_check_timeout_ms=3000 RAY_health_check_failure_threshold=4 \
    ray start --head --node-ip-address="$head_ip" --port=6379 "${own[@]}" > "$ray_log" 2>&1 || {
    cat "$ray_log" >&2
    exit 1
}
# The other nodes join while the sweep begins: it uses also those that come later. When Slurm has taken the first node
# from the job, nothing would end the job before its time is over (`--no-kill`): the others do.
# shellcheck disable=SC2016  # the other nodes expand it
other='"${@:2}" &
until its_first=$(squeue --noheader --jobs="$SLURM_JOB_ID" --nodelist="$1") && [ -z "$its_first" ]; do sleep 30; done
scancel "$SLURM_JOB_ID"'
if [ "$SLURM_NNODES" -gt 1 ]; then
    srun --nodes=$((SLURM_NNODES - 1)) --ntasks=$((SLURM_NNODES - 1)) --exclude="$SLURMD_NODENAME" --no-kill --wait=0 \
        bash -c "$other" other "$SLURMD_NODENAME" \
        ray start --address="$head_ip:6379" --block "${own[@]}" >> "$ray_log" 2>&1 &
    others=$!
fi

qsweep "$@" &
sweep=$!
is_told=
# shellcheck disable=SC2329  # the trap calls it
tell_sweep() {
    trap "" USR1 TERM
    is_told=1
    echo "the job's time is nearly over: the sweep is interrupted; go on with it with qsweep resume, in another job"
    kill -TERM "$sweep"
}
trap 'tell_sweep' USR1
# `scancel` sends TERM to the sweep too: a second one would end the sweep at once.
trap 'trap "" USR1 TERM; is_told=1' TERM

# In the background, because a shell hears no signal while it waits for a command. The exit code is that of the sweep.
code=0
wait "$sweep" || code=$?
if [ "$is_told" ]; then  # the signal has ended the wait
    code=0
    wait "$sweep" || code=$?
fi
kill "${others:-}" 2> /dev/null || true
ray stop --force > /dev/null 2>&1 || true
exit "$code"
