"""Predictions are what tools/test.py computes for the same images: all, in order, whatever else is unreadable."""

import csv
import importlib.util
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PILImage
from sklearn.metrics import roc_auc_score

from ftsgd_plugin.inference.images import find_images
from ftsgd_plugin.inference.predict import predict, write_predictions
from ftsgd_plugin.inference.run import load_run
from ftsgd_plugin.runner.run import test as evaluate
from ftsgd_plugin.utils.errors import DivergedError, UserError


@pytest.fixture(scope='module')
def run(finished_run):
    return load_run(finished_run, device='cpu')


@pytest.fixture(scope='module')
def evaluated(finished_run, tmp_path_factory):
    """``(samples, metrics)`` of tools/test.py: the first 32 images of the two splits."""
    out = tmp_path_factory.mktemp('evaluated')
    config = next(finished_run.glob('*.py'))
    best = str(next(finished_run.glob('best_*.pth')))
    metrics = evaluate(str(config), best, out=str(out / 'pred.pkl'), work_dir=str(out))
    return pickle.loads((out / 'pred.pkl').read_bytes()), metrics


@pytest.fixture
def table(evaluated, tmp_path):
    """A CSV with the evaluated images: path, label (a name), group, split."""
    names = ('digit-0-4', 'digit-5-9')
    rows = [(one['img_path'], names[int(one['gt_label'])], one['group'], one['split']) for one in evaluated[0]]
    with open(tmp_path / 'list.csv', 'w', newline='') as file:
        csv.writer(file).writerows([('img_path', 'label', 'group', 'split'), *rows])
    return tmp_path / 'list.csv'


def read(path: Path) -> list[dict[str, str]]:
    with open(path, newline='') as file:
        return list(csv.DictReader(file))


def test_scores_equal_those_of_tools_test_bit_for_bit(run, evaluated):
    samples, _ = evaluated
    assert len(samples) == 64
    for workers in (0, 2):
        batches = list(predict(run, [one['img_path'] for one in samples], workers=workers))
        scores = [score for scored, _ in batches for _, score in scored]
        assert [i for scored, _ in batches for i, _ in scored] == list(range(64))
        assert all(np.array_equal(one, other['pred_score'].numpy()) for one, other in zip(scores, samples))


def test_program_writes_every_probability_and_the_metrics_of_tools_test(
    finished_run, evaluated, table, tmp_path, run_tool
):
    samples, metrics = evaluated
    code, err = run_tool(
        'predict', finished_run, table, '--out', tmp_path / 'p.csv', '--metrics', tmp_path / 'm.json', '--device', 'cpu'
    )
    assert code == 0, err
    rows = read(tmp_path / 'p.csv')
    assert list(rows[0]) == [
        *('path', 'label', 'group', 'split', 'prediction', 'probability'),
        *('p(digit-0-4)', 'p(digit-5-9)', 'error'),
    ]
    for row, sample in zip(rows, samples, strict=True):
        scores = np.array([row['p(digit-0-4)'], row['p(digit-5-9)']], np.float32)
        assert np.array_equal(scores, sample['pred_score'].numpy()) and row['path'] == sample['img_path']
        assert row['prediction'] == ('digit-0-4', 'digit-5-9')[int(sample['pred_label'])] and not row['error']
    found = json.loads((tmp_path / 'm.json').read_text())
    assert {key: found[key] for key in ('split/val', 'split/test')} == {
        key: metrics[key] for key in ('split/val', 'split/test')
    }
    assert found['accuracy'] == pytest.approx((found['split/val'] + found['split/test']) / 2)
    assert (
        'accuracy: ' in run_tool.stdout and f'written: {tmp_path}/p.csv (64 of 64 images predicted)' in run_tool.stdout
    )


def test_group_metrics_of_one_split_are_those_of_tools_test(run, evaluated, table, tmp_path):
    lines = table.read_text().splitlines(keepends=True)
    table.write_text(''.join(line for line in lines if not line.endswith('val\n')))
    done = write_predictions(run, [table], tmp_path / 'p.csv', report=lambda line: None)
    expected = evaluated[1]
    assert done.metrics['accuracy'] == expected['ood/accuracy']
    assert done.metrics['worst_group'] == expected['ood/worst_group']
    samples = [one for one in evaluated[0] if one['split'] == 'test']
    labels, scores = ([int(one['gt_label']) for one in samples], [float(one['pred_score'][1]) for one in samples])
    assert done.metrics['auroc'] == pytest.approx(roc_auc_score(labels, scores))
    assert {'balanced_accuracy', 'macro_f1', 'ece', 'average_precision'} < done.metrics.keys()
    groups = {key: value for key, value in expected.items() if key.startswith('group/')}
    assert groups and {key: value for key, value in done.metrics.items() if key.startswith('group/')} == groups


@pytest.fixture
def photos(evaluated, tmp_path):
    """Images in directories named as the classes, two of them unreadable, and one that fits no class directory."""
    root = tmp_path / 'photos'
    for i, one in enumerate(evaluated[0][:6]):
        name = ('digit-0-4', 'digit-5-9')[int(one['gt_label'])]
        (root / 'site' / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(one['img_path'], root / 'site' / name / f'{i}.png')
    (root / '.hidden').mkdir()
    shutil.copy(evaluated[0][0]['img_path'], root / '.hidden/x.png')
    (root / 'notes.txt').write_text('no image')
    return root


def test_class_directories_give_labels_and_groups(run, photos, tmp_path, evaluated):
    done = write_predictions(run, [photos], tmp_path / 'p.jsonl', top_k=1, report=lambda line: None)
    rows = [json.loads(line) for line in (tmp_path / 'p.jsonl').read_text().splitlines()]
    assert len(rows) == 6 and all(
        row['label'] == Path(row['path']).parent.name and row['group'] == 'site' for row in rows
    )
    assert list(rows[0]) == ['path', 'label', 'group', 'prediction', 'probability', 'error']
    right = [int(one['pred_label']) == int(one['gt_label']) for one in evaluated[0][:6]]
    assert done.metrics['accuracy'] == done.metrics['group/site'] == sum(right) / 6
    # One image outside the class directories: nothing is known for sure of the others.
    shutil.copy(evaluated[0][0]['img_path'], photos / 'loose.png')
    done = write_predictions(run, [photos], tmp_path / 'p.jsonl', report=lambda line: None)
    assert done.images == 7 and not done.metrics


def test_unreadable_files_have_a_row_with_the_reason_and_the_exit_code_3(finished_run, photos, tmp_path, run_tool):
    whole = sorted(photos.rglob('site/*/*.png'))[0].read_bytes()
    (photos / 'a.png').write_bytes(whole[: len(whole) // 2])
    PILImage.new('RGB', (50, 40)).save(photos / 'b.png')
    PILImage.new('I', (32, 32)).save(photos / 'c.png')
    (photos / 'd.jpg').write_bytes(b'')
    code, err = run_tool('predict', finished_run, photos, '--out', tmp_path / 'p.csv', '--top-k', 9, '--device', 'cpu')
    assert code == 3, err
    rows = {Path(row['path']).name: row for row in read(tmp_path / 'p.csv')}
    assert len(rows) == 10 and list(rows)[:4] == ['a.png', 'b.png', 'c.png', 'd.jpg']
    reasons = {name: row['error'] for name, row in rows.items() if row['error']}
    assert list(reasons) == ['a.png', 'b.png', 'c.png', 'd.jpg']
    assert reasons['b.png'] == 'is 50 x 40 pixels instead of 32 x 32, and this run does not resize'
    assert 'more than 8 bits' in reasons['c.png'] and not rows['a.png']['prediction']
    assert {'prediction_2', 'probability_2'} <= rows['0.png'].keys() and rows['0.png']['prediction_2']
    assert f'not predicted: {photos}/a.png: {reasons["a.png"]}' in run_tool.stdout
    assert '(6 of 10 images predicted)' in run_tool.stdout


def test_every_kind_of_table_names_the_same_images(run, table, tmp_path):
    import pandas as pd

    rows = pd.read_csv(table)
    rows.to_csv(tmp_path / 'a.tsv', sep='\t', index=False)
    rows.to_json(tmp_path / 'a.jsonl', orient='records', lines=True)
    rows.rename(columns={'img_path': 'File Name', 'label': 'klass'}).to_csv(tmp_path / 'b.csv', index=False)
    tables = [tmp_path / 'a.tsv', tmp_path / 'a.jsonl']
    if importlib.util.find_spec('pyarrow'):
        rows.to_parquet(tmp_path / 'a.parquet')
        tables.append(tmp_path / 'a.parquet')
    expected = find_images([table], run.classes)
    assert len(expected) == 64 and {image.split for image in expected} == {'val', 'test'}
    for other in tables:
        assert find_images([other], run.classes) == expected
    assert find_images([tmp_path / 'b.csv'], run.classes, {'label': 'klass'}) == expected
    (tmp_path / 'a.txt').write_text(''.join(f'{path}\n' for path in rows['img_path']))
    (tmp_path / 'b.txt').write_text(''.join(f'{Path(image.path).name} {image.label}\n' for image in expected[:3]))
    assert [image.path for image in find_images([tmp_path / 'a.txt'], run.classes)] == list(rows['img_path'])
    assert [image.label for image in find_images([tmp_path / 'b.txt'], run.classes, root='/x')] == [
        image.label for image in expected[:3]
    ]


def test_parquet_has_the_numbers_of_csv(run, table, tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    for name in ('p.csv', 'p.parquet'):
        write_predictions(run, [table], tmp_path / name, report=lambda line: None)
    found = parquet.read_table(tmp_path / 'p.parquet').to_pylist()
    for row, other in zip(found, read(tmp_path / 'p.csv'), strict=True):
        assert np.float32(row['p(digit-0-4)']) == np.float32(other['p(digit-0-4)'])
        assert row['prediction'] == other['prediction']


def test_bad_input_is_one_line_and_writes_nothing(finished_run, table, photos, tmp_path, run_tool):
    rows = table.read_text().splitlines()
    (tmp_path / 'label.csv').write_text('\n'.join([rows[0], rows[1].replace('digit-', 'digt-')]))
    (tmp_path / 'columns.csv').write_text('a,b\n1,2\n')
    (tmp_path / 'none').mkdir()
    (tmp_path / 'bad.jpg').write_bytes(b'x')
    out = tmp_path / 'p.csv'
    for words, reason in [
        ([tmp_path / 'nothing', '--out', out], 'no such file or directory; name images'),
        ([tmp_path / 'none', '--out', out], 'holds no image'),
        ([tmp_path / 'label.csv', '--out', out], "label.csv:2: label='digt-"),
        ([tmp_path / 'columns.csv', '--out', out], 'no column with the paths of the images (found: a, b)'),
        ([table, '--out', tmp_path / 'p.txt'], 'predictions are written as .csv, .jsonl, .parquet'),
        ([table, '--out', tmp_path / 'no/p.csv'], 'its directory does not exist'),
        ([table, '--out', out, '--label-column', 'klass'], "column 'klass' is missing"),
        ([tmp_path / 'bad.jpg', '--out', out], 'nothing is predicted'),
        ([table, '--out', out, '--device', 'cuda:7'], "device='cuda:7': this machine has 0 GPUs"),
        ([table, '--out', out, '--device', 'gpu'], "device='gpu': torch has no such device"),
        ([tmp_path / 'bad.jpg', '--out', out, '--metrics', tmp_path / 'm.json'], 'metrics need labels'),
    ]:
        code, err = run_tool('predict', finished_run, '--device', 'cpu', '--no-progress', *words)
        assert code == 2 and err.startswith('error: ') and err.count('\n') == 1 and reason in err, err
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(('p.', '.p', 'm.'))]


def test_scores_that_are_not_finite_are_refused(finished_run, table, tmp_path):
    run = load_run(finished_run, device='cpu')
    with torch.no_grad():
        run.model.head.fc.weight.fill_(float('nan'))
    with pytest.raises(DivergedError, match='the scores of 64 of 64 images are NaN or Inf'):
        write_predictions(run, [table], tmp_path / 'p.csv')
    assert not (tmp_path / 'p.csv').exists()


def test_a_pipeline_without_files_is_refused(finished_run, table, tmp_path):
    run = load_run(finished_run, device='cpu')
    for dataset in run.cfg.test_dataloader.dataset.datasets:
        dataset.pipeline = [dict(type='PackInputs')]
    with pytest.raises(UserError, match='the test pipeline starts with PackInputs'):
        write_predictions(run, [table], tmp_path / 'p.csv')


def test_directories_of_other_classes_are_named(tmp_path, monkeypatch):
    """Their images have no label, so no accuracy is printed; without a word it would seem forgotten."""
    for name in ('cat/a.png', 'dgo/b.png'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    lines = []
    monkeypatch.setattr('ftsgd_plugin.inference.images.print_log', lambda line, **_: lines.append(line))
    found = find_images([tmp_path], ['cat', 'dog'])
    assert [image.label for image in found] == [None, None]
    assert lines == [
        f'{tmp_path}: 1 of 2 images are in no directory of a class of the run ({tmp_path}/dgo/b.png, ...): no accuracy '
        'is computed'
    ]
