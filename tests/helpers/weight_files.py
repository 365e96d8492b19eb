"""Small backbones with weight files in the layouts in which the weights of the full-size ones are published."""

import re
from functools import partial

import numpy as np
import torch
from mmpretrain.registry import MODELS
from safetensors.torch import save_file
from torch import nn

from helpers.small_models import PUBLISHED, RECENT


def build(name: str, **options) -> nn.Module:
    """One of the backbones of ``PUBLISHED`` or ``RECENT``; more options override those of the table."""
    return MODELS.build({**{**RECENT, **PUBLISHED}[name], **options})


vit, dino, clip, convnext, bit = (
    partial(build, name) for name in ('vit-b16', 'dino-vit-b16', 'clip-vit-b16', 'convnext-b', 'bit-r50')
)


def randomised(net: nn.Module) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(value.shape, generator=generator) for name, value in net.state_dict().items()}


# Writers: the layouts in which the authors published their weights, with their classifiers.


def write_augreg_npz(path, weights) -> None:
    """Google's ViT in JAX: kernels (in, out), attention by head (width, heads, width / heads)."""
    width, heads = 64, 2
    arrays = {
        'embedding/kernel': weights['patch_embed.proj.weight'].permute(2, 3, 1, 0),
        'embedding/bias': weights['patch_embed.proj.bias'],
        'cls': weights['cls_token'],
        'Transformer/posembed_input/pos_embedding': weights['pos_embed'],
        'Transformer/encoder_norm/scale': weights['norm.weight'],
        'Transformer/encoder_norm/bias': weights['norm.bias'],
        'pre_logits/kernel': torch.zeros(width, width),
        'pre_logits/bias': torch.zeros(width),
        'head/kernel': torch.zeros(width, 21843),
        'head/bias': torch.zeros(21843),
    }
    for i in range(2):
        block, here = f'Transformer/encoderblock_{i}', f'blocks.{i}'
        attention = f'{block}/MultiHeadDotProductAttention_1'
        for k, part in enumerate(('query', 'key', 'value')):
            rows = slice(k * width, (k + 1) * width)
            kernel, bias = weights[f'{here}.attn.qkv.weight'][rows], weights[f'{here}.attn.qkv.bias'][rows]
            arrays[f'{attention}/{part}/kernel'] = kernel.T.reshape(width, heads, width // heads)
            arrays[f'{attention}/{part}/bias'] = bias.reshape(heads, width // heads)
        arrays[f'{attention}/out/kernel'] = weights[f'{here}.attn.proj.weight'].T.reshape(heads, width // heads, width)
        arrays[f'{attention}/out/bias'] = weights[f'{here}.attn.proj.bias']
        for theirs, ours in (('LayerNorm_0', 'norm1'), ('LayerNorm_2', 'norm2')):
            arrays[f'{block}/{theirs}/scale'] = weights[f'{here}.{ours}.weight']
            arrays[f'{block}/{theirs}/bias'] = weights[f'{here}.{ours}.bias']
        for theirs, ours in (('Dense_0', 'fc1'), ('Dense_1', 'fc2')):
            arrays[f'{block}/MlpBlock_3/{theirs}/kernel'] = weights[f'{here}.mlp.{ours}.weight'].T
            arrays[f'{block}/MlpBlock_3/{theirs}/bias'] = weights[f'{here}.mlp.{ours}.bias']
    np.savez(path, **{name: value.contiguous().numpy() for name, value in arrays.items()})


def bit_arrays(weights) -> dict[str, np.ndarray]:
    """Google's BiT: kernels (height, width, in, out)."""
    arrays = {
        'resnet/root_block/standardized_conv2d/kernel': weights['stem.conv.weight'],
        'resnet/group_norm/gamma': weights['norm.weight'],
        'resnet/group_norm/beta': weights['norm.bias'],
        'resnet/head/conv2d/kernel': torch.zeros(10, 128, 1, 1),
        'resnet/head/conv2d/bias': torch.zeros(10),
    }
    names = {'conv': 'standardized_conv2d/kernel', 'norm': 'group_norm'}
    for key, value in weights.items():
        found = re.fullmatch(r'stages\.(\d)\.blocks\.(\d)\.(?:(conv|norm)(\d)|downsample\.conv)\.(weight|bias)', key)
        if not found:
            continue
        stage, unit, kind, number, leaf = found.groups()
        prefix = f'resnet/block{int(stage) + 1}/unit{int(unit) + 1:02d}'
        if kind is None:
            name = f'{prefix}/a/proj/standardized_conv2d/kernel'
        else:
            name = f'{prefix}/{"abc"[int(number) - 1]}/{names[kind]}'
            name += '' if kind == 'conv' else {'weight': '/gamma', 'bias': '/beta'}[leaf]
        arrays[name] = value
    return {k: (v.permute(2, 3, 1, 0) if v.ndim == 4 else v).contiguous().numpy() for k, v in arrays.items()}


def write_bit_npz(path, weights) -> None:
    np.savez(path, **bit_arrays(weights))


def write_dino_pth(path, weights) -> None:
    """Facebook's DINO backbone: the names timm took over."""
    torch.save(weights, path)


def write_convnext_pth(path, weights) -> None:
    """Facebook's ConvNeXt: its own names, below 'model', with the 21,841-way head."""
    theirs = {}
    for key, value in weights.items():
        key = re.sub(r'^stem\.', 'downsample_layers.0.', key)
        key = re.sub(r'^stages\.(\d)\.downsample\.', r'downsample_layers.\1.', key)
        key = re.sub(r'^stages\.(\d)\.blocks\.(\d+)\.', r'stages.\1.\2.', key)
        key = key.replace('conv_dw', 'dwconv').replace('mlp.fc', 'pwconv').replace('head.norm', 'norm')
        theirs[key] = value
    theirs.update({'head.weight': torch.zeros(7, 64), 'head.bias': torch.zeros(7)})
    torch.save({'model': theirs}, path)


def write_timm_safetensors(path, weights, classifier: str = 'head') -> None:
    """timm's hub files: its own names and a classifier."""
    save_file({**weights, f'{classifier}.weight': torch.zeros(7, 64), f'{classifier}.bias': torch.zeros(7)}, path)


class FullCLIP(nn.Module):
    """A CLIP to trace: the vision tower, a text tower's tensors and the three integers of OpenAI's archives."""

    def __init__(self, visual: nn.Module):
        super().__init__()
        self.visual = visual
        self.token_embedding = nn.Embedding(10, 8)
        self.logit_scale = nn.Parameter(torch.zeros([]))
        self.register_buffer('input_resolution', torch.tensor(224))

    def forward(self, images, tokens):
        return self.visual(images), self.token_embedding(tokens) * self.logit_scale


def write_openai_archive(path, weights) -> None:
    """OpenAI's ViT-B-16.pt: a TorchScript archive of the whole model in half precision."""
    visual = clip().net
    visual.load_state_dict(weights)
    model = FullCLIP(visual).eval()
    traced = torch.jit.trace(model, (torch.randn(1, 3, 224, 224), torch.tensor([1])))
    traced.half().save(str(path))


def write_open_clip_safetensors(path, weights) -> None:
    """open_clip's hub files: the whole model's names."""
    save_file({**{f'visual.{k}': v for k, v in weights.items()}, 'logit_scale': torch.zeros([])}, path)


def write_open_clip_bin(path, weights) -> None:
    """An open_clip training checkpoint of a distributed run."""
    theirs = {f'module.visual.{k}': v for k, v in weights.items()}
    torch.save({'epoch': 3, 'state_dict': {**theirs, 'module.logit_scale': torch.zeros([])}}, path)


FORMATS = {
    'augreg.npz': (vit, write_augreg_npz),
    'augreg.safetensors': (vit, write_timm_safetensors),
    'dino.pth': (dino, write_dino_pth),
    'convnext.pth': (convnext, write_convnext_pth),
    'bit.npz': (bit, write_bit_npz),
    'ViT-B-16.pt': (clip, write_openai_archive),
    'open_clip.safetensors': (clip, write_open_clip_safetensors),
    'open_clip.bin': (clip, write_open_clip_bin),
}


# timm's hub files of the parts beside the paper's.
_CLASSIFIERS = {'convnextv2-t': 'head.fc', 'swinv2-t': 'head.fc'}  # the others: head, or no classifier
FORMATS |= {
    f'{name}.safetensors': (
        partial(build, name),
        partial(write_timm_safetensors, classifier=_CLASSIFIERS.get(name, 'head')),
    )
    for name in RECENT
}


def load(build, path):
    backbone = build(pretrained=str(path))
    backbone.init_weights()
    return backbone
