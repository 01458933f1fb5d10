#!/usr/bin/env bash
# Start a stage's processes: launch.sh PROCESSES stages.NAME [ARGUMENTS]
#
# PROCESSES on this machine, or on each node of the SLURM job that this runs in (usually one a GPU).
# They share the work, see sacd/parallel.py.
set -euo pipefail
processes=$1
shift
nodes=${SLURM_JOB_NUM_NODES:-1}

if [[ $nodes == 1 && $processes == 1 ]]; then
    exec python -m "$@"
fi
if [[ $nodes == 1 ]]; then
    exec torchrun --standalone --nproc-per-node "$processes" -m "$@"
fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
head=$(scontrol show node "$first" | grep -oP 'NodeAddr=\K\S+')
exec srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1 --overlap \
    torchrun --nnodes "$nodes" --nproc-per-node "$processes" \
    --rdzv-backend c10d --rdzv-endpoint "$head" --rdzv-id "$SLURM_JOB_ID" -m "$@"
