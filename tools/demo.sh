#!/usr/bin/env bash
# The demo: a real network on real images, DINOv2 on solar cells, by SGD, AdamW and freeze-embed; or six methods on digits.
# Creates the environment and gets the data if they are missing; takes minutes on two CPU cores. Run it again to continue.
#
#     bash tools/demo.sh
#     bash tools/demo.sh --digits
#     bash tools/demo.sh --digits --out work_dirs/other --seeds 0 1 2 3 4
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
"$VENV/bin/python" tools/demo.py "$@"
