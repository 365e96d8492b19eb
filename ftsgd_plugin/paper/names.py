"""Names in configs and records, and the labels that tables, figures and config headers print for them."""

from collections.abc import Iterable, Mapping

# Name -> label, in the order in which tables list them. Names outside these tables are their own label.
MODELS = {
    'clip-vit-b16': 'CLIP ViT-B/16',
    'clip-vit-l14': 'CLIP ViT-L/14',
    'vit-b16': 'Sup. ViT-B/16',
    'dino-vit-b16': 'DINO ViT-B/16',
    'convnext-b': 'ConvNeXt-B',
    'bit-r50': 'BiT ResNet-50',
    'bit-r101': 'BiT ResNet-101',
}
# Supervised models: the data they were pretrained on.
PRETRAINED_ON = {
    'vit-b16': 'ImageNet-21k',
    'convnext-b': 'ImageNet-22k',
    'bit-r50': 'ImageNet-21k',
    'bit-r101': 'ImageNet-21k',
}
DATASETS = {
    'living17': 'Living-17',
    'waterbirds': 'Waterbirds',
    'domainnet': 'DomainNet',
    'fmow': 'FMoW',
    'camelyon': 'Camelyon',
}
# Not in the paper: what the package registry has of a real network and real images, and its larger sibling.
REAL_MODELS = {'dinov2-vit-s14': 'DINOv2 ViT-S/14', 'dinov2-vit-b14': 'DINOv2 ViT-B/14'}
REAL_DATASETS = {'elpv-mono': 'ELPV (mono to poly)', 'elpv-poly': 'ELPV (poly to mono)'}
METHODS = {
    'sgd': 'SGD',
    'adamw': 'AdamW',
    'freeze-embed': 'SGD (freeze-embed)',
    'adamw-freeze-embed': 'AdamW (freeze-embed)',
    'freeze-embed-no-momentum': 'SGD (freeze-embed, no momentum)',
    'sgd-in-backward': 'SGD in backward',
    'gradual-unfreezing': 'gradual unfreezing',
    'lamb': 'LAMB',
    'lars': 'LARS',
    'freeze-stem': 'SGD (freeze patch convolution)',
    'sgd-no-momentum': 'SGD (no momentum)',
    'sgd-weight-decay': 'SGD (weight decay 0.01)',
}
# Not in the paper: what a user may take instead (ftsgd_plugin.methods says more about each).
OTHER_METHODS = {
    'linear-probe': 'linear probe',
    'lp-ft': 'LP-FT',
    'bitfit-norm': 'biases and norms',
    'surgical-first': 'surgical (first block)',
    'lora': 'LoRA',
    'adamw-layer-decay': 'AdamW (layer decay)',
    'adafactor': 'Adafactor',
    'lion': 'Lion',
    'schedule-free-sgd': 'Schedule-Free SGD',
    'sgd-sai': 'SGD-SaI',
    'sgd-gradient-rates': 'SGD (rates by gradients)',
    'adamw-8bit': 'AdamW (8 bit)',
    'flash-adamw': 'FlashAdamW',
    'flash-sgd': 'FlashSGD (freeze-embed)',
    'freeze-embed-wise-ft': 'SGD (freeze-embed), WiSE-FT',
}
# Published for every model and dataset: the paper's two main tables.
MAIN_METHODS = ('sgd', 'adamw', 'freeze-embed')
# In the experiment matrix of configs/, one file per model, method and dataset.
CONFIG_METHODS = (*MAIN_METHODS, 'adamw-freeze-embed', 'freeze-embed-no-momentum', 'gradual-unfreezing')


def model_label(name: str) -> str:
    """``'vit-b16'`` -> ``'Sup. ViT-B/16'``; an unknown name is its own label."""
    return MODELS.get(name) or REAL_MODELS.get(name, name)


def dataset_label(name: str) -> str:
    """``'living17'`` -> ``'Living-17'``; an unknown name is its own label."""
    return DATASETS.get(name) or REAL_DATASETS.get(name, name)


def method_label(name: str) -> str:
    """``'freeze-embed'`` -> ``'SGD (freeze-embed)'``; an unknown name is its own label."""
    return METHODS.get(name) or OTHER_METHODS.get(name, name)


def sort_names(names: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """Distinct names: those of a table above in its order, then the others alphabetically.

    Args:
        names: Names in any order, e.g. a column of a data frame.
        known: :data:`MODELS`, :data:`DATASETS` or :data:`METHODS`.
    """
    rank = {name: i for i, name in enumerate(known)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))
