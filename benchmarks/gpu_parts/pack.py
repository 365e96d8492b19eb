"""The wheels that a GPU machine needs where it has torch, torchvision and timm, and no network."""

import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.format import format_bytes

from .networks import ROOT

PYTHON = '3.12'
LIMIT = 64 * 10**6  # bytes
# What the parts import beyond torch, torchvision, timm and what these need; the versions are those of requirements/.
PACKAGES = (
    'mmengine',
    'mmcv-lite',
    'mmpretrain',
    'open_clip_torch',
    'opencv-python-headless',  # its 5.x lacks what MMCV calls
    'addict',
    'einops',
    'flashoptim',
    'ftfy',
    'importlib-metadata',
    'lazy_loader',
    'markdown',
    'mat4py',
    'modelindex',
    'ordered-set',
    'packaging',
    'platformdirs',
    'regex',
    'rich',
    'setuptools',
    'termcolor',
    'tqdm',
    'wcwidth',
    'wrapt',
    'yapf',
    'zipp',
    'iniconfig',  # pytest, and what the tests import
    'pluggy',
    'psutil',
    'pygments',
    'pytest',
)
# pip takes exactly these tags of Linux wheels.
PLATFORMS = ('manylinux_2_28_x86_64', 'manylinux_2_17_x86_64', 'manylinux2014_x86_64', 'manylinux1_x86_64')


def pack(directory: Path, has: Iterable[str] = ()) -> None:
    """Download the wheels, and say their size.

    Args:
        directory: Where they go; other wheels in it are refused.
        has: Names of packages that the machine has already, at versions that work.

    Raises:
        UserError: They are larger than 64 MB, pip finds one of them nowhere, a name is unknown, or the directory
            holds others.
    """
    known = {canonicalize_name(name) for name in PACKAGES}
    left_out = {canonicalize_name(name) for name in has}
    if unknown := sorted(left_out - known):
        raise UserError(f'--has {unknown[0]}: is not packed anyway; the packages are {", ".join(sorted(known))}.')
    if any(directory.glob('*.whl')):
        raise UserError(f'{directory}: holds wheels already; name an empty directory.')
    wanted = [pin for name, pin in pins().items() if name in known - left_out]
    platforms = [word for platform in PLATFORMS for word in ('--platform', platform)]
    target = ['--only-binary=:all:', '--python-version', PYTHON, '--implementation', 'cp', *platforms]
    command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--disable-pip-version-check', '--no-deps', *target]
    if subprocess.run([*command, '--dest', str(directory), *wanted]).returncode:
        raise UserError(f'{directory}: pip cannot get every wheel (its message is above); correct the cause.')
    check_size(directory)


def pins() -> dict[str, str]:
    """``name==version`` of every package of ``requirements/`` for the machine's Python, by its canonical name."""
    found = {}
    for file in ('constraints.txt', 'pinned.txt', 'mim.txt'):
        for line in (ROOT / 'requirements' / file).read_text().splitlines():
            if re.match(r'[a-zA-Z]', line):
                requirement = Requirement(line.partition('#')[0])
                if requirement.marker is None or requirement.marker.evaluate({'python_version': PYTHON}):
                    found[canonicalize_name(requirement.name)] = f'{requirement.name}{requirement.specifier}'
    return found


def check_size(directory: Path) -> int:
    """Bytes of the wheels in a directory, which are printed.

    Raises:
        UserError: More than 64 MB; the message names the largest.
    """
    sizes = {wheel.name.partition('-')[0]: wheel.stat().st_size for wheel in directory.glob('*.whl')}
    total = sum(sizes.values())
    if total > LIMIT:
        largest = max(sizes, key=sizes.get)
        raise UserError(
            f'{directory}: {total / 1e6:.1f} MB of wheels, {LIMIT / 1e6:.0f} are allowed; the largest is {largest} '
            f'({format_bytes(sizes[largest])}): --has leaves out what the machine has.'
        )
    print(f'{directory}: {len(sizes)} wheels, {total / 1e6:.1f} MB of {LIMIT / 1e6:.0f}')
    return total
