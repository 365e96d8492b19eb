"""check_benchmark as a Python function; tests/test_tools/test_prepare_data.py has its table and messages."""

import logging

from mmengine.logging import MMLogger

from ftsgd_plugin.datasets.prepare import BENCHMARKS, check_benchmark
from ftsgd_plugin.paper.names import DATASETS


def test_every_benchmark_of_the_paper_can_be_checked():
    """The tool offers the names of paper.names, which it reads without importing the data sets."""
    assert BENCHMARKS.keys() == DATASETS.keys()


def test_complete_and_incomplete_data(camelyon_root, copy, tmp_path, capsys):
    logger = MMLogger.get_current_instance()
    logger.setLevel(logging.INFO)
    assert check_benchmark('camelyon', camelyon_root) is True
    assert logger.level == logging.INFO  # silent only while the splits are read
    root = copy(camelyon_root)
    broken, missing = sorted(root.glob('patches/*/*.png'))[:2]
    broken.unlink()
    broken.write_bytes(b'')
    bad = tmp_path / 'bad.txt'
    assert check_benchmark('camelyon', root) is True
    assert check_benchmark('camelyon', root, scan=True, workers=1, bad_list=bad) is False
    assert bad.read_text().startswith(f'{broken}\t')
    missing.unlink()
    assert check_benchmark('camelyon', root) is False
    assert 'instead of the published' not in capsys.readouterr().err
