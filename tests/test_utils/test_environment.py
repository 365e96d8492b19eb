"""One clear line at import when the stack is missing, broken or of the wrong age."""

import importlib
import types

import pytest

from ftsgd_plugin.utils import environment as stack


@pytest.fixture
def installed(monkeypatch):
    """Replace what is installed: name -> version, or an exception that importing raises."""

    def replace(**found):
        def import_module(name):
            answer = found.get(name)
            if isinstance(answer, Exception):
                raise answer
            if isinstance(answer, str):
                return types.SimpleNamespace(__version__=answer)
            return importlib.__import__(name)

        monkeypatch.setattr(stack.importlib, 'import_module', import_module)

    return replace


def test_this_stack_passes():
    stack.check_stack()


@pytest.mark.parametrize(
    'found, message',
    [
        (
            dict(mmengine=ModuleNotFoundError("No module named 'mmengine'")),
            r"ftsgd_plugin needs mmengine and cannot import it \(No module named 'mmengine'\); "
            r"run: pip install 'mmengine>=0\.10\.7,<1\.0' 'mmcv-lite>=2\.0\.1,<2\.4' 'mmpretrain>=1\.2\.0,<2\.0'",
        ),
        (dict(mmpretrain=AssertionError('MMCV==1.7 is used\nbut incompatible')), 'MMCV==1.7 is used but incompatible'),
        (dict(mmengine='0.9.1'), r"needs mmengine>=0\.10\.7,<1\.0\.0 and found 0\.9\.1; run: pip install 'mmengine>=0"),
        (dict(mmpretrain='2.0.0'), r'needs mmpretrain>=1\.2\.0,<2\.0\.0 and found 2\.0\.0'),
        (dict(torch='1.13.1+cu117'), r'needs torch>=2\.1\.0 and found 1\.13\.1'),
        (dict(timm=ModuleNotFoundError("No module named 'timm'")), r"run: pip install 'timm>=1\.0'"),
        (
            dict(mmcv=ImportError('libGL.so.1: cannot open shared object file: No such file')),
            r'libGL\.so\.1.*run: pip uninstall -y opencv-python && pip install opencv-python-headless',
        ),
    ],
)
def test_unfit_stack_is_one_line_with_the_command(installed, found, message):
    installed(**found)
    with pytest.raises(ImportError, match=message) as caught:
        stack.check_stack()
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('version', ['0.10.7', '0.10.12', '0.11.0rc3'])
def test_newer_and_forked_mmengine_pass(installed, version):
    installed(mmengine=version)
    stack.check_stack()
