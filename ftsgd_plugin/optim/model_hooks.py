"""The forward hooks that a model has for as long as its optimizer exists."""

import weakref

from torch import nn
from torch.utils.hooks import RemovableHandle

from ..freezing import keep_eval_mode
from .ddp import follow_trained_parameters

_ATTRIBUTE = '_ftsgd_model_hooks'  # on the optimizer wrapper, or on the optimizer


class ModelHooks:
    """Hooks that let eval mode and reducers follow what trains; they leave the model with the optimizer.

    Without hooks of ours a trained model can be exported, pickled and given to other programs as it was.

    Args:
        wrapped: The model as the runner holds it; may be ``model`` itself.
        model: The model inside.
        listed: Whether the model has a layer list, so that frozen layers can be kept in eval mode. Defaults to True.

    Raises:
        UserError: The reduction of the model's wrapper cannot follow, see :func:`follow_trained_parameters`.
    """

    def __init__(self, wrapped: nn.Module, model: nn.Module, listed: bool = True) -> None:
        self._listed = listed
        self._models = weakref.ref(wrapped), weakref.ref(model)
        self._handles: list[RemovableHandle] = []
        self.attach()

    def belong_to(self, owner: object) -> None:
        """Leave the model when an optimizer, or the one of MMEngine's optimizer wrapper, is deleted."""
        setattr(owner, _ATTRIBUTE, self)
        weakref.finalize(getattr(owner, 'optimizer', owner), self.detach)

    @staticmethod
    def of(owner: object) -> 'ModelHooks | None':
        """The hooks that belong to an optimizer or optimizer wrapper."""
        return getattr(owner, _ATTRIBUTE, None)

    def attach(self) -> None:
        """Put the hooks on the model; a second call does nothing."""
        wrapped, model = (reference() for reference in self._models)
        if self._handles or model is None or wrapped is None:
            return
        self._handles = follow_trained_parameters(wrapped, model)
        if self._listed:
            self._handles.append(keep_eval_mode(model))

    def detach(self) -> None:
        """Remove the hooks from the model; a second call does nothing."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
