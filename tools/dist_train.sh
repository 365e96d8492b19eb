#!/usr/bin/env bash
# Train with several processes on this machine (one per GPU; gloo where there is none).
#
#     bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]
#     NNODES=2 NODE_RANK=0 MASTER_ADDR=host0 PORT=29500 bash tools/dist_train.sh CONFIG 8
set -euo pipefail
usage="usage: bash tools/dist_train.sh CONFIG GPUS [options of tools/train.py]"
if [ $# -lt 2 ]; then
    echo "$usage" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
require_count GPUS "$2" "$usage"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# shellcheck disable=SC2046  # rendezvous prints a list of words
exec "$(pick_python)" "$ROOT/tools/torchrun.py" $(rendezvous) --nproc_per_node="$2" \
    "$ROOT/tools/train.py" "$1" --launcher pytorch "${@:3}"
