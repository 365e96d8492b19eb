# Sourced by the scripts beside it: finds or creates the Python environment of this checkout.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

# The Python to run with: PYTHON, else an activated environment, else this checkout's .venv, else python or python3 on PATH.
# Conda's base does not count as activated: its installer activates it in every shell.
pick_python() {
    local conda=""
    if [ "${CONDA_DEFAULT_ENV:-}" != base ]; then conda="${CONDA_PREFIX:-}"; fi
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    elif [ -z "${VIRTUAL_ENV:-}$conda" ] && [ -x "$VENV/bin/python" ]; then
        echo "$VENV/bin/python"
    elif command -v python >/dev/null; then
        echo python
    else
        echo python3
    fi
}

# End the script with one line unless VALUE is a number of processes: require_count NAME VALUE USAGE
require_count() {
    if ! [[ "$2" =~ ^[1-9][0-9]*$ ]]; then
        echo "error: $1 must be a positive whole number, not '$2'; $3" >&2
        exit 2
    fi
}

# Words for torchrun: how the processes meet. On one node it chooses a free port, unless PORT is set.
rendezvous() {
    if [ "${NNODES:-1}" = 1 ] && [ -z "${PORT:-}" ]; then
        echo --standalone
    else
        echo "--nnodes=${NNODES:-1} --node_rank=${NODE_RANK:-0}" \
            "--master_addr=${MASTER_ADDR:-127.0.0.1} --master_port=${PORT:-29500}"
    fi
}

# A Python 3.10 to 3.12 to create the environment with; PYTHON= overrides.
_pick_interpreter() {
    local candidate candidates=(python3.12 python3.11 python3.10 python3)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    for candidate in "${candidates[@]}"; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: ${PYTHON:-python3} is not Python 3.10, 3.11 or 3.12; install one or name it: PYTHON=/path/to/python3.11" >&2
    return 2
}

# Whether .venv can install packages. `pip show` needs pip's metadata too, which `python -m venv` writes last.
_venv_works() {
    "$VENV/bin/python" -m pip show --quiet pip >/dev/null 2>&1
}

# Create .venv with the pinned requirements and the package in editable mode, unless it is up to date.
# STACK=onedl installs the OneDL forks of MMEngine and MMPretrain.
ensure_environment() {
    local wanted stamp="$VENV/.ftsgd-installed" interpreter stack="${STACK:-mim}"
    if ! [ -f "$ROOT/requirements/$stack.txt" ]; then
        echo "error: STACK must be mim (official packages) or onedl (forks), not '$stack'" >&2
        return 2
    fi
    wanted="$stack $(cat "$ROOT"/requirements/*.txt "$ROOT/pyproject.toml" "$ROOT/setup.py" | cksum)"
    if ! _venv_works; then
        interpreter="$(_pick_interpreter)" || return
        if [ -e "$VENV" ]; then
            echo "[set-up] $VENV is incomplete or its Python has been removed; creating it again"
        fi
        echo "[set-up] creating $VENV with $("$interpreter" --version)"
        if ! "$interpreter" -m venv --clear "$VENV"; then
            rm -rf "$VENV"
            echo "error: $interpreter cannot create a virtual environment; on Debian or Ubuntu: apt-get install python3-venv" >&2
            return 2
        fi
    elif [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        echo "[set-up] $VENV is up to date"
        return
    fi
    rm -f "$stamp" # an interrupted installation must not be taken for the previous one
    echo "[set-up] installing pinned requirements (about 6 GB with torch; minutes the first time)"
    local pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" -r "$ROOT/requirements/pinned.txt" -c "$ROOT/requirements/constraints.txt" || return
    echo "[set-up] installing MMEngine, MMCV (lite) and MMPretrain"
    "${pip[@]}" --no-deps --no-build-isolation -r "$ROOT/requirements/$stack.txt" || return
    echo "[set-up] installing ftsgd_plugin in editable mode"
    "${pip[@]}" --no-deps --no-build-isolation -e "$ROOT" || return
    "$VENV/bin/python" -c 'import mmengine, ftsgd_plugin' || return
    echo "$wanted" > "$stamp"
}
