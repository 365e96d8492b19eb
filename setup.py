"""Packaging. Metadata and requirement ranges live here; the pins of the development environment in requirements/."""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


class BuildWithConfigs(build_py):
    """Put ``configs`` and ``tools`` into the wheel as ``ftsgd_plugin/.mim``, where ``mim`` and ``config_path`` look.

    ``demo.sh`` and ``run_tests.sh`` stay out: they set up a checkout.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for folder in ('configs', 'tools'):
            target = Path(self.build_lib) / 'ftsgd_plugin/.mim' / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(
                ROOT / folder, target, ignore=shutil.ignore_patterns('__pycache__', 'demo.sh', 'run_tests.sh')
            )


setup(
    name='ftsgd_plugin',
    version=re.search(r"__version__ = '(.+)'", (ROOT / 'ftsgd_plugin/utils/version.py').read_text()).group(1),
    description='Fine-tune vision models with SGD: freeze-embed and its companions for MMPretrain',
    long_description=(ROOT / 'README.md').read_text(),
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['ftsgd_plugin', 'ftsgd_plugin.*']),
    package_data={'ftsgd_plugin': ['paper/*.csv', '*/templates/*', 'models/weights/*.safetensors', 'sweep/*.csv']},
    cmdclass={'build_py': BuildWithConfigs},
    # No MM package here: official wheels and forks own the same files, and no requirement can say "either".
    install_requires=[
        'torch>=2.1',
        'torchvision>=0.16',
        'timm>=1.0',
        'open_clip_torch>=2.24',
        'wilds>=2.0',
        'safetensors>=0.4',
        'numpy>=1.24',
        'pillow>=9.4',
        'pandas>=2.0',
        'matplotlib>=3.7',
        'jinja2>=3.1',
        'tabulate>=0.9',
    ],
    extras_require={
        'mim': ['mmengine>=0.10.7,<1.0', 'mmcv-lite>=2.0.1,<2.4', 'mmpretrain>=1.2.0,<2.0', 'setuptools<82'],
        'onedl': ['onedl-mmengine>=0.10.12', 'onedl-mmcv>=2.3.6', 'onedl-mmpretrain>=1.3.6'],
        'demo': ['scikit-learn>=1.3', 'scikit-image>=0.22', 'tqdm', 'ray>=2.9'],
        'sweep': ['ray>=2.9'],
        'test': ['build', 'pytest>=8.0', 'ruff'],
    },
)
