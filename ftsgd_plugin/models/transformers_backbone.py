"""Vision models of Hugging Face ``transformers`` with pooled features (the extra ``hf``)."""

import difflib
from pathlib import Path

import torch
from mmengine.logging import print_log
from mmpretrain.registry import MODELS
from torch import nn

from ..checkpoint.compatibility import Misfit, summarise
from ..layers.transformers_models import classifiers
from ..utils.errors import UserError, one_line
from .base import PooledBackbone
from .pretrained import HubFile, fill, hub_answers, read_tensors, report_filled

_FILES = ('model.safetensors', 'pytorch_model.bin')
_NO_IMAGES = ('siglip2', 'timm_')  # takes patches of any number; wraps a network of timm
_AS_TYPE = {'vit_mae': 'vit'}  # its model masks patches at random; for features it is a ViT


@MODELS.register_module()
class TransformersBackbone(PooledBackbone):
    """A vision model of ``transformers``: the features that its own classification model classifies.

    That is the class token of a ViT, the class token and the mean of the patches of DINOv2, the mean of the patches of
    CLIP and SigLIP, the pooled map of a convnet. Models without a classification model (DINOv3) give their pooled
    output.

    Args:
        model_name (str): A directory with a ``config.json``, a repository of the hub (``'facebook/dinov2-small'``), or
            a type of model (``'vit'``, ``'swinv2'``), which is built from its default config.
        pretrained (bool | str): ``False`` (default); ``True``: from the directory or the repository; or a file, or a
            directory with one: safetensors or ``pytorch_model.bin``.
        channels_last, grad_checkpointing, compile: See :class:`PooledBackbone`.
        **kwargs: Keys of the model's config, such as ``image_size=64`` or ``num_hidden_layers=4``.

    Raises:
        UserError: ``transformers`` is not installed, the name is none of these, the config has no such key, or the
            model does not take images. When weights are loaded: the file is missing, truncated or of another model.

    Examples:
        >>> backbone = dict(type='TransformersBackbone', model_name='facebook/dinov2-small', pretrained=True)
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool | str = False,
        channels_last: bool = False,
        grad_checkpointing: bool = False,
        compile: bool | dict = False,
        **kwargs,
    ) -> None:
        config = _config(model_name, kwargs)
        net = _build(config)
        if grad_checkpointing:
            if not getattr(net, 'supports_gradient_checkpointing', False):
                raise UserError(f'grad_checkpointing=True: transformers cannot recompute activations of {model_name}.')
            net.gradient_checkpointing_enable(dict(use_reentrant=False))
        super().__init__(net, pretrained, channels_last, compile=compile)
        self.model_name = model_name

    def pool(self, output: object) -> torch.Tensor:
        """Features (B, C) from the output of the model."""
        for name in ('logits', 'pooler_output'):
            features = getattr(output, name, None)
            if isinstance(features, torch.Tensor):
                return features.flatten(1)
        raise UserError(f'{type(self.net).__name__} of transformers returns no pooled features.')

    def load_pretrained(self) -> None:
        """Fill every tensor from the repository, the directory or the file, with the names that transformers knows."""
        expected, on_hub = self._expected(), self.hub_file()
        place = Path(self.model_name if self.pretrained is True else self.pretrained).expanduser()
        path = on_hub.fetch() if on_hub else _weight_file(place, expected)
        tensors = {key: value.float() for key, value in read_tensors(path, expected).items()}
        fill(self.net, self._with_own_names(tensors, path, expected), path, expected)
        report_filled(self.net, self.model_name, path)

    def hub_file(self) -> HubFile | None:
        """The file of a repository on the Hugging Face hub."""
        if self.pretrained is not True or Path(self.model_name).expanduser().is_dir():
            return None
        if '/' not in self.model_name:
            raise UserError(
                f'pretrained=True: {self.model_name!r} is a type of model without weights; name a repository of '
                'the hub or a directory.'
            )
        command = f'hf download {self.model_name} {_FILES[0]}'
        return HubFile(self.model_name, self._expected(), self._download, command)

    def _expected(self) -> str:
        return f'the weights of {self.model_name} (model.safetensors)'

    def _with_own_names(self, tensors: dict[str, torch.Tensor], path: Path, expected: str) -> dict[str, torch.Tensor]:
        """What transformers makes of a file: other names in older files, a base model without its prefix."""
        wanted = list(self.net.state_dict())
        try:
            loaded, info = type(self.net).from_pretrained(
                None,
                config=self.net.config,
                state_dict=tensors,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=torch.float32,
            )
        except Exception as error:
            raise UserError(
                f'{path}: does not fit: {one_line(error, first=True, limit=200)}; expected {expected}.'
            ) from error
        for name, found, own in info['mismatched_keys']:
            if name in wanted:
                raise UserError(f'{path}: does not fit: {Misfit(name, tuple(found), tuple(own))}; expected {expected}.')
        if missing := [Misfit(name, None, None) for name in wanted if name in info['missing_keys']]:
            raise UserError(f'{path}: does not fit: {summarise(missing)}; expected {expected}.')
        if others := info['unexpected_keys']:
            print_log(f'{path}: {len(others)} tensors of other parts are left out (a pooler, a text tower).', 'current')
        return {name: value for name, value in loaded.state_dict().items() if name in wanted}

    def _download(self, local_only: bool) -> str:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return hf_hub_download(self.model_name, _FILES[0], local_files_only=local_only)
        except EntryNotFoundError:
            return hf_hub_download(self.model_name, _FILES[1], local_files_only=local_only)


def _weight_file(place: Path, expected: str) -> Path:
    files = [place / name for name in _FILES] if place.is_dir() else [place]
    for file in files:
        if file.is_file():
            return file
    raise UserError(f'{files[0]}: no such file; expected {expected}.')


def _config(name: str, changes: dict):
    """The config of a model, with changes."""
    try:
        from transformers import AutoConfig
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    except ImportError as error:
        raise UserError(
            f'TransformersBackbone needs transformers ({one_line(error, first=True)}); run: '
            "pip install 'ftsgd_plugin[hf]'"
        ) from error
    directory = Path(name).expanduser()
    if directory.is_dir():
        config = _read(directory / 'config.json')
    elif name in CONFIG_MAPPING:
        config = AutoConfig.for_model(name)
    elif name.count('/') == 1:
        config = _read(_fetch_config(name))
    else:
        close = difflib.get_close_matches(name, CONFIG_MAPPING, n=3)
        remedy = f'did you mean {" or ".join(close)}?' if close else 'see transformers.CONFIG_MAPPING for the types.'
        raise UserError(
            f'model_name={name!r}: neither a directory, a repository (OWNER/NAME) nor a type of model; {remedy}'
        )
    if config.model_type in _AS_TYPE:
        values = config.to_dict()
        config = AutoConfig.for_model(_AS_TYPE[config.model_type])
        config.update({key: values[key] for key in config.to_dict() if key in values and key != 'model_type'})
    target = getattr(config, 'vision_config', config)
    for key, value in changes.items():
        if not hasattr(target, key):
            close = difflib.get_close_matches(key, target.to_dict(), n=1)
            remedy = f'; did you mean {close[0]}?' if close else '.'
            raise UserError(f'{key}={value!r}: the config of a {config.model_type} has no such key{remedy}')
        setattr(target, key, value)
    return config


def _read(file: Path):
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(file.parent, local_files_only=True)
    except Exception as error:  # no file, no JSON, a type that this version does not know
        reason = one_line(error, first=True, limit=200)
        raise UserError(f'{file}: cannot be read as the config of a model of transformers ({reason}).') from error


def _fetch_config(name: str) -> Path:
    from huggingface_hub import hf_hub_download

    for local_only in (True, False):
        if not local_only and not hub_answers():
            break
        try:
            return Path(hf_hub_download(name, 'config.json', local_files_only=local_only))
        except Exception as error:  # not in the cache, no such repository; hubs raise many kinds
            reason = one_line(error, first=True, limit=200)
    else:
        raise UserError(f'model_name={name!r}: the hub has no config of that name ({reason}).')
    raise UserError(
        f'model_name={name!r}: its config is not in the cache and the hub cannot be reached; download the repository '
        'on a connected machine and set model_name to the directory.'
    )


def _build(config) -> nn.Module:
    from transformers import AutoModel, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING, MODEL_MAPPING

    classifies = type(config) in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING
    if (classifies or type(config) in MODEL_MAPPING) and not config.model_type.startswith(_NO_IMAGES):
        config.architectures = config.architectures or []
        try:
            net = (AutoModelForImageClassification if classifies else AutoModel).from_config(
                config, dtype=torch.float32
            )
        except (ImportError, TypeError, ValueError) as error:
            raise UserError(f'{config.model_type} cannot be built: {one_line(error, first=True, limit=200)}') from error
        if net.main_input_name == 'pixel_values':
            for child in classifiers(net):
                for name, layer in list(net.get_submodule(child).named_modules(prefix=child)):
                    if isinstance(layer, nn.Linear):
                        net.set_submodule(name, nn.Identity())
            return net
    raise UserError(
        f'{config.model_type}: its model in transformers does not take images of one size; use another '
        '(TimmPooledBackbone for timm_wrapper, repositories of type siglip for SigLIP 2).'
    )
