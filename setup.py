"""The one build step that pyproject.toml cannot state; the metadata and the requirements are in that file."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
CHECKOUT_ONLY = ('demo.sh', 'run_tests.sh', 'maintain')


class BuildWithConfigs(build_py):
    """Put ``configs`` and ``tools`` into the wheel as ``ftsgd_plugin/.mim``, where ``mim`` and ``config_path`` look.

    ``demo.sh`` and ``run_tests.sh`` set up a checkout, ``tools/maintain`` writes to one: they stay out.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for directory in ('configs', 'tools'):
            target = Path(self.build_lib) / 'ftsgd_plugin/.mim' / directory
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / directory, target, ignore=shutil.ignore_patterns('__pycache__', *CHECKOUT_ONLY))


setup(cmdclass={'build_py': BuildWithConfigs})
