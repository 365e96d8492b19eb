"""The model card of an export: what the weights are, where they come from, and how to use them."""

import re
from collections.abc import Mapping, Sequence

from ...evaluation.selection import selecting_metric
from ...models.catalog import LIBRARIES
from ...records import RunRecord
from ...utils.format import printable
from ...utils.metrics import METRIC_LABELS
from ...utils.names import type_name
from ...utils.version import __version__
from ..run import FinishedRun
from .target import Target, plain

_SHOWN = 30  # names of classes


def model_card(run: FinishedRun, target: Target, remarks: Sequence[str], difference: float, checked: str) -> str:
    """The content of ``README.md``, with the front matter of the Hugging Face hub.

    Args:
        run: The exported run.
        target: Where to.
        remarks: What the target has to say.
        difference: Largest difference of a logit from the run's.
        checked: What was compared, e.g. ``'32 images'``.
    """
    licence = source_licence(run)
    name = f'{run.record.model}_{run.record.method}_{run.record.dataset}' if run.record else run.checkpoint.stem
    lines = [
        '---',
        f'license: {licence if licence in _HUB_LICENCES else "other" if licence else "unknown"}',
        f'library_name: {target.tags[0]}',
        'pipeline_tag: image-classification',
        'tags:',
        *(f'- {tag}' for tag in (*target.tags, 'image-classification')),
        '---',
        f'# {printable(name)}',
        '',
        f'An image classifier of {len(run.classes)} classes, fine-tuned with ftsgd_plugin {__version__}.',
        '',
        '## Use',
        '',
        'In this directory:',
        '',
        '```python',
        *target.usage(run).splitlines(),
        '```',
        '',
        *(f'- {printable(remark)}' for remark in remarks),
        f'- Preprocessing: {run.preprocessing or "unknown"}.',
        f'- Classes, in the order of the logits: {_shortened(run.classes)}.',
        f'- Checked: {checked} give the logits of the run within {target.tolerance:g} of the largest logit '
        f'(largest difference {difference:.1e}).',
        '',
        '## Training',
        '',
        f'- Network: {_network(run)}.',
        f'- Pretrained weights: {_source(run)}; their licence: {licence or "unknown, see their source"}.',
        f'- Data: {_data(run)}.',
        *_method(run.record),
        f'- Checkpoint: {printable(run.checkpoint.name)}.',
        '',
        '## Results',
        '',
        *_results(run),
    ]
    return '\n'.join(lines) + '\n'


# Licences that the hub knows by name and that timm and open_clip name.
_HUB_LICENCES = ('apache-2.0', 'mit', 'bsd-3-clause', 'cc-by-4.0', 'cc-by-nc-4.0', 'cc-by-nc-sa-4.0', 'cc0-1.0')


_LIBRARY_OF = {
    'TimmPooledBackbone': 'timm',
    'TIMMBackbone': 'timm',
    'TimmClassifier': 'timm',
    'OpenCLIPVisionTower': 'open_clip',
    'TorchvisionBackbone': 'torchvision',
}


def source_licence(run: FinishedRun) -> str | None:
    """The licence of the weights that training started from, as their library states it; ``None`` if it does not."""
    model = run.cfg.model
    backbone = model.get('backbone') or model
    kind = type_name(backbone)
    if _pretrained_file(backbone).startswith('ftsgd://'):
        return 'apache-2.0'  # of this project
    if (library := _LIBRARY_OF.get(kind)) is None:
        return None
    tag = {'open_clip': f'/{backbone.get("tag", "openai")}', 'torchvision': f'/{backbone.get("weights", "DEFAULT")}'}
    source = LIBRARIES[library].find(f'{backbone.model_name}{tag.get(library, "")}'.removesuffix('/DEFAULT'))
    return source.licence.lower() if source is not None and source.licence else None


def _pretrained_file(cfg: Mapping) -> str:
    """The file that ``init_cfg=dict(type='Pretrained', ...)`` names, or the empty text."""
    found = cfg.get('init_cfg') or []
    return next((str(one['checkpoint']) for one in ([found] if isinstance(found, Mapping) else found)
                 if type_name(one).startswith('Pretrained')), '')  # fmt: skip


def _shortened(classes: Sequence[str]) -> str:
    text = ', '.join(printable(name) for name in classes[:_SHOWN])
    return text if len(classes) <= _SHOWN else f'{text}, ... ({len(classes)} in all)'


def _network(run: FinishedRun) -> str:
    cfg = plain(run.cfg.model.get('backbone') or run.cfg.model)
    options = {
        key: value for key, value in cfg.items() if key not in ('type', 'pretrained', 'init_cfg', 'data_preprocessor')
    }
    count = sum(param.numel() for param in run.model.parameters())
    given = ', '.join(f'{key}={value!r}' for key, value in options.items() if not isinstance(value, dict) or value)
    return printable(f'{type_name(cfg)}({given}), {count:,} parameters')


def _source(run: FinishedRun) -> str:
    model = run.cfg.model
    backbone = model.get('backbone') or model
    if run.cfg.get('load_from') and not run.cfg.get('resume'):
        return printable(str(run.cfg.load_from))
    if file := _pretrained_file(backbone) or _pretrained_file(model):
        return printable(file)
    pretrained = backbone.get('pretrained', False)
    if pretrained is True:
        tag = f' {backbone.get("tag", "openai")}' if type_name(backbone) == 'OpenCLIPVisionTower' else ''
        return printable(f'{backbone.get("model_name", type_name(backbone))}{tag}')
    return printable(str(pretrained)) if pretrained else 'none named in the config'


def _data(run: FinishedRun) -> str:
    dataset = (run.cfg.get('train_dataloader') or {}).get('dataset') or {}
    name = run.record.dataset if run.record else type_name(dataset) or 'unknown'
    kind = f' ({type_name(dataset)})' if dataset else ''
    return printable(f'{name}{kind}')


def _method(record: RunRecord | None) -> list[str]:
    if record is None:
        return []
    commit = f', commit {record.code.get("commit")}' if record.code.get('commit') else ''
    return [
        printable(
            f'- Method: {record.method}, learning rate {record.lr:g}, seed {record.seed}, {len(record.epochs)} '
            'evaluations (arXiv 2211.09359).'
        ),
        f'- Settings: config hash `{record.config_hash[:12]}`, ftsgd_plugin {record.code.get("version")}{commit}.',
    ]


def _results(run: FinishedRun) -> list[str]:
    record = run.record
    if record is None or record.selected is None:
        return ['No record of the run, hence no numbers.']
    epoch, found = re.search(r'_(\d+)\.pth$', run.checkpoint.name), record.selected
    selected = f'evaluation {record.selected_epoch + 1} of {len(record.epochs)}, selected by {record.selected_by}'
    lines = [f'At {selected} (in-distribution data only):', '', '| metric | value |', '|---|---|']
    shown = dict.fromkeys([selecting_metric('id'), record.selected_by, *METRIC_LABELS, *found])
    lines += [
        f'| {printable(METRIC_LABELS.get(key, key))} | {100 * found[key]:.2f} % |' for key in shown if key in found
    ]
    if epoch and not run.checkpoint.name.startswith('best'):
        lines += [
            '',
            f'The exported checkpoint is {printable(run.checkpoint.name)}, which need not be the selected one.',
        ]
    return lines
