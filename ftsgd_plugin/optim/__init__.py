"""Optimizer constructors."""

from .constructor import FreezeEmbedOptimWrapperConstructor

__all__ = ['FreezeEmbedOptimWrapperConstructor']
