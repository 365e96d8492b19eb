"""A mistake in a config is told from a bug in the class that it names."""

import pytest
from mmengine.registry import Registry

from ftsgd_plugin.utils.build_errors import build_failure

PARTS = Registry('part')


class Base:
    def __init__(self, size=1):
        self.size = size


@PARTS.register_module()
class Passing(Base):
    def __init__(self, rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.half = self.size // 2


@PARTS.register_module()
class Keeping:
    """Its keyword arguments go to a function that no signature names."""

    def __init__(self, size=1, **kwargs):
        self.half, self.options = size // 2, kwargs


@PARTS.register_module()
class Calling:
    def __init__(self):
        Base(sizes=1)


def failure(**cfg) -> str | None:
    with pytest.raises(TypeError) as caught:
        PARTS.build(cfg)
    return build_failure(caught.value)


@pytest.mark.parametrize(
    'cfg, message',
    [
        (dict(type='Passing', sizes=2), "type='Passing': got an unexpected keyword argument 'sizes'; correct the keys"),
        (dict(type='Calling', sizes=2), "type='Calling': got an unexpected keyword argument 'sizes'; correct the keys"),
    ],
)
def test_unknown_key_is_named(cfg, message):
    assert failure(**cfg).startswith(message)


@pytest.mark.parametrize(
    'cfg',
    [
        dict(type='Passing', size='2'),
        dict(type='Keeping', size='2', drop_path_rate=0.1),
        dict(type='Calling'),
    ],
)
def test_bug_in_a_constructor_is_not_explained(cfg):
    assert failure(**cfg) is None


def test_backbone_with_arguments_of_timm_is_not_blamed_for_a_valid_key():
    from mmpretrain.registry import MODELS

    cfg = dict(type='TimmPooledBackbone', model_name='vit_tiny_patch16_224', drop_path_rate=0.1, img_size='224')
    with pytest.raises(TypeError) as caught:
        MODELS.build(cfg)
    assert build_failure(caught.value) is None
