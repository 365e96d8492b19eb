"""A missing, broken or unsupported requirement is one line with the command that fixes it."""

import importlib.metadata
import re
import sys

import pytest

from ftsgd_plugin.utils import environment, version
from ftsgd_plugin.utils.environment import StackError, check_stack, explain_import_errors, import_failure
from ftsgd_plugin.utils.errors import UserError

OFFICIAL = (
    r"pip install 'mmengine>=0\.10\.7,<1\.0' 'mmcv-lite>=2\.0\.1,<2\.4' 'mmpretrain>=1\.2\.0,<2\.0' 'setuptools<82'"
)
FORKS = (  # never mmcv-lite with its requirements: it would bring the official mmengine
    r"pip install 'onedl-mmengine>=0\.10\.12' 'onedl-mmpretrain>=1\.3\.6' && "
    r"pip install --no-deps 'mmcv-lite>=2\.0\.1,<2\.4'"
)
REQUIRES = [  # as pip records pyproject.toml
    'torch>=2.1',
    'open_clip_torch>=2.32',
    'tomli>=2.0; python_version < "3"',
    'mmengine<1.0,>=0.10.7; extra == "mim"',
    'mmcv-lite<2.4,>=2.0.1; extra == "mim"',
    'mmpretrain<2.0,>=1.2.0; extra == "mim"',
    'setuptools<82; extra == "mim"',
    'onedl-mmengine>=0.10.12; extra == "onedl"',
    'onedl-mmpretrain>=1.3.6; extra == "onedl"',
    'ray>=2.9; extra == "sweep"',
]


@pytest.fixture
def installed(monkeypatch):
    """Replace what is installed: ``installed(torch='2.1', mmcv=None)``; ``None`` for a missing distribution."""
    versions = {'torch': '2.11.0+cu130', 'open_clip_torch': '3.3.0', 'mmengine': '0.10.7', 'mmcv-lite': '2.2.0'}
    versions['mmpretrain'] = '1.2.0'

    def version_of(name):
        if versions.get(name) is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    def replace(**found):
        versions.update({name.replace('__', '-'): value for name, value in found.items()})

    monkeypatch.setattr(importlib.metadata, 'version', version_of)
    monkeypatch.setattr(importlib.metadata, 'requires', lambda name: REQUIRES)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    monkeypatch.setattr(environment, 'checkout_project', lambda: None)
    environment._requirements.cache_clear()
    yield replace
    environment._requirements.cache_clear()


def test_this_environment_passes():
    check_stack()


@pytest.mark.parametrize(
    'found, message',
    [
        (dict(mmengine=None), rf'needs mmengine>=0\.10\.7,<1\.0 and it is not installed; run: {OFFICIAL}$'),
        (dict(mmengine='0.9.1'), rf'needs mmengine>=0\.10\.7,<1\.0 and found 0\.9\.1; run: {OFFICIAL}$'),
        (dict(mmpretrain='2.0.0'), r'needs mmpretrain>=1\.2\.0,<2\.0 and found 2\.0\.0'),
        (dict(mmcv__lite=None, mmcv='1.7.2'), r'needs mmcv>=2\.0\.1,<2\.4 and found 1\.7\.2'),
        (dict(torch='1.13.1+cu117'), r"needs torch>=2\.1 and found 1\.13\.1\+cu117; run: pip install 'torch>=2\.1'$"),
        (dict(open_clip_torch=None), r"needs open_clip>=2\.32 .* run: pip install 'open_clip_torch>=2\.32'$"),
        (
            dict(mmengine=None, onedl__mmengine='0.10.9'),
            rf'needs mmengine>=0\.10\.12 and found 0\.10\.9; run: {FORKS}$',
        ),
        (
            dict(mmcv__lite=None, mmengine=None, onedl__mmengine='0.10.12'),
            rf'needs mmcv>=2\.0\.1,<2\.4 and it is not installed; run: {FORKS}$',
        ),
    ],
)
def test_unfit_version_is_one_line_with_the_command(installed, found, message):
    installed(**found)
    with pytest.raises(StackError, match=message) as caught:
        check_stack()
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize(
    'found',
    [
        dict(mmengine='0.10.12'),
        dict(mmengine='0.11.0rc3'),
        dict(mmcv__lite=None, mmcv='2.2.0'),
        dict(mmengine=None, onedl__mmengine='0.10.12', mmpretrain=None, onedl__mmpretrain='1.3.6'),
    ],
)
def test_newer_and_forked_packages_pass(installed, found):
    installed(**found)
    check_stack()


def test_package_without_metadata_is_taken_to_work(installed, monkeypatch):
    installed(torch=None)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: object())
    check_stack()


PROJECT = """
[project]
name = "ftsgd_plugin"
version = "7.8.9"
dependencies = ["torch>=9"]

[project.optional-dependencies]
mim = ["mmengine>=0.10.7,<1.0", "setuptools<82; python_version < '3'"]
sweep = ["ray>=2.9"]
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason='tomllib came with Python 3.11')
def test_checkout_is_checked_by_its_own_requirements(installed, monkeypatch):
    """The metadata beside it may be those of an older version."""
    monkeypatch.setattr(environment, 'checkout_project', lambda: PROJECT)
    assert [str(requirement) for requirement in environment._declared()] == [
        'torch>=9',
        'mmengine<1.0,>=0.10.7; extra == "mim"',
        'setuptools<82; python_version < "3" and extra == "mim"',
        'ray>=2.9; extra == "sweep"',
    ]
    with pytest.raises(StackError, match=r"needs torch>=9 and found 2\.11\.0\+cu130; run: pip install 'torch>=9'$"):
        check_stack()


@pytest.mark.parametrize(
    'text, expected',
    [
        (PROJECT, '7.8.9'),
        ('[project]\nname = "around"\nversion = "7.8.9"\n', '0.0.1'),
        (None, '0.0.1'),
    ],
    ids=['checkout', 'within another project', 'installed'],
)
def test_version_is_that_of_the_running_code(tmp_path, monkeypatch, text, expected):
    monkeypatch.setattr(importlib.metadata, 'version', lambda name: '0.0.1')
    monkeypatch.setattr(version, '_PROJECT', tmp_path / 'pyproject.toml')
    if text is not None:
        (tmp_path / 'pyproject.toml').write_text(text)
    assert version._version() == expected


def test_checkout_without_metadata_is_not_checked(installed, monkeypatch):
    def requires(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'requires', requires)
    installed(torch='1.0')
    check_stack()


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """Import a package whose ``__init__.py`` holds ``text``; return the exception."""

    def fail(name: str, text: str) -> Exception:
        (tmp_path / f'{name}.py').write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        for module in [module for module in sys.modules if module.split('.')[0] == name]:
            monkeypatch.delitem(sys.modules, module)
        with pytest.raises(Exception) as caught:
            __import__(name)
        return caught.value

    return fail


@pytest.mark.parametrize(
    'name, text, message',
    [
        (
            'torch',
            'raise OSError("libc10.so: not there")',
            r'torch and cannot import it \(libc10\.so: not there\); run: ',
        ),
        ('mmpretrain', 'assert False, "MMCV==1.7 is used\\nbut"', rf'\(MMCV==1\.7 is used but\); run: {OFFICIAL}'),
        (
            'cv2',
            'raise ImportError("libGL.so.1")',
            r'run: pip uninstall -y opencv-python && pip install opencv-python-h',
        ),
    ],
)
def test_broken_import_is_one_line_with_the_command(installed, broken, name, text, message):
    failure = import_failure(broken(name, text))
    assert str(failure).startswith(f'ftsgd_plugin needs {name} and cannot import it (')
    assert re.search(message, str(failure)) and '\n' not in str(failure)


@pytest.fixture
def no_open_clip(installed, monkeypatch) -> ModuleNotFoundError:
    """open_clip is not installed: the exception of its import."""
    installed(open_clip_torch=None)
    monkeypatch.setitem(sys.modules, 'open_clip', None)
    return ModuleNotFoundError("No module named 'open_clip'", name='open_clip')


def test_failed_custom_import_is_explained_by_its_cause(installed, no_open_clip):
    error = ImportError('Failed to import ftsgd_plugin')
    error.__context__ = no_open_clip
    assert 'needs open_clip>=2.32 and it is not installed' in str(import_failure(error))


def test_missing_submodule_of_an_imported_package_is_not_explained(installed):
    assert import_failure(ModuleNotFoundError("No module named 'torch.no'", name='torch.no')) is None


@pytest.mark.parametrize('name, text', [('mine', 'raise OSError("disk")'), ('mine', 'import no_such_package')])
def test_other_imports_are_not_explained(installed, broken, name, text):
    assert import_failure(broken(name, text)) is None


def test_explained_error_has_no_chain(no_open_clip):
    @explain_import_errors
    def use():
        raise no_open_clip

    with pytest.raises(StackError) as caught:
        use()
    assert caught.value.__cause__ is None and caught.value.__suppress_context__

    @explain_import_errors
    def refuse():
        raise UserError('no')

    with pytest.raises(UserError):
        refuse()
