# Sourced by the scripts beside it: finds or makes the Python environment of this checkout.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

# The Python to run with: an activated environment, else this checkout's .venv, else whatever `python` is.
pick_python() {
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ] || [ ! -x "$VENV/bin/python" ]; then
        echo "${PYTHON:-python}"
    else
        echo "${PYTHON:-$VENV/bin/python}"
    fi
}

# A Python 3.10 to 3.12 to make the environment with; PYTHON= overrides.
_pick_interpreter() {
    local candidate
    for candidate in ${PYTHON:-python3.12 python3.11 python3.10 python3}; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: ${PYTHON:-python3} is no Python 3.10, 3.11 or 3.12; install one or name it: PYTHON=/path/to/python3.11" >&2
    return 2
}

# Make .venv with the pinned requirements and the package in editable mode, unless it is there and up to date.
ensure_environment() {
    local wanted stamp="$VENV/.ftsgd-installed" interpreter
    wanted="$(cat "$ROOT"/requirements/*.txt "$ROOT/setup.py" | cksum)"
    if [ -x "$VENV/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        echo "[set-up] $VENV is up to date"
        return
    fi
    if [ ! -x "$VENV/bin/python" ]; then
        interpreter="$(_pick_interpreter)" || return
        echo "[set-up] making $VENV with $("$interpreter" --version)"
        if ! "$interpreter" -m venv "$VENV"; then
            rm -rf "$VENV"
            echo "error: $interpreter cannot make a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2
            return 2
        fi
    fi
    echo "[set-up] installing pinned requirements (about 6 GB with torch; minutes the first time)"
    local pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" -r "$ROOT/requirements/pinned.txt" || return
    echo "[set-up] installing MMEngine, MMCV (lite) and MMPretrain"
    "${pip[@]}" --no-deps --no-build-isolation -r "$ROOT/requirements/mim.txt" || return
    echo "[set-up] installing ftsgd_plugin in editable mode"
    "${pip[@]}" --no-deps --no-build-isolation -e "$ROOT" || return
    "$VENV/bin/python" -c 'import ftsgd_plugin' || return
    echo "$wanted" > "$stamp"
}
