"""Building a runner from a config."""

from pathlib import Path

import pytest
from mmengine.logging import MMLogger

from ftsgd_plugin.runner.build import build_runner, load_config, without_init_log
from ftsgd_plugin.utils.errors import UserError


def messages(model, caplog) -> list[str]:
    """What MMEngine logs about the initialisation of each parameter."""
    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    model._is_init = False
    for module in model.modules():
        module._is_init = False
    model.init_weights()
    logger.removeHandler(caplog.handler)
    return [record.getMessage() for record in caplog.records if 'backbone.cls_token - ' in record.getMessage()]


def test_init_log_is_left_out_until_undone(vit, caplog):
    model = vit()
    with without_init_log(model):
        assert not messages(model, caplog)
    assert len(messages(model, caplog)) == 1


@pytest.mark.parametrize('loop', ['train', 'val', 'test'])
def test_runner_leaves_the_init_log_out_and_restores_the_model(digits_config, loop):
    runner = build_runner(digits_config('freeze-embed', 32, launcher='none'))
    runner._hooks = [hook for hook in runner.hooks if type(hook).__module__ == 'ftsgd_plugin.runner.build']
    runner.call_hook(f'before_{loop}')  # a loop may run by itself, as that of WiSE-FT does
    runner.call_hook('before_run')
    assert '_dump_init_info' in vars(runner.model)
    runner.call_hook(f'before_{loop}')
    assert '_dump_init_info' not in vars(runner.model)


def test_one_process_without_launcher_says_that_it_is_not_sharded(digits_config):
    wrapper = dict(type='ShardedDataParallel', mixed_precision='bfloat16')
    runner = build_runner(digits_config('freeze-embed', 32, launcher='none', model_wrapper_cfg=wrapper))
    (log,) = Path(runner.log_dir).glob('*.log')
    assert 'a process without launcher is not sharded' in log.read_text()


@pytest.mark.parametrize('loop', ['val', 'test'])
def test_misspelt_split_of_either_evaluator_is_found_without_a_hook(digits_config, loop):
    """Also the test's before a training, which does not build it."""
    cfg = digits_config(launcher='none', custom_hooks=[], **{f'{loop}_evaluator.ood': 'tset'})
    with pytest.raises(UserError, match=rf"^{loop}_evaluator\.ood: split 'tset' is not in {loop}_dataloader"):
        build_runner(cfg)


def test_options_take_precedence_over_the_config_and_the_config_over_defaults(digits_config, tmp_path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    path = tmp_path / 'name.py'
    digits_config('freeze-embed', work_dir=None).dump(path)
    defaults = dict(batch_size=7, drop_last=True)
    cfg = load_config(str(path), defaults, cfg_options={'train_dataloader.num_workers': 3}, launcher='pytorch')
    assert cfg.work_dir == './work_dirs/name' and cfg.launcher == 'pytorch'
    assert cfg.train_dataloader.batch_size != 7 and cfg.train_dataloader.drop_last
    assert cfg.train_dataloader.num_workers == 3 and cfg.train_dataloader.pin_memory is False
    assert load_config(str(path), {}, work_dir='elsewhere').work_dir == 'elsewhere'
