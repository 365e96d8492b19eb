"""Grouped accuracy and the selection rule.

The names are imported on first use, so that :mod:`.selection` loads without torch. Importing :mod:`.group_accuracy`
registers the metric.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'checks': ['check_configured_metrics', 'check_configured_splits', 'check_evaluated_splits'],
        'group_accuracy': ['GroupAccuracy'],
        'selection': ['select_epoch', 'select_lr'],
    },
)
