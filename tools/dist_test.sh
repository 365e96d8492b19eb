#!/usr/bin/env bash
# Evaluate a checkpoint with several processes on this machine (one per GPU; gloo where there is none).
#
#     bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]
set -euo pipefail
usage="usage: bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [options of tools/test.py]"
if [ $# -lt 3 ]; then
    echo "$usage" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
require_count GPUS "$3" "$usage"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
# shellcheck disable=SC2046  # rendezvous prints a list of words
exec "$(pick_python)" "$ROOT/tools/torchrun.py" $(rendezvous) --nproc_per_node="$3" \
    "$ROOT/tools/test.py" "$1" "$2" --launcher pytorch "${@:4}"
