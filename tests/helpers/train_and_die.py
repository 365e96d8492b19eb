"""tools/train.py, killed while it writes or removes a file: python train_and_die.py MOMENT FILE NTH CONFIG [options].

MOMENT is 'half' (half of FILE is on the disk), 'moved' (FILE has just got its final name) or 'removing' (FILE is about
to be removed); NTH counts how often this happens to FILE.
"""

import os
import runpy
import signal
import sys
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[2] / 'tools/train.py'
moment, name, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
fsync, replace, remove = os.fsync, os.replace, os.remove
seen = 0


def is_due(now: str, path: str) -> bool:
    global seen
    seen += now == moment and Path(path).name.removeprefix('.').removesuffix('.tmp') == name
    return seen == nth


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fsync_or_die_half_way(descriptor: int) -> None:
    path = os.readlink(f'/proc/self/fd/{descriptor}')
    if is_due('half', path):
        os.truncate(path, os.fstat(descriptor).st_size // 2)
        die()
    fsync(descriptor)


def replace_and_die(source, target) -> None:
    replace(source, target)
    if is_due('moved', target):
        die()


def die_or_remove(path) -> None:
    if is_due('removing', path):
        die()
    remove(path)


os.fsync, os.replace, os.remove = fsync_or_die_half_way, replace_and_die, die_or_remove
sys.argv = [str(TRAIN), *sys.argv[4:]]
runpy.run_path(str(TRAIN), run_name='__main__')
