"""What is decided from the diagnosis: the method, whether it fits, the time of an image."""

from types import SimpleNamespace

import pytest

from ftsgd_plugin.finetune import measure as module
from ftsgd_plugin.finetune.measure import loading_seconds, measure
from ftsgd_plugin.profiling.choice import MethodCost
from ftsgd_plugin.utils.errors import UserError

MIB = 2**20


@pytest.fixture
def diagnosed(monkeypatch):
    """Replace the diagnosis by one of three methods: ``diagnosed(memory, fits=...)``."""

    def replace(memory: int | None = None, fits: tuple = (None, None, None)) -> None:
        sizes = {'adamw': 40 * MIB, 'freeze-embed': 30 * MIB, 'sgd': 32 * MIB}
        methods = {
            name: MethodCost(size, seconds, fit)
            for (name, size), seconds, fit in zip(sizes.items(), (0.05, 0.04, 0.06), fits)
        }
        answer = SimpleNamespace(
            recommendation='freeze-embed', headline='Use freeze-embed.', reasons=['Why.'], ratio=2.0, methods=methods,
            memory=memory, batch_size=32,
        )  # fmt: skip
        monkeypatch.setattr(module, 'diagnose', lambda *args, **options: answer)
        monkeypatch.setattr(module, 'write_page', lambda *args: None)
        monkeypatch.setattr(module, 'loading_seconds', lambda cfg: 0.01)

    return replace


def test_the_recommended_or_the_named_method(digits_config, diagnosed, tmp_path):
    diagnosed()
    found = measure(digits_config(), 'digits', 'auto', None, tmp_path)
    assert (found.method, found.bytes, found.memory) == ('freeze-embed', 30 * MIB, None)
    assert (found.train_image, found.eval_image) == pytest.approx((0.05, 0.03))  # no workers: computing and loading
    assert measure(digits_config(), 'digits', 'adamw', None, tmp_path).method == 'adamw'


@pytest.mark.parametrize(
    'method, fits, said',
    [
        (
            'auto',
            (False, False, False),
            'no method fits with 10 % to spare at --batch-size 32 (freeze-embed needs 30.0 MiB)',
        ),
        (
            'adamw',
            (False, True, True),
            '--method adamw does not fit with 10 % to spare at --batch-size 32 (adamw needs 40.0',
        ),
    ],
)
def test_too_little_memory_is_one_line(digits_config, diagnosed, tmp_path, method, fits, said):
    diagnosed(31 * MIB, fits)
    with pytest.raises(UserError) as error:
        measure(digits_config(), 'digits', method, 31 * MIB, tmp_path)
    assert str(error.value).startswith(f'--memory 31.0 MiB: {said}') and 'give a smaller --batch-size' in str(
        error.value
    )
    assert (', another method' in str(error.value)) == (method == 'adamw')


def test_loading_is_timed_on_the_training_images(digits_config):
    assert 0 < loading_seconds(digits_config(), batches=1) < 1
