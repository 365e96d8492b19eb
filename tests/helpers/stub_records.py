"""Records that trainings of a sweep could leave, without training."""

import random

from ftsgd_plugin.records import RunRecord, code_version
from ftsgd_plugin.sweep.runs import Task


def record_of(task: Task) -> RunRecord:
    """A finished record of a task; its accuracies are a function of the run's name and the epoch."""
    numbers = random.Random(task.run.name)
    epochs = [
        {key: numbers.random() for key in ('id/accuracy', 'ood/accuracy', 'ood/worst_group')}
        for _ in range(task.config.train_cfg.max_epochs)
    ]
    best = max(range(len(epochs)), key=lambda epoch: epochs[epoch]['id/accuracy'])
    run = task.run
    return RunRecord(
        run.model, run.method, run.dataset, run.lr, run.seed, task.hash, 'finished', epochs, best, code=code_version(),
        environment=dict(processes=1),
        resources=dict(
            seconds=4.0, peak_bytes=1e6, state_bytes=4 * 301_314, parameters=313_666, trained_parameters=301_314,
        ),
        started='2026-01-01T00:00:00+00:00', finished='2026-01-01T00:01:00+00:00',
    )  # fmt: skip
