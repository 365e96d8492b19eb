"""Grouped accuracy and the selection rule."""

from .config_check import check_evaluated_splits
from .group_accuracy import GroupAccuracy
from .selection import select_epoch, select_lr

__all__ = ['GroupAccuracy', 'check_evaluated_splits', 'select_epoch', 'select_lr']
