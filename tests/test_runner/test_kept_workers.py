"""Data workers that are kept between epochs end with the training, also where the process continues."""

import multiprocessing

from ftsgd_plugin.runner.run import train


def test_no_worker_is_left_and_the_runner_still_evaluates(digits_config, tmp_path):
    """Left to the garbage collector, each worker was waited for in vain: 5 s."""
    options = {'train_cfg.max_epochs': 1, 'train_dataloader.num_workers': 2, 'val_dataloader.num_workers': 1}
    cfg = digits_config('freeze-embed', 64, **options, **{'val_dataloader.dataset.datasets.0.indices': 32})
    cfg.dump(tmp_path / 'config.py')
    runner = train(str(tmp_path / 'config.py'))
    assert runner.train_loop.dataloader.persistent_workers and not multiprocessing.active_children()
    assert 'id/accuracy' in runner.val()
    runner.val_loop.dataloader._iterator._shutdown_workers()
