#!/usr/bin/env bash
# The demo: the six methods on digits over photographs, compared (configs/sweeps/demo.py).
# Creates the environment and the data if they are missing; takes minutes on two CPU cores. Run it again to continue.
#
#     bash tools/demo.sh
#     bash tools/demo.sh --out work_dirs/other --seeds 0 1 2 3 4
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
"$VENV/bin/python" tools/demo.py "$@"
