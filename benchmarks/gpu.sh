#!/usr/bin/env bash
# Everything that needs a GPU, in parts of at most two minutes that can be continued; benchmarks/gpu.py explains the options.
#
#     bash benchmarks/gpu.sh --pack wheels                  # where there is a network
#     bash benchmarks/gpu.sh --wheels wheels --minutes 9    # on the machine with the GPU
#     bash benchmarks/gpu.sh --dry-run                      # every part on a CPU, with small networks
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../tools/env.sh"
python="$(pick_python)"

# The wheels are installed beside what the machine has, once for each set of them.
wheels=""
for ((i = 1; i < $#; i++)); do
    next=$((i + 1))
    if [ "${!i}" = --wheels ]; then wheels="${!next}"; fi
done
if [ -n "$wheels" ]; then
    if ! compgen -G "$wheels/*.whl" >/dev/null; then
        echo "error: --wheels $wheels: holds no wheels; collect them with --pack where there is a network" >&2
        exit 2
    fi
    site="${TMPDIR:-/tmp}/ftsgd_gpu_$(cat "$wheels"/*.whl | cksum | cut -d ' ' -f 1)"
    if ! [ -d "$site" ]; then
        rm -rf "$site.part"
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --disable-pip-version-check \
            --target "$site.part" "$wheels"/*.whl
        mv "$site.part" "$site"
    fi
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "$python" "$ROOT/benchmarks/gpu.py" "$@"
