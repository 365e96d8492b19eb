#!/usr/bin/env bash
# The main job on an embedded default: the six methods on digits over photographs, compared (configs/sweeps/demo.py).
# Makes the environment and the data if there are none; then minutes on two CPU cores. The same command again goes on.
#
#     bash tools/demo.sh
#     bash tools/demo.sh --out work_dirs/other --seeds 0 1 2 3 4
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
"$VENV/bin/python" tools/demo.py "$@"
