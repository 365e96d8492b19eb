"""Stand-ins for Python, pip and Slurm: nothing is installed, no network."""

from pathlib import Path

# Stand-in for every Python: `-m venv` copies it, pip works where the file `pip` is beside it, calls go to $LOG.
PYTHON = """#!/bin/bash
[ -z "${LOG:-}" ] || echo "$0 $*" >> "$LOG"
case "$*" in
    --version) echo "Python 3.11.0" ;;
    *"-m venv"*)
        [[ "$*" != *--clear* ]] || rm -rf "${@: -1}"
        mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" && touch "${@: -1}/bin/pip" ;;
    *"-m pip show"*) [ -e "$(dirname "$0")/pip" ] ;;
esac
"""


def write_python(path: Path, text: str = PYTHON) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path
