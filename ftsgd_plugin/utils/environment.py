"""The stack below: MMEngine, MMCV, MMPretrain (or forks under the same import names), torch and the model libraries."""

import importlib
import os
import sys
import time
from pathlib import Path

TRIO = "pip install 'mmengine>=0.10.7,<1.0' 'mmcv-lite>=2.0.1,<2.4' 'mmpretrain>=1.2.0,<2.0' 'setuptools<82'"
TORCH = "pip install 'torch>=2.1' 'torchvision>=0.16'"
# opencv-python, which MMEngine asks for, needs libGL and X11; the headless build provides the same module without them.
HEADLESS = 'pip uninstall -y opencv-python && pip install opencv-python-headless'

# Import name -> oldest version that works, version that is too new, and the command that mends it.
REQUIRED = {
    'torch': ('2.1.0', None, TORCH),
    'torchvision': ('0.16.0', None, TORCH),
    'mmengine': ('0.10.7', '1.0.0', TRIO),
    'mmcv': ('2.0.1', '2.4.0', TRIO),
    'mmpretrain': ('1.2.0', '2.0.0', TRIO),
    'timm': ('1.0.0', None, "pip install 'timm>=1.0'"),
    'open_clip': ('2.24.0', None, "pip install 'open_clip_torch>=2.24'"),
}
SAME_ERROR_SECONDS = 5


class StackError(ImportError):
    """The stack is missing, broken or of the wrong age; one line that names the command that mends it."""


def require_stack() -> None:
    """:func:`check_stack`; a program of ``tools/`` ends here with the line on stderr and exit code 2.

    The programs cannot catch the error: what they share is in this package, which does not import without its stack.

    Raises:
        StackError: In any other process, e.g. a Python session.
    """
    try:
        check_stack()
    except StackError as error:
        if not _in_our_program():
            raise
        if int(os.environ.get('LOCAL_RANK', 0)) > 0:
            time.sleep(SAME_ERROR_SECONDS)  # local rank 0 says the same; the launcher ends this rank meanwhile
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)


def _in_our_program() -> bool:
    """Whether this process runs a file of ``tools/``, in a checkout or in an installed wheel."""
    program = getattr(sys.modules['__main__'], '__file__', None)
    package = Path(__file__).resolve().parents[1]
    return program is not None and Path(program).resolve().parent in (package.parent / 'tools', package / '.mim/tools')


def check_stack() -> None:
    """Import the stack and compare versions.

    Raises:
        StackError: One line that names the package, what is wrong with it and the command that mends it.
    """
    for name, (oldest, too_new, mend) in REQUIRED.items():
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken install fails in many ways (version asserts, missing shared libraries)
            reason = ' '.join(str(error).split())
            mend = HEADLESS if 'cannot open shared object file' in reason and name.startswith('mm') else mend
            # The chain would put pages of traceback above the line.
            raise StackError(f'ftsgd_plugin needs {name} and cannot import it ({reason}); run: {mend}') from None
        version = getattr(module, '__version__', '0')
        if _numbers(version) < _numbers(oldest) or (too_new and _numbers(version) >= _numbers(too_new)):
            wanted = f'>={oldest}' + (f',<{too_new}' if too_new else '')
            raise StackError(f'ftsgd_plugin needs {name}{wanted} and found {version}; run: {mend}')


def _numbers(version: str) -> tuple[int, ...]:
    """``'2.11.0+cu130'`` -> ``(2, 11, 0)``; a release candidate counts as its release."""
    numbers = []
    for part in version.split('+')[0].split('.')[:3]:
        digits = ''.join(char if char.isdigit() else ' ' for char in part).split()
        numbers.append(int(digits[0]) if digits else 0)
    return tuple(numbers)
