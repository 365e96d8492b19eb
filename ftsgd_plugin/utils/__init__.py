"""Helpers without knowledge of models or training."""
