"""A run as a timm model with a classifier: the same network, or one whose parameters map by name."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ...datasets.preprocessing import Preprocessing
from ...utils.errors import UserError
from ...utils.names import type_name
from ..run import FinishedRun
from .target import input_size, last_linear, plain

_OPTIONS_OF_OURS = ('type', 'pretrained', 'channels_last', 'grad_checkpointing', 'compile', '_scope_')


@dataclass(frozen=True)
class TimmTwin:
    """How timm builds the network of a run.

    Attributes:
        name: timm's name.
        args: Arguments of ``timm.create_model`` that reproduce the architecture.
        state: Parameters and buffers by timm's names, without the classifier.
        projection: A matrix (features, projected) between the pooled features and the run's head, or ``None``.
        has_classifier: Whether ``state`` has the classifier too.
    """

    name: str
    args: dict
    state: dict[str, torch.Tensor]
    projection: torch.Tensor | None = None
    has_classifier: bool = False


def fits_timm(run: FinishedRun) -> bool:
    """Whether :func:`as_timm` knows the network."""
    kind = type_name(run.cfg.model.get('backbone') or run.cfg.model)
    if kind == 'TimmClassifier':
        return True
    if kind not in _TWINS or last_linear(run) is None:
        return False
    neck = getattr(run.model, 'neck', None)
    if (neck is None) == (kind in _POOLED_BY_A_NECK) or type_name(type(neck)) not in (
        'NoneType',
        'GlobalAveragePooling',
    ):
        return False
    return kind not in _CONDITIONS or _CONDITIONS[kind](run.model.backbone)


def as_timm(run: FinishedRun) -> tuple[nn.Module, dict]:
    """Build the run's network with timm, classifier and preprocessing included.

    Args:
        run: A run for which :func:`fits_timm`.

    Returns:
        tuple: The model in eval mode, and the arguments that ``timm.create_model`` needs beside name and classes.

    Raises:
        UserError: timm builds the network with a classifier differently than without.
    """
    import timm

    twin = _TWINS[type_name(run.cfg.model.get('backbone') or run.cfg.model)](run)
    overlay = {**timm_data(run)[0], 'test_input_size': None, 'test_crop_pct': None}
    net = timm.create_model(
        twin.name, pretrained=False, num_classes=len(run.classes), pretrained_cfg_overlay=overlay, **twin.args
    )
    missing, unexpected = net.load_state_dict(twin.state, strict=False)
    classifiers = [] if twin.has_classifier else list(_classifiers(net))
    left = set(missing) - {f'{path}.{kind}' for path, _ in classifiers for kind in ('weight', 'bias')}
    if left or unexpected or not (classifiers or twin.has_classifier):
        raise UserError(
            f'{run.cfg.filename}: timm builds {twin.name} differently with a classifier '
            f'({next(iter([*left, *unexpected]), "no classifier")}); export to onnx, torch-export or mmpretrain.'
        )
    for path, module in classifiers:
        _fill(path, module, run, twin)
    return net.eval(), twin.args


def _classifiers(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Name and module of what timm calls the classifier; distilled networks have two, whose logits they average."""
    found = net.get_classifier()
    found = found if isinstance(found, tuple | list) else (found,)
    names = {id(module): name for name, module in net.named_modules()}
    yield from ((names[id(module)], module) for module in found)


def _fill(path: str, module: nn.Module, run: FinishedRun, twin: TimmTwin) -> None:
    linear = last_linear(run)
    weight = linear.weight if twin.projection is None else linear.weight @ twin.projection.T
    pointwise = isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    if not (isinstance(module, nn.Linear) or pointwise) or module.bias is None or linear.bias is None:
        raise UserError(
            f'{run.cfg.filename}: the classifier of timm {twin.name} ({path}) is a {type(module).__name__}, not a '
            'linear layer with a bias; export to onnx, torch-export or mmpretrain.'
        )
    with torch.no_grad():
        module.weight.copy_(weight.reshape(module.weight.shape))
        module.bias.copy_(linear.bias)


def timm_data(run: FinishedRun) -> tuple[dict, str]:
    """The run's preprocessing as timm's data config.

    Returns:
        tuple: The config, and why its resizing is not that of the run; ``''`` if it is.
    """
    found, (height, width) = run.preprocessing, input_size(run)
    config = {'input_size': (3, height, width), 'crop_pct': 1.0, 'crop_mode': 'center', 'interpolation': 'bicubic'}
    if found is None:
        return config, 'the config has no test pipeline'
    config |= {'mean': tuple(value / 255 for value in found.mean), 'std': tuple(value / 255 for value in found.std)}
    if found.interpolation:
        config['interpolation'] = found.interpolation
    if reason := _inexpressible(found):
        return config, reason
    if isinstance(found.resize, list):
        if found.crop and found.crop != found.resize:
            return config, 'a resize to both sides before the crop'
        config['crop_mode'] = 'squash'
    elif found.resize is not None:
        share = _share(width, found.resize) if height == width else None
        if share is None:
            return config, f'a resize to {found.resize} before a crop of {height} x {width}'
        config['crop_pct'] = share
    return config, ''


def _inexpressible(found: Preprocessing) -> str:
    if found.other:
        return f'the transforms {", ".join(found.other)}'
    if found.channels != 'RGB':
        return 'images in BGR order'
    if found.resize is not None and found.backend != 'pillow':
        return f'a resize by {found.backend}'
    if isinstance(found.resize, int) and not found.crop:
        return 'a resize of the shorter side without a crop'
    return ''


def _share(crop: int, resize: int) -> float | None:
    """``crop_pct`` with which timm resizes to exactly ``resize``: ``floor(crop / crop_pct)``."""
    for share in (crop / resize, math.nextafter(crop / resize, 0)):
        if math.floor(crop / share) == resize:
            return share
    return None


def _of_timm_pooled(run: FinishedRun) -> TimmTwin:
    cfg = run.cfg.model.backbone
    args = {key: plain(value) for key, value in cfg.items() if key not in (*_OPTIONS_OF_OURS, 'model_name')}
    return TimmTwin(cfg.model_name, args, run.model.backbone.net.state_dict())


def _of_mmpretrain_timm(run: FinishedRun) -> TimmTwin:
    """MMPretrain's wrapper of a timm convnet, with the mean over all places as its neck: timm's own pooling."""
    cfg = run.cfg.model.backbone
    left_out = (*_OPTIONS_OF_OURS, 'model_name', 'features_only', 'checkpoint_path', 'in_channels', 'init_cfg')
    args = {key: plain(value) for key, value in cfg.items() if key not in left_out}
    return TimmTwin(cfg.model_name, args, run.model.backbone.timm_model.state_dict())


def _of_timm_classifier(run: FinishedRun) -> TimmTwin:
    ours = (*_OPTIONS_OF_OURS, 'model_name', 'num_classes', 'loss', 'train_cfg', 'with_cp', 'data_preprocessor')
    args = {key: plain(value) for key, value in run.cfg.model.items() if key not in (*ours, 'init_cfg')}
    return TimmTwin(run.cfg.model.model_name, args, run.model.model.state_dict(), has_classifier=True)


def _of_open_clip(run: FinishedRun) -> TimmTwin:
    """open_clip's ViT tower; its projection becomes part of the classifier."""
    net = run.model.backbone.net
    block, (height, width) = net.transformer.resblocks[0], net.image_size
    args = dict(
        img_size=(height, width),
        patch_size=net.patch_size[0],
        embed_dim=net.conv1.out_channels,
        depth=len(net.transformer.resblocks),
        num_heads=block.attn.num_heads,
        mlp_ratio=block.mlp.c_fc.out_features / net.conv1.out_channels,
    )
    quick = '_quickgelu' if type(block.mlp.gelu).__name__ == 'QuickGELU' else ''
    swaps = [  # as timm converts OpenAI's checkpoints
        (r'^conv1\.', 'patch_embed.proj.'),
        (r'^ln_pre\.', 'norm_pre.'),
        (r'^ln_post\.', 'norm.'),
        (r'^transformer\.resblocks\.(\d+)\.ln_', r'blocks.\1.norm'),
        (r'^transformer\.resblocks\.(\d+)\.attn\.in_proj_', r'blocks.\1.attn.qkv.'),
        (r'^transformer\.resblocks\.(\d+)\.attn\.out_proj', r'blocks.\1.attn.proj'),
        (r'^transformer\.resblocks\.(\d+)\.mlp\.c_fc', r'blocks.\1.mlp.fc1'),
        (r'^transformer\.resblocks\.(\d+)\.mlp\.c_proj', r'blocks.\1.mlp.fc2'),
    ]
    state = _renamed({name: value for name, value in net.state_dict().items() if name != 'proj'}, swaps)
    state['cls_token'] = state.pop('class_embedding')[None, None]
    state['pos_embed'] = state.pop('positional_embedding')[None]
    return TimmTwin(f'vit_base_patch16_clip{quick}_224', args, state, net.proj.detach())


def _plain_clip_tower(backbone: nn.Module) -> bool:
    net = backbone.net
    if type(net).__name__ != 'VisionTransformer' or not isinstance(net.ln_pre, nn.LayerNorm):
        return False
    block = net.transformer.resblocks[0]
    return (
        isinstance(block.attn, nn.MultiheadAttention)
        and isinstance(block.ls_1, nn.Identity)
        and net.attn_pool is None
        and net.proj is not None
        and net.pool_type == 'tok'
    )


def _of_mmpretrain_vit(run: FinishedRun) -> TimmTwin:
    vit = run.model.backbone
    block = vit.layers[0]
    args = dict(
        img_size=tuple(vit.img_size),
        patch_size=vit.patch_embed.projection.kernel_size[0],
        embed_dim=vit.embed_dims,
        depth=vit.num_layers,
        num_heads=block.attn.num_heads,
        mlp_ratio=vit.arch_settings['feedforward_channels'] / vit.embed_dims,
        qkv_bias=block.attn.qkv.bias is not None,
    )
    swaps = [
        (r'^patch_embed\.projection', 'patch_embed.proj'),
        (r'^ln1\.', 'norm.'),
        (r'^layers\.(\d+)\.ln', r'blocks.\1.norm'),
        (r'^layers\.(\d+)\.ffn\.layers\.0\.0', r'blocks.\1.mlp.fc1'),
        (r'^layers\.(\d+)\.ffn\.layers\.1', r'blocks.\1.mlp.fc2'),
        (r'^layers\.', 'blocks.'),
    ]
    return TimmTwin('vit_base_patch16_224', args, _renamed(vit.state_dict(), swaps))


def _plain_mmpretrain_vit(vit: nn.Module) -> bool:
    block = vit.layers[0]
    return (
        vit.out_type == 'cls_token'
        and vit.final_norm
        and isinstance(vit.pre_norm, nn.Identity)
        and len(vit.out_indices) == 1
        and vit.out_indices[0] == vit.num_layers - 1
        and type(block).__name__ == 'TransformerEncoderLayer'
        and isinstance(vit.ln1, nn.LayerNorm)
        and vit.ln1.eps == 1e-6
        and not any('gamma' in name for name, _ in block.named_parameters())
    )


def _of_mmpretrain_resnet(run: FinishedRun) -> TimmTwin:
    """MMPretrain's ResNet has the names of torchvision and timm."""
    return TimmTwin(f'resnet{run.model.backbone.depth}', {}, run.model.backbone.state_dict())


def plain_mmpretrain_resnet(net: nn.Module) -> bool:
    """Whether MMPretrain's ``ResNet`` is the network that torchvision and timm build under that name."""
    return (
        type(net).__name__ == 'ResNet'
        and not net.deep_stem
        and not net.avg_down
        and net.style == 'pytorch'
        and net.base_channels == 64
        and tuple(net.out_indices) == (3,)
        and net.strides == (1, 2, 2, 2)
        and net.dilations == (1, 1, 1, 1)
    )


def _renamed(state: Mapping[str, torch.Tensor], swaps: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    def rename(name: str) -> str:
        return next((re.sub(old, new, name) for old, new in swaps if re.search(old, name)), name)

    return {rename(name): value for name, value in state.items()}


_TWINS: dict[str, Callable[[FinishedRun], TimmTwin]] = {
    'TimmPooledBackbone': _of_timm_pooled,
    'TIMMBackbone': _of_mmpretrain_timm,
    'TimmClassifier': _of_timm_classifier,
    'OpenCLIPVisionTower': _of_open_clip,
    'VisionTransformer': _of_mmpretrain_vit,
    'ResNet': _of_mmpretrain_resnet,
}
_POOLED_BY_A_NECK = ('TIMMBackbone', 'ResNet')
_CONDITIONS: dict[str, Callable[[nn.Module], bool]] = {
    'OpenCLIPVisionTower': _plain_clip_tower,
    'VisionTransformer': _plain_mmpretrain_vit,
    'ResNet': plain_mmpretrain_resnet,
}
