"""Data sets whose images are decoded on the network's device."""

from collections.abc import Mapping

from ..datasets.preprocessing import dataset_leaves
from ..records import LOADERS
from ..utils.errors import UserError
from ..utils.names import type_name


def prepare_device_decoding(cfg: Mapping) -> None:
    """Let loaders of encoded images collate them as a list: they are of different lengths.

    Args:
        cfg: The config, changed in place.

    Raises:
        UserError: Images are read encoded and the model does not decode them.
    """
    for name in LOADERS:
        loader = cfg.get(name)
        leaves = dataset_leaves(loader.get('dataset') if isinstance(loader, Mapping) else None)
        if not any(type_name(step) == 'ReadEncodedImage' for one in leaves for step in one.get('pipeline') or ()):
            continue
        preprocessor = (cfg.get('model') or {}).get('data_preprocessor') or {}
        if type_name(preprocessor) != 'DecodingPreprocessor':
            raise UserError(
                f"{name}: ReadEncodedImage needs model.data_preprocessor.type='DecodingPreprocessor' with steps, and "
                f'it is {type_name(preprocessor) or "ClsDataPreprocessor"}; set it, or use LoadRGBImage.'
            )
        loader['collate_fn'] = dict(type='pseudo_collate')
