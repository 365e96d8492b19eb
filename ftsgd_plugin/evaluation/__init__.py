"""Grouped accuracy and the selection rule."""

from .group_accuracy import GroupAccuracy
from .selection import select_epoch, select_lr

__all__ = ['GroupAccuracy', 'select_epoch', 'select_lr']
