"""The layer lists of the architectures that this package knows: of timm, open_clip and MMPretrain.

Nothing is imported from these libraries: a list is registered by the import path of its class.
"""

from collections.abc import Generator, Iterator, Sequence

from torch import nn

from ..utils.errors import UserError
from .entry import Entry
from .register import register_layer_list


@register_layer_list('mmpretrain.models.backbones.vision_transformer.VisionTransformer')
def _mmpretrain_vit(vit: nn.Module) -> Iterator[Entry]:
    """MMPretrain's ``VisionTransformer``, with and without ``pre_norm`` (CLIP's ``ln_pre``)."""
    yield from _vit_embedding('patch_embed', 'pre_norm', 'pos_embed', 'cls_token')
    for i in range(len(vit.layers)):
        yield from _transformer_block(i, f'layers.{i}', ['ln1'], ['attn'], ['ln2'], ['ffn'])
    yield Entry('post_norm', 'norm', 'ln1', 'ln2')


@register_layer_list('timm.models.vision_transformer.VisionTransformer')
def _timm_vit(vit: nn.Module) -> Iterator[Entry]:
    """timm's ``VisionTransformer`` (AugReg, DINO, DeiT, its CLIP variants with ``norm_pre``), hybrids included."""
    first, patch = 0, 'patch_embed'
    convnet = getattr(vit.patch_embed, 'backbone', None)
    if convnet is not None and any(True for _ in convnet.parameters()):
        first, patch = (yield from _hybrid_embedding(vit, convnet)), ''
    yield from _vit_embedding(patch, 'norm_pre', 'pos_embed', 'cls_token', 'reg_token', 'dist_token')
    for i in range(len(vit.blocks)):
        attn, mlp = ['attn', 'ls1', 'drop_path1'], ['mlp', 'ls2', 'drop_path2']
        yield from _transformer_block(i, f'blocks.{i}', ['norm1'], attn, ['norm2'], mlp, first=first)
    yield Entry('post_norm', 'norm', 'norm', 'fc_norm')
    yield Entry('attn_pool', 'projection', 'attn_pool')
    yield Entry('head', 'head', 'head', 'head_dist')


@register_layer_list('open_clip.transformer.VisionTransformer')
def _open_clip_vit(vit: nn.Module) -> Iterator[Entry]:
    """open_clip's vision tower. The authors' lists leave out ``proj``, so it always trains."""
    yield from _vit_embedding('conv1', 'ln_pre', 'positional_embedding', 'class_embedding')
    for i in range(len(vit.transformer.resblocks)):
        path = f'transformer.resblocks.{i}'
        yield from _transformer_block(i, path, ['ln_1'], ['attn', 'ls_1'], ['ln_2'], ['mlp', 'ls_2'])
    yield Entry('post_norm', 'norm', 'ln_post')
    yield Entry('attn_pool', 'projection', 'attn_pool', 'attn_pool_contrastive')
    yield Entry('proj', 'projection', 'proj')


@register_layer_list('timm.models.convnext.ConvNeXt')
def _timm_convnext(net: nn.Module) -> Iterator[Entry]:
    """timm's ``ConvNeXt``."""
    stages = [
        [[f'stages.{k}.blocks.{j}', *([f'stages.{k}.downsample'] if j == 0 else [])] for j in range(len(stage.blocks))]
        for k, stage in enumerate(net.stages)
    ]
    yield from _convnet(['stem'], stages, 'stage')
    yield Entry('post_norm', 'norm', 'norm_pre', 'head.norm')
    yield Entry('head', 'head', 'head.pre_logits', 'head.fc')


@register_layer_list('timm.models.resnetv2.ResNetV2')
def _timm_resnetv2(net: nn.Module) -> Iterator[Entry]:
    """timm's ``ResNetV2`` (BiT). The authors count the last norm as part of the head."""
    stages = [[[f'stages.{k}.blocks.{j}'] for j in range(len(stage.blocks))] for k, stage in enumerate(net.stages)]
    yield from _convnet(['stem'], stages, 'conv-block-')
    yield Entry('post_norm', 'norm', 'norm', group='head')
    yield Entry('head', 'head', 'head')


@register_layer_list('mmpretrain.models.backbones.convnext.ConvNeXt')
def _mmpretrain_convnext(net: nn.Module) -> Iterator[Entry]:
    """MMPretrain's ``ConvNeXt``; its ``downsample_layers.0`` is the stem."""
    stages = [
        [[f'stages.{k}.{j}', *([f'downsample_layers.{k}'] if j == 0 and k > 0 else [])] for j in range(len(stage))]
        for k, stage in enumerate(net.stages)
    ]
    yield from _convnet(['downsample_layers.0'], stages, 'stage')
    yield Entry('post_norm', 'norm', *(f'norm{k}' for k in range(len(stages))))


@register_layer_list('mmpretrain.models.backbones.resnet.ResNet')
def _mmpretrain_resnet(net: nn.Module) -> Iterator[Entry]:
    """MMPretrain's ``ResNet``."""
    stages = [[[f'{name}.{j}'] for j in range(len(getattr(net, name)))] for name in net.res_layers]
    yield from _convnet(['stem', 'conv1', getattr(net, 'norm1_name', 'bn1')], stages, 'stage')


@register_layer_list('mmpretrain.models.backbones.swin_transformer.SwinTransformer')
def _mmpretrain_swin(net: nn.Module) -> Iterator[Entry]:
    """MMPretrain's ``SwinTransformer``; not in the paper: its embedding is the patch embedding, as in a ViT."""
    yield from _vit_embedding('patch_embed', '', 'absolute_pos_embed')
    block = 0
    for k, stage in enumerate(net.stages):
        for j in range(len(stage.blocks)):
            merging = [f'stages.{k - 1}.downsample'] if j == 0 else []  # stored in the stage before it
            members = [*merging, f'stages.{k}.blocks.{j}']
            name = f'stages.{k}.blocks.{j}'
            yield Entry(name, 'block', *members, block=block, group=f'stage{k}', earlier=merging)
            block += 1
    yield Entry('post_norm', 'norm', *(f'norm{k}' for k in range(len(net.stages))))


def _vit_embedding(patch: str, ln_pre: str, pos_embed: str, *tokens: str) -> Iterator[Entry]:
    """The layers of a ViT before its blocks, in the authors' order."""
    yield Entry('patch_embed', 'embed', patch)
    yield Entry('ln_pre', 'embed', ln_pre)
    yield Entry('pos_embed', 'position', pos_embed)
    yield Entry('cls_token', 'position', *tokens)


def _hybrid_embedding(vit: nn.Module, convnet: nn.Module) -> Generator[Entry, None, int]:
    """The convnet before a hybrid ViT, by the paper's rule for convnets: its stem and first stage are the embedding.

    The other stages are blocks, and so is the projection of their features to tokens.

    Returns:
        int: Index of the ViT's own first block.

    Raises:
        UserError: The convnet has no stages and is more than a sequence of layers.
    """
    path, children = 'patch_embed.backbone', [name for name, _ in convnet.named_children()]
    if {'stem', 'stages'} <= set(children):
        stem, stages = ['stem'], [f'stages.{name}' for name, _ in convnet.stages.named_children()]
    elif {'conv1', 'layer1'} <= set(children):
        stem, stages = ['conv1', 'bn1'], [name for name in children if name.startswith('layer')]
    elif isinstance(convnet, nn.Sequential):  # a few convolutions
        stem, stages = children, []
    else:
        raise UserError(
            f'the patch embedding of this {type(vit).__name__} is a network of its own ({type(convnet).__name__}), and '
            'freezing all of it is not what freeze-embed means; register a layer list for it (ftsgd_plugin/layers/ '
            'shows how).'
        )
    blocks = [_stage_blocks(stage, convnet.get_submodule(stage)) for stage in stages]
    members = [[[f'{path}.{part}' for part in parts] for parts in stage] for stage in blocks]
    rest = [f'{path}.{name}' for name in children if name not in (*stem, 'stages', *stages)]
    projection = sum(map(len, members[1:]))
    yield from _convnet([f'{path}.{part}' for part in stem], members, 'conv-block-')
    if not rest and not any(True for _ in vit.patch_embed.proj.parameters()):
        return projection
    yield Entry('patch_embed', 'block', *rest, 'patch_embed.proj', block=projection)
    return projection + 1


def _stage_blocks(path: str, stage: nn.Module) -> list[list[str]]:
    """The blocks of a stage of a convnet, as lists of paths; what is beside them belongs to the first."""
    inside = f'{path}.blocks' if hasattr(stage, 'blocks') else path
    blocks = [[f'{inside}.{name}'] for name, _ in getattr(stage, 'blocks', stage).named_children()]
    if inside != path:
        blocks[0] += [f'{path}.{name}' for name, _ in stage.named_children() if name != 'blocks']
    return blocks


def _transformer_block(i: int, path: str, *parts: Sequence[str], first: int = 0) -> Iterator[Entry]:
    """The four layers of transformer block ``i`` at ``path``.

    Args:
        i: Number of the block among the transformer blocks.
        path: Its attribute path.
        *parts: The block's attributes of each layer.
        first: Number of blocks before the first transformer block. Defaults to 0.
    """
    for name, attributes in zip(('norm1', 'attn', 'norm2', 'mlp'), parts):
        members = [f'{path}.{attribute}' for attribute in attributes]
        yield Entry(f'blocks.{i}.{name}', 'block', *members, block=first + i, group=f'trans{i}_{name}')


def _convnet(stem: Sequence[str], stages: Sequence[Sequence[Sequence[str]]], group: str) -> Iterator[Entry]:
    """Stem and stages of a convnet, block by block; the stem and the first stage are the embedding.

    Args:
        stem: Paths of the stem.
        stages: The paths of every block of every stage.
        group: The authors' name of a stage, without its number.
    """
    yield Entry('stem', 'embed', *stem)
    block = 0
    for k, blocks in enumerate(stages):
        for j, members in enumerate(blocks):
            name = f'stages.{k}.blocks.{j}'
            if k == 0:
                yield Entry(name, 'embed', *members, group=f'{group}{k}')
            else:
                yield Entry(name, 'block', *members, block=block, group=f'{group}{k}')
                block += 1
