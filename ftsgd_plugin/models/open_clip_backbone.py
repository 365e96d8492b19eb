"""CLIP's vision tower from open_clip, without the text tower."""

from pathlib import Path
from types import SimpleNamespace

import torch
from mmpretrain.registry import MODELS

from ..utils.errors import UserError
from .base import PooledBackbone
from .pretrained import HubFile, fill, local_file, read_tensors, report_filled

_FILE = 'open_clip_model.safetensors'  # in the repositories of open_clip


@MODELS.register_module()
class OpenCLIPVisionTower(PooledBackbone):
    """CLIP's image features after the projection, not normalised to unit length, as in the paper's code.

    Args:
        model_name (str): open_clip's name, e.g. ``'ViT-B-16-quickgelu'`` (OpenAI's weights need quick-GELU).
        pretrained (bool | str): ``False`` (default), ``True`` or a file: OpenAI's TorchScript archive
            (``ViT-B-16.pt``), safetensors, or open_clip's ``.bin``/``.pt``. Half-precision weights become float32.
        tag (str): open_clip's tag of the weights for ``pretrained=True``. Defaults to ``'openai'``.
        image_size (int, optional): Input resolution in pixels, if not the model's; position embeddings are interpolated
            by open_clip when weights are loaded.
        vision_cfg (dict, optional): Overrides of open_clip's ``vision_cfg``, such as ``patch_dropout``.
        channels_last, grad_checkpointing, compile: See :class:`PooledBackbone`.

    Raises:
        UserError: open_clip has no such model. When weights are loaded: the file is missing, truncated or of another
            model.

    Examples:
        >>> backbone = dict(type='OpenCLIPVisionTower', model_name='ViT-B-16-quickgelu', pretrained='ViT-B-16.pt')
    """

    def __init__(
        self,
        model_name: str,
        pretrained: bool | str = False,
        tag: str = 'openai',
        image_size: int | None = None,
        vision_cfg: dict | None = None,
        channels_last: bool = False,
        grad_checkpointing: bool = False,
        compile: bool | dict = False,
    ) -> None:
        import open_clip  # imports timm and huggingface_hub
        from open_clip.model import _build_vision_tower

        cfg = open_clip.get_model_config(model_name)
        if cfg is None:
            known = ', '.join(name for name in open_clip.list_models() if name.endswith('quickgelu')) or 'none'
            raise UserError(f'model_name={model_name!r}: open_clip has no such model; with quick-GELU: {known}.')
        own_size = {} if image_size is None else {'image_size': image_size}
        # Private, because open_clip has no public way to build one tower.
        net = _build_vision_tower(
            cfg['embed_dim'], {**cfg['vision_cfg'], **own_size, **(vision_cfg or {})}, cfg.get('quick_gelu', False)
        )
        super().__init__(net, pretrained, channels_last, grad_checkpointing, compile)
        self.model_name, self.tag = model_name, tag
        self.native_size = cfg['vision_cfg']['image_size']

    def load_pretrained(self) -> None:
        """Fill every tensor of the vision tower from the hub's file or the local one."""
        expected, on_hub = self._expected(), self.hub_file()
        path = on_hub.fetch() if on_hub else local_file(self.pretrained, expected)
        tensors = read_tensors(path, expected)
        visual = {key: value.float() for key, value in tensors.items() if key.startswith('visual.')}
        if not visual:
            raise UserError(f'{path}: holds no visual.* tensors; expected {expected}.')
        self._interpolate(visual, path, expected)
        fill(self.net, {key.removeprefix('visual.'): value for key, value in visual.items()}, path, expected)
        report_filled(self.net, f'{self.model_name} {self.tag}', path)

    def hub_file(self) -> HubFile | None:
        """open_clip's file on the Hugging Face hub, or at OpenAI."""
        import open_clip

        if self.pretrained is not True:
            return None
        source = open_clip.get_pretrained_cfg(self.model_name, self.tag)
        if not source:
            tags = ', '.join(open_clip.list_pretrained_tags_by_model(self.model_name)) or 'none'
            raise UserError(f'tag={self.tag!r}: open_clip has no such weights for {self.model_name}; tags: {tags}.')
        repository = _repository(source)
        command = f'hf download {repository} {_FILE}' if repository else f'curl -LO {source.get("url")}'
        name = f'{self.model_name} {self.tag}'
        return HubFile(name, self._expected(), lambda local_only: self._download(source, local_only), command)

    def _expected(self) -> str:
        import open_clip

        source = open_clip.get_pretrained_cfg(self.model_name, self.tag)
        place = source.get('url') or source.get('hf_hub') or 'open_clip'
        return f'the {self.tag} weights of {self.model_name} ({place})'

    def _interpolate(self, visual: dict[str, torch.Tensor], path: Path, expected: str) -> None:
        """Fit position embeddings of the model's native resolution to this tower's grid, in place."""
        position = visual.get('visual.positional_embedding')
        if position is None or position.shape == self.net.positional_embedding.shape:
            return
        native = (self.native_size // self.net.patch_size[0]) ** 2 + 1
        if tuple(position.shape) != (native, self.net.positional_embedding.shape[1]):
            raise UserError(
                f'{path}: does not fit: positional_embedding is {tuple(position.shape)} instead of '
                f'{tuple(self.net.positional_embedding.shape)}; expected {expected}.'
            )
        from open_clip.model import resize_pos_embed

        resize_pos_embed(visual, SimpleNamespace(visual=self.net))

    @staticmethod
    def _download(source: dict, local_only: bool) -> str:
        from huggingface_hub import hf_hub_download

        if repository := _repository(source):
            return hf_hub_download(repository, _FILE, local_files_only=local_only)
        if local_only:
            raise FileNotFoundError(f'{source} is not on the hub')
        import open_clip

        return open_clip.download_pretrained(source)


def _repository(source: dict) -> str:
    """The repository on the hub; ``''`` for weights that are elsewhere."""
    repository = (source.get('hf_hub') or '').rstrip('/')
    return repository if repository.count('/') == 1 else ''
