"""What ``import ftsgd_plugin`` imports, and that its components reach MMPretrain's registries in every order."""

import json
import sys

import pytest
from helpers import ROOT, run_process

import ftsgd_plugin

HEAVY = ('timm', 'open_clip', 'huggingface_hub', 'pandas', 'matplotlib', 'sklearn', 'skimage', 'scipy', 'wilds', 'ray')
LOOKUPS = """
from mmengine.registry import MODEL_WRAPPERS as ROOT_WRAPPERS
from mmpretrain.registry import *
for registry, name in (
    (DATASETS, 'Waterbirds'), (HOOKS, 'LayerGradNormHook'), (LOOPS, 'ResumableEpochTrainLoop'),
    (METRICS, 'GroupAccuracy'), (MODELS, 'TimmPooledBackbone'), (OPTIM_WRAPPERS, 'SGDInBackwardOptimWrapper'),
    (OPTIM_WRAPPER_CONSTRUCTORS, 'FreezeEmbedOptimWrapperConstructor'), (PARAM_SCHEDULERS, 'GradualUnfreezingLR'),
    (TRANSFORMS, 'LoadRGBImage'), (ROOT_WRAPPERS, 'InBackwardDataParallel'),
):
    found = registry.get(name)
    assert found is not None and found.__module__.startswith('ftsgd_plugin.'), name
"""
CHECKPOINT = """
import io, torch
from mmengine.logging import HistoryBuffer
buffer = io.BytesIO()
torch.save(HistoryBuffer([1.0], [1]), buffer)
buffer.seek(0)
assert isinstance(torch.load(buffer, weights_only=True), HistoryBuffer)
"""


# What the Runner does: the root registry looks in the registries of the config's default scope.
DEFAULT_SCOPE = """
from mmengine.registry import TRANSFORMS, init_default_scope
init_default_scope("mmpretrain")
TRANSFORMS.build(dict(type="LoadRGBImage"))
"""
ORDERS = {
    'ours first': f'import ftsgd_plugin, mmpretrain{DEFAULT_SCOPE}',
    'after a lookup': 'import ftsgd_plugin; from mmengine.registry import MODEL_WRAPPERS; MODEL_WRAPPERS.get("no")',
    'MMEngine first': 'import mmengine, ftsgd_plugin',
    'module that imports the runner': 'import ftsgd_plugin.checkpoint.io; from ftsgd_plugin import list_layers',
    'custom_imports': 'from mmengine.config import Config; Config.fromfile("own.py")',
}
MODULES = 'import sys; print(*{name.split(".")[0] for name in sys.modules})'
PROGRAMS = {
    **{name: f'{order}\n{LOOKUPS}{CHECKPOINT}' for name, order in ORDERS.items()},
    'checkpoint alone': f'import ftsgd_plugin, mmengine.runner\n{CHECKPOINT}',
    'beside MMPretrain': 'import time, mmengine.runner, mmpretrain.models, mmpretrain.datasets, mmpretrain.evaluation\n'
    f'{MODULES}\nstart = time.process_time()\nimport ftsgd_plugin\nend = time.process_time()\n{MODULES}\n'
    'print(STACK_SECONDS, end - start)',
}
# Runs each program in a fork of one process that has imported all that MMPretrain imports and has forgotten the MM
# packages.
FORKS = """
import json, os, sys, time, traceback
import mmengine.runner, mmpretrain.models, mmpretrain.datasets, mmpretrain.evaluation
stack_seconds = time.process_time()
for module in [name for name in sys.modules if name.split('.')[0] in ('mmengine', 'mmcv', 'mmpretrain')]:
    del sys.modules[module]
for name, program in json.load(open("programs.json")).items():
    read, write = os.pipe()
    if os.fork() == 0:
        os.dup2(write, 1), os.dup2(write, 2)
        try:
            exec(program, {"__name__": "__main__", "STACK_SECONDS": stack_seconds})
            code = 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)
    os.close(write)
    output = open(read).read()
    print(json.dumps([name, os.waitstatus_to_exitcode(os.wait()[1]), output]), flush=True)
"""


@pytest.fixture(scope='module')
def programs(tmp_path_factory):
    """Exit code and output of every one of :data:`PROGRAMS`, each in a process without MMEngine."""
    directory = tmp_path_factory.mktemp('programs')
    (directory / 'own.py').write_text("custom_imports = dict(imports=['ftsgd_plugin'])\n")
    (directory / 'programs.json').write_text(json.dumps(PROGRAMS))
    result = run_process(sys.executable, '-W', 'ignore', '-c', FORKS, cwd=directory, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    return {name: (code, output) for name, code, output in map(json.loads, result.stdout.splitlines())}


@pytest.mark.parametrize('name', PROGRAMS)
def test_components_are_registered_in_every_order_of_imports(programs, name):
    code, output = programs[name]
    assert code == 0, output


def test_import_beside_mmpretrain_is_light(programs):
    """No library that one model or one page needs."""
    before, after = ({*line.split()} for line in programs['beside MMPretrain'][1].splitlines()[-3:-1])
    assert 'ftsgd_plugin' in after and not {*HEAVY} & (after - before)


def test_import_beside_mmpretrain_takes_a_fraction_of_its_time(programs):
    """At most 0.3 s of CPU time where the stack takes 3 s; the ratio does not depend on the machine."""
    stack, ours = map(float, programs['beside MMPretrain'][1].splitlines()[-1].split())
    assert ours < 0.1 * stack


def test_import_alone_loads_no_torch(tmp_path):
    names = 'import ftsgd_plugin\nfrom ftsgd_plugin import UserError, __version__, config_path, read_record\n'
    result = run_process(sys.executable, '-c', names + MODULES, cwd=tmp_path, PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stderr
    assert not {'torch', 'mmengine', 'mmcv', 'mmpretrain', 'numpy', *HEAVY} & {*result.stdout.split()}


def test_public_names_are_found_and_listed():
    for name in ftsgd_plugin.__all__:
        assert getattr(ftsgd_plugin, name) is not None
    assert {'list_layers', 'freeze_layers', 'config_path', '__version__'} <= {*dir(ftsgd_plugin)}
    with pytest.raises(AttributeError):
        ftsgd_plugin.no_such_name  # noqa: B018


def test_every_registered_class_is_a_public_name():
    from mmengine.registry import MODEL_WRAPPERS
    from mmpretrain import registry

    from ftsgd_plugin.registration import REGISTRIES

    registered = {
        name
        for holder in (*(getattr(registry, name) for name in REGISTRIES), MODEL_WRAPPERS)
        for name, component in holder.module_dict.items()
        if component.__module__.startswith('ftsgd_plugin.')
    }
    assert len(registered) > 20 and registered <= {*ftsgd_plugin.__all__}
