#!/usr/bin/env bash
# Run the tests; makes the environment if there is none.
#
#     bash tools/run_tests.sh                     # lint and all tests
#     bash tools/run_tests.sh tests/test_layers.py -k shared
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
"$VENV/bin/python" -m pytest "$@"
