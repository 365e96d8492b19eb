"""FLOPs and parameters of every model of the configs, for the predictions of `tools/sweep.py --dry-run`.

    python benchmarks/model_costs.py            # (re)write ftsgd_plugin/sweep/model_costs.csv; about a minute
    python benchmarks/model_costs.py --check    # write nothing; exit 1 if it differs

Counted by PyTorch's FLOP counter over one forward pass of one image on the CPU, with the head of each config; a
multiplication and an addition are two.
"""

import argparse
import sys
from pathlib import Path

import torch
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from ftsgd_plugin import config_path
from ftsgd_plugin.runner.build import read_config

SIZES = {
    'vit-tiny': 32,
    'clip-vit-b16': 224,
    'clip-vit-l14': 224,
    'vit-b16': 224,
    'dino-vit-b16': 224,
    'convnext-b': 224,
    'bit-r50': 224,
    'bit-r101': 224,
}
TABLE = Path(__file__).resolve().parents[1] / 'ftsgd_plugin/sweep/model_costs.csv'
HEADER = '# One forward pass of one image, head for 2 classes. Written by benchmarks/model_costs.py.\n'


def measure(name: str, size: int) -> tuple[int, int]:
    """FLOPs of one forward pass and parameters of a model with random weights."""
    cfg = read_config(config_path(f'_base_/models/{name}')).model
    cfg.backbone.pop('init_cfg', None)
    if 'pretrained' in cfg.backbone:
        cfg.backbone.pretrained = False
    cfg.head.num_classes = 2
    model = MODELS.build(cfg).eval()
    # The counter does not know the fused attention operators of inference and of the CPU.
    torch.backends.mha.set_fastpath_enabled(False)
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size, size), mode='tensor')
    return counter.get_total_flops(), sum(param.numel() for param in model.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; exit 1 if the table differs')
    args = parser.parse_args()
    init_default_scope('mmpretrain')
    text = HEADER + 'model,image_size,forward_flops,parameters\n'
    for name, size in SIZES.items():
        text += f'{name},{size},{",".join(map(str, measure(name, size)))}\n'
    if args.check:
        sys.exit(TABLE.read_text() != text)
    TABLE.write_text(text)
    print(text)


if __name__ == '__main__':
    main()
