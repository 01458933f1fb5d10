#!/usr/bin/env bash
# Start a stage's processes: launch.sh NODES PROCESSES stages.NAME [ARGUMENTS]
#
# PROCESSES on this machine, or on each of the NODES of the SLURM job that this runs in: usually one
# a GPU. They share the work, see sacd/parallel.py.
set -euo pipefail
nodes=$1 processes=$2
shift 2
# How long torchrun lets processes answer a request to stop before it kills them: nearly all of the
# two minutes of warning that a scheduler gives (workflow/profiles/slurm), for checkpoints are large.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=110

if [[ $nodes == 1 && $processes == 1 ]]; then
    # Below fork_server.py a fork will do, unless threads or SLURM want a process of its own.
    if [[ -S ${SACD_FORK_SERVER:-} && ${OMP_NUM_THREADS:-} == 1 && -z ${SLURM_JOB_ID:-} ]]; then
        exec python -IS "$(dirname "$0")/fork_server.py" --start "$@"
    fi
    exec python -m "$@"
fi
if [[ $nodes == 1 ]]; then
    exec torchrun --standalone --nproc-per-node "$processes" -m "$@"
fi
# All nodes are the job's; the environment tells of the step that this runs in, which has one.
names=$(scontrol show job "${SLURM_JOB_ID:?nodes=$nodes needs a SLURM job}" | grep -oP '^ +NodeList=\K\S+')
first=$(scontrol show hostnames "$names" | head -n 1)
head=$(scontrol show node "$first" | grep -oP 'NodeAddr=\K\S+')
job=$SLURM_JOB_ID
unset $(compgen -v SLURM_)
export SLURM_JOB_ID=$job
port=$((20000 + job % 10000)) # two jobs may share a node
exec srun --nodes "$nodes" --ntasks "$nodes" --ntasks-per-node 1 --overlap \
    bash -c 'exec torchrun --node-rank "$SLURM_NODEID" "$@"' torchrun \
    --nnodes "$nodes" --nproc-per-node "$processes" --master-addr "$head" --master-port "$port" -m "$@"
