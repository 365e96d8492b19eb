#!/usr/bin/env bash
# The main job on an embedded default: SGD, AdamW and SGD (freeze-embed) on digits over photographs, compared.
# Makes the environment and the data if there are none; then about three minutes on two CPU cores.
#
#     bash tools/demo.sh
#     bash tools/demo.sh --out work_dirs/other --seeds 0 1 2 3 4
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
"$VENV/bin/python" tools/demo.py "$@"
