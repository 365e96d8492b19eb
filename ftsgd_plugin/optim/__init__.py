"""Groups, schedules and gradient norms; optimizer wrapper constructor, SGD in the backward pass, gradual unfreezing.

The names are imported on first use, because :mod:`.groups`, :mod:`.layer_grad_norms`, :mod:`.schedule` and
:mod:`.unfreezing` need PyTorch alone. :mod:`ftsgd_plugin.components` imports all of them, which registers the classes.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'constructor': ['FreezeEmbedOptimWrapperConstructor'],
        'flash_release': ['FlashReleaseOptimWrapper'],
        'gradual_unfreezing': ['GradualUnfreezingLR'],
        'groups': ['param_groups'],
        'layer_grad_norms': ['LayerGradNorms'],
        'rates': ['gradient_lr_mult'],
        'probe_then_finetune': ['ProbeThenFineTuneLR'],
        'sharding.wrapper': ['ShardedDataParallel'],
        'sgd_in_backward': ['InBackwardDataParallel', 'SGDInBackwardOptimWrapper'],
        'unfreezing': ['GradualUnfreezing'],
    },
)
