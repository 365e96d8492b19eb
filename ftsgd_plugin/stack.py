"""The stack below: MMEngine, MMCV, MMPretrain (or forks under the same import names) and torch."""

import importlib

# Import name -> oldest version that works, version that is too new, and the package that provides it.
REQUIRED = {
    'torch': ('2.1.0', None, 'torch'),
    'mmengine': ('0.10.7', '1.0.0', 'mmengine'),
    'mmcv': ('2.0.1', '2.4.0', 'mmcv-lite'),
    'mmpretrain': ('1.2.0', '2.0.0', 'mmpretrain'),
}
MEND = "pip install 'ftsgd_plugin[mim]'"


def check_stack() -> None:
    """Import the stack and compare versions.

    Raises:
        ImportError: One line that names the package, what is wrong with it and the command that mends it.
    """
    for name, (oldest, too_new, package) in REQUIRED.items():
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken install fails in many ways (version asserts, missing shared libraries)
            reason = ' '.join(str(error).split())
            raise ImportError(f'ftsgd_plugin needs {package} and cannot import it ({reason}); run: {MEND}') from error
        version = getattr(module, '__version__', '0')
        if _numbers(version) < _numbers(oldest) or (too_new and _numbers(version) >= _numbers(too_new)):
            wanted = f'>={oldest}' + (f',<{too_new}' if too_new else '')
            mend = f"pip install '{package}{wanted}'"
            raise ImportError(f'ftsgd_plugin needs {package}{wanted} and found {version}; run: {mend}')


def _numbers(version: str) -> tuple[int, ...]:
    """``'2.11.0+cu130'`` -> ``(2, 11, 0)``; a release candidate counts as its release."""
    numbers = []
    for part in version.split('+')[0].split('.')[:3]:
        digits = ''.join(char if char.isdigit() else ' ' for char in part).split()
        numbers.append(int(digits[0]) if digits else 0)
    return tuple(numbers)
