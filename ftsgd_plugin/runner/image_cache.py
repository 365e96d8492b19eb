"""``image_cache`` of a config: one key for all of its data sets."""

from collections.abc import Mapping

from mmengine.registry import DATASETS

from ..datasets.preprocessing import dataset_leaves
from ..records import LOADERS
from ..utils.errors import UserError
from ..utils.names import type_name
from .config_sites import find_type
from .signatures import accepted

KEY = 'image_cache'


def hand_on_image_cache(cfg: Mapping) -> list[str]:
    """Give every data set of a config that has no ``image_cache`` of its own that of the config.

    Args:
        cfg: The config; its data sets are changed in place.

    Returns:
        list[str]: What to warn of: kinds of data sets that have no such cache.

    Raises:
        UserError: The value is neither ``True``, ``False``, ``None`` nor text.
    """
    place = cfg.get(KEY)
    if not isinstance(place, bool | str | None):
        raise UserError(f'{KEY}={place!r} is neither True nor a directory; correct it.')
    if not place:
        return []
    warnings = {}
    for name in LOADERS:
        loader = cfg.get(name)
        for dataset in dataset_leaves(loader.get('dataset') if isinstance(loader, Mapping) else None):
            if not dataset.get('type'):
                continue  # found by the check of the config
            scope = dataset.get('_scope_') or cfg.get('default_scope') or 'mmengine'
            target = find_type(dataset['type'], DATASETS, f'{name}.dataset', scope)
            if KEY in accepted(target).parameters:
                dataset.setdefault(KEY, place)
            else:
                kind = type_name(dataset)
                warnings[kind] = f'image cache: {name}: {kind} has none; its images are read from their files'
    return list(warnings.values())
