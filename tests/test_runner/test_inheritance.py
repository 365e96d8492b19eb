"""Configs that MMEngine cannot merge: the line names the key and the form that works, and that form does."""

import pytest
from mmengine.config import Config

from ftsgd_plugin import config_path, method_part
from ftsgd_plugin.runner.build import merge_cfg_options, read_config
from ftsgd_plugin.utils.errors import UserError

STOCK = "'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k.py'"
IMPORTS = "custom_imports = dict(imports=['ftsgd_plugin'])\n"


def write(directory, text: str) -> str:
    (directory / 'child.py').write_text(text)
    return str(directory / 'child.py')


def test_a_dict_over_a_list_names_the_list_form(tmp_path):
    path = write(tmp_path, f"_base_ = {STOCK}\nparam_scheduler = dict(type='GradualUnfreezingLR', by_epoch=True)\n")
    with pytest.raises(UserError, match=r'child\.py: param_scheduler: .* write param_scheduler = \[dict\(\.\.\.\)\]'):
        read_config(path)


@pytest.mark.parametrize(
    'value', ["[dict(type='GradualUnfreezingLR')]", "dict(_delete_=True, type='GradualUnfreezingLR')"]
)
def test_the_forms_that_the_line_names_work(tmp_path, value):
    cfg = read_config(write(tmp_path, f'_base_ = {STOCK}\n{IMPORTS}param_scheduler = {value}\n'))
    found = cfg.param_scheduler
    assert (found if isinstance(found, dict) else found[0]).type == 'GradualUnfreezingLR'


@pytest.mark.parametrize('part', ['freeze-embed', 'sgd', 'gradual-unfreezing'])
def test_two_bases_with_a_shared_key_name_the_way(tmp_path, part):
    method = config_path(f'_base_/methods/{part}.py')
    path = write(tmp_path, f'_base_ = [{STOCK}, {method!r}]\n')
    with pytest.raises(UserError) as caught:
        read_config(path)
    line = str(caught.value)
    assert 'optim_wrapper, param_scheduler: two of its bases set it' in line and method in line and '\n' not in line
    call = f"optim_wrapper, param_scheduler = __import__('ftsgd_plugin').method_part({part!r})"
    assert f'set these keys in this file: {call}' in line
    cfg = read_config(write(tmp_path, f'_base_ = {STOCK}\n{IMPORTS}{call}\n'))
    own = Config.fromfile(method)
    assert cfg.optim_wrapper == own.optim_wrapper and cfg.param_scheduler == [own.param_scheduler]


def test_a_method_part_takes_a_rate_and_more_options():
    optim_wrapper, schedulers = method_part('gradual-unfreezing', lr=3e-5, layer_decay_rate=0.7)
    assert optim_wrapper['optimizer']['lr'] == 3e-5 and schedulers[0]['type'] == 'GradualUnfreezingLR'
    assert optim_wrapper['paramwise_cfg'] == dict(freeze='embed', layer_decay_rate=0.7)
    with pytest.raises(UserError, match=r'methods/freeze-embd\.py: no such config .*freeze-embed\.py'):
        method_part('freeze-embd')


def test_the_way_out_of_two_bases_works(tmp_path):
    text = f"_base_ = {STOCK}\n{IMPORTS}optim_wrapper = dict(constructor='FreezeEmbedOptimWrapperConstructor')\n"
    assert read_config(write(tmp_path, text)).optim_wrapper.optimizer.type == 'AdamW'


def test_other_mistakes_keep_their_reason(tmp_path):
    with pytest.raises(UserError, match='not a readable config'):
        read_config(write(tmp_path, "_base_ = 'absent.py'\n"))
    cfg = read_config(write(tmp_path, 'a = [1]\n'))
    with pytest.raises(UserError, match='--cfg-options: does not fit'):
        merge_cfg_options(cfg, 'child.py', {'a.3.b': 1})
