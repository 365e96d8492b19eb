#!/usr/bin/env bash
# Run lint and the tests; makes the environment if it is missing.
#
#     bash tools/run_tests.sh                     # lint and all fast tests
#     bash tools/run_tests.sh tests/test_layers/test_layer_list.py -k shared
#     bash tools/run_tests.sh -m slow             # the slow tests
#     bash tools/run_tests.sh --cov               # with line and branch coverage
#
# Three tests run at a time (-n 3: some wait for processes), and each may take 20 s of CPU time (--cpu-limit); the same options again override both.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/env.sh"
ensure_environment
cd "$ROOT"
"$VENV/bin/python" -m ruff check .
"$VENV/bin/python" -m ruff format --check .
"$VENV/bin/lint-imports"
"$VENV/bin/codespell" .
"$VENV/bin/python" tools/maintain/check_english.py
"$VENV/bin/python" -m pytest -n 3 --dist loadscope --no-loadscope-reorder --cpu-limit 20 "$@"
