#!/usr/bin/env bash
# Train on a Slurm cluster.
#
#     GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
#
# CPUS_PER_TASK (5) and SRUN_ARGS are passed on to srun; GPUS_PER_NODE=0 asks for no GPU.
#
# SIGNAL_SECONDS (120) ahead of the time limit Slurm sends SIGUSR1: the run saves a checkpoint and exits with 138. Then it is
# queued again with --resume, until it has finished. Inside a batch job that is done by `scontrol requeue`; there the signal
# is an option of sbatch:
#
#     sbatch --requeue --open-mode=append --signal=USR1@120 --ntasks=8 ... --wrap 'bash tools/slurm_train.sh ...'
#
# REQUEUE=0 leaves it stopped.
set -euo pipefail
usage="usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]"
if [ $# -lt 4 ]; then
    echo "$usage" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
GPUS="${GPUS:-8}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
SIGNAL_SECONDS="${SIGNAL_SECONDS:-120}"
require_count GPUS "$GPUS" "$usage"
require_count SIGNAL_SECONDS "$SIGNAL_SECONDS" "$usage"
resources=(--ntasks="$GPUS")
if [ "$GPUS_PER_NODE" != 0 ]; then
    require_count GPUS_PER_NODE "$GPUS_PER_NODE" "$usage"
    per_node=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE))
    resources+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
fi
python="$(pick_python)"
stopped=138 # 128 + SIGUSR1
resume=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then # Slurm has requeued the batch job
    resume=(--resume)
fi
while true; do
    started=$SECONDS status=0
    # shellcheck disable=SC2086  # SRUN_ARGS is a list of words
    srun -p "$1" --job-name="$2" "${resources[@]}" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
        --signal="USR1@$SIGNAL_SECONDS" ${SRUN_ARGS:-} \
        "$python" -u "$ROOT/tools/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}" ${resume[@]+"${resume[@]}"} ||
        status=$?
    if [ $status -ne $stopped ] || [ "${REQUEUE:-1}" = 0 ]; then
        exit $status
    fi
    if [ -n "${SLURM_JOB_ID:-}" ]; then
        echo "stopped ahead of the time limit; job $SLURM_JOB_ID is queued again" >&2
        exec scontrol requeue "$SLURM_JOB_ID"
    fi
    if [ $((SECONDS - started)) -lt "${MIN_SECONDS:-60}" ]; then
        echo "error: SIGNAL_SECONDS=$SIGNAL_SECONDS: the signal came within a minute of the start; ask for a longer time limit" >&2
        exit $status
    fi
    echo "stopped ahead of the time limit; queued again" >&2
    resume=(--resume)
done
