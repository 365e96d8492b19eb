"""Schedules in files: a config holds what they say, so that its copy, its hash and its record do."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.config import Config

from ..optim.schedule_document import is_file, locate, read_document


def embed_schedules(cfg: Config) -> None:
    """Replace the files that ``param_scheduler.schedule`` names by their content.

    A file is looked for by its path, then beside the config.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: A file does not exist or is not a schedule.
    """
    beside = [Path(cfg.filename).parent] if cfg.filename else []
    for scheduler in _schedulers(cfg.get('param_scheduler')):
        if is_file(scheduler.get('schedule')):
            file = locate(scheduler['schedule'], beside)
            scheduler['schedule'] = read_document(file, 'param_scheduler.schedule')


def _schedulers(value: object) -> Iterator[dict]:
    """The schedulers of one optimizer or several, at any depth of lists and dicts by optimizer."""
    if isinstance(value, Mapping):
        if 'type' in value:
            yield value
        else:
            for item in value.values():
                yield from _schedulers(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _schedulers(item)
