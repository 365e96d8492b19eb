#!/usr/bin/env bash
# Train on a Slurm cluster.
#
#     GPUS=16 GPUS_PER_NODE=8 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]
#
# CPUS_PER_TASK (5) and SRUN_ARGS are passed on to srun; GPUS_PER_NODE=0 asks for no GPU.
set -euo pipefail
usage="usage: bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [options of tools/train.py]"
if [ $# -lt 4 ]; then
    echo "$usage" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
GPUS="${GPUS:-8}"
GPUS_PER_NODE="${GPUS_PER_NODE:-8}"
require_count GPUS "$GPUS" "$usage"
resources=(--ntasks="$GPUS")
if [ "$GPUS_PER_NODE" != 0 ]; then
    require_count GPUS_PER_NODE "$GPUS_PER_NODE" "$usage"
    per_node=$((GPUS < GPUS_PER_NODE ? GPUS : GPUS_PER_NODE))
    resources+=(--gres="gpu:$per_node" --ntasks-per-node="$per_node")
fi
# shellcheck disable=SC2086  # SRUN_ARGS is a list of words
exec srun -p "$1" --job-name="$2" "${resources[@]}" --cpus-per-task="${CPUS_PER_TASK:-5}" --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} "$(pick_python)" -u "$ROOT/tools/train.py" "$3" --work-dir="$4" --launcher=slurm "${@:5}"
