"""The optimizer wrapper constructor of freeze-embed."""

import logging

from mmengine.logging import MMLogger, print_log
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS
from torch import nn

from ..layers import Layer, has_adapters, unwrap
from ..utils.errors import UserError
from ..utils.patching import replaced
from .flash import cast_weights, casts_weights, check_flash
from .flash_release import FlashReleaseOptimWrapper
from .fused import can_be_fused, fused_by_default
from .groups import check_complete, decay_rates, freeze_model, large_embedding, merge_by_stage
from .library_optimizers import missing_library, prepare, refuse_training_weights
from .measured_rates import refuse_unmeasured
from .model_hooks import ModelHooks
from .paramwise import check_custom_keys, check_paramwise
from .rates import GRADIENT, MEASURED, multiply_rates
from .report import FreezeReport
from .sgd_in_backward import SGDInBackwardOptimWrapper, refuse_reducer
from .values import check_groups

_NEED_WEIGHT_DECAY = {'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult'}


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class FreezeEmbedOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Freeze the embedding layer and build the optimizer over the rest.

    Source: "How to Fine-Tune Vision Models with SGD" (arXiv 2211.09359), freeze-embed. For ViTs the patch convolution
    and ``ln_pre`` (if there is one) are frozen; positional embedding and class token train.

    A warning names an embedding of more than 2 % of the parameters, as in very small networks.

    On CUDA, SGD, Adam and AdamW are fused unless the optimizer's config sets ``fused`` or ``foreach``
    (:func:`ftsgd_plugin.optim.fused.fused_by_default`).

    Every ``paramwise_cfg`` key of MMEngine's ``DefaultOptimWrapperConstructor`` keeps its meaning. Parameters with the
    same stage (role and block) and the same hyper-parameters share a group, in the order of the layer list; each group
    stores ``name`` (its first layer), ``role`` and ``block`` (``None`` outside blocks). Frozen parameters are in no
    group, a shared parameter is in one. Under ``DistributedDataParallel`` the reducer follows what trains.

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper, with its ``optimizer``.
        paramwise_cfg (dict, optional): MMEngine's keys, and

            - ``freeze`` (str | list[str]): ``'embed'`` (default), ``'stem'``, ``'none'``, ``'all-but-head'``,
              ``'all-but-first-block'``, or a list of layer names and globs as printed by ``list_layers``.
            - ``train`` (str): What trains of the layers that are not frozen: ``'all'`` (default), or
              ``'norms-and-biases'`` and the head.
            - ``lora`` (dict): Options of :class:`ftsgd_plugin.LoRABackbone`, which ``tools/train.py`` puts around the
              backbone: low-rank adapters and the head train. Defaults to none.
            - ``layer_decay_rate`` (float): Layer-wise learning-rate decay, as BEiT's and MAE's recipes use it: the rate
              of a parameter is multiplied by it once per layer above, where blocks, and the final norm and the head
              together, count as layers (:func:`ftsgd_plugin.layers.layer_depths`). ``lr_mult`` and the like multiply
              it too. Defaults to none.
            - ``lr_mult`` (dict | str): Role, block or glob -> multiplier of the learning rate
              (:func:`ftsgd_plugin.optim.rates.lr_multipliers`); of several that match a layer the last counts. Or
              ``'gradient'``: multipliers are measured before the first update
              (:func:`ftsgd_plugin.optim.rates.gradient_lr_mult`), by :class:`ftsgd_plugin.GradientRatesHook`, which
              ``tools/train.py`` registers. Multiplies the options above too. Defaults to none.

    Raises:
        UserError: ``paramwise_cfg`` has an unknown key or a custom key that matches no parameter, ``freeze`` matches
            nothing or leaves nothing to train, the backbone has no layer list, ``layer_decay_rate`` is not above 0 and
            at most 1, ``lr_mult`` is not a dict of numbers above 0 or names no layer, the optimizer has no learning
            rate for either, its library is missing, a learning rate, momentum or weight decay is NaN, infinite or out
            of range, a decay multiplier is given without the optimizer's ``weight_decay``, activation checkpointing is
            re-entrant, ``lora`` is set and the model has no adapters, or the optimizer wrapper and the model wrapper
            cannot be combined.

    Examples:
        >>> optim_wrapper = dict(
        >>>     optimizer=dict(type='SGD', lr=1e-3, momentum=0.9),
        >>>     constructor='FreezeEmbedOptimWrapperConstructor',
        >>>     paramwise_cfg=dict(freeze='embed'))
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if isinstance(paramwise_cfg, dict) or paramwise_cfg is None:
            paramwise_cfg = dict(paramwise_cfg or {})
            paramwise_cfg.setdefault('freeze', 'embed')
        if _is_dict_of_dicts(paramwise_cfg):  # other kinds are MMEngine's to refuse, as in its own constructor
            check_paramwise(paramwise_cfg, type(self))
        _require_weight_decay(optim_wrapper_cfg, paramwise_cfg)
        optimizer = optim_wrapper_cfg.get('optimizer') if isinstance(optim_wrapper_cfg, dict) else None
        if isinstance(optimizer, dict) and (reason := missing_library(optimizer.get('type'))):
            raise UserError(reason)
        if isinstance(optimizer, dict):
            check_flash(optim_wrapper_cfg, optimizer)
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        self.freeze, self.train = self.paramwise_cfg['freeze'], self.paramwise_cfg.get('train', 'all')
        self.layer_decay_rate: float | None = self.paramwise_cfg.get('layer_decay_rate')
        self.lr_mult: dict[str, float] | str | None = self.paramwise_cfg.get('lr_mult')
        for key in ('layer_decay_rate', 'lr_mult'):
            if self.paramwise_cfg.get(key) is not None and self.base_lr is None:
                raise UserError(
                    f'optim_wrapper.paramwise_cfg.{key} multiplies the learning rate and the optimizer has none; '
                    'add lr to optim_wrapper.optimizer.'
                )
        self.layers: list[Layer] = []

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Freeze the layers of ``model`` and build its optimizer wrapper.

        Args:
            model (nn.Module): The classifier, wrapped for distributed training or not.

        Returns:
            OptimWrapper: The wrapper; the optimizer's groups hold the trained parameters only.
        """
        inner = unwrap(model)
        check_custom_keys(inner, self.paramwise_cfg)
        _require_adapters(inner, self.paramwise_cfg)
        listed = self.layer_decay_rate is not None or self.lr_mult is not None
        self.layers, frozen = freeze_model(inner, self.freeze, self.train, listed)
        if (message := large_embedding(self.layers, frozen)) is not None:
            print_log(message, logger='current', level=logging.WARNING)
        # Groups in a ConfigDict would be ConfigDicts, which an optimizer reads slowly, in every step.
        optimizer_cfg = dict(self.optimizer_cfg)
        if casts_weights(optimizer_cfg):
            cast_weights(inner)
        trained = (param for param in inner.parameters() if param.requires_grad)
        if fused_by_default({**self.optim_wrapper_cfg, 'optimizer': optimizer_cfg}) and can_be_fused(trained):
            optimizer_cfg = {**optimizer_cfg, 'fused': True}
        with replaced(self, 'optimizer_cfg', optimizer_cfg):
            optim_wrapper = super().__call__(model)
        prepare(optim_wrapper.optimizer)
        refuse_training_weights(optim_wrapper.optimizer, inner)
        refuse_unmeasured(optim_wrapper.optimizer)
        check_groups(optim_wrapper.optimizer)
        check_complete(inner, optim_wrapper.optimizer.param_groups)
        if isinstance(optim_wrapper, SGDInBackwardOptimWrapper):
            refuse_reducer(model)
        elif isinstance(optim_wrapper, FlashReleaseOptimWrapper):
            optim_wrapper.check_model(model)
        ModelHooks(model, inner, listed=bool(self.layers)).belong_to(optim_wrapper)
        listed = self.layers or [Layer('model', 'head', None, 'model', dict(inner.named_parameters()), {})]
        report = FreezeReport.of(listed, self.freeze, frozen, optim_wrapper.optimizer, self.train)
        print_log(str(report), logger='current')
        return optim_wrapper

    def add_params(
        self, params: list[dict], module: nn.Module, prefix: str = '', is_dcn_module: int | float | None = None
    ) -> None:
        """Apply MMEngine's rules to every parameter; at the root, merge its one group per parameter into few."""
        if prefix:
            super().add_params(params, module, prefix=prefix, is_dcn_module=is_dcn_module)
            return
        with replaced(MMLogger.get_current_instance(), 'disabled', True):  # MMEngine logs lines for every parameter
            super().add_params(params, module, is_dcn_module=is_dcn_module)
        params[:] = self._merge(params)
        shared = dict(module.named_parameters(remove_duplicate=False)).keys() - dict(module.named_parameters()).keys()
        if shared and self.paramwise_cfg.get('bypass_duplicate'):
            print_log(
                f'bypass_duplicate: optimised under their first name only: {", ".join(sorted(shared))}.',
                logger='current',
                level=logging.WARNING,
            )

    def _merge(self, groups: list[dict]) -> list[dict]:
        """Merge the groups (one parameter each) that agree in role, block and every hyper-parameter."""
        options: dict[nn.Parameter, dict] = {}
        for group in groups:
            (param,) = group['params']
            options.setdefault(param, {key: value for key, value in group.items() if key != 'params'})
        if self.layer_decay_rate is not None:
            decay_rates(self.layers, options, self.base_lr, self.layer_decay_rate)
        if self.lr_mult == GRADIENT:
            for own in options.values():
                own[MEASURED] = None  # until GradientRatesHook measures it
        elif self.lr_mult is not None:
            multiply_rates(self.layers, options, self.base_lr, self.lr_mult)
        return merge_by_stage(self.layers, options)


def _is_dict_of_dicts(paramwise_cfg: dict | None) -> bool:
    return isinstance(paramwise_cfg, dict) and isinstance(paramwise_cfg.get('custom_keys', {}), dict)


def _require_adapters(model: nn.Module, paramwise_cfg: dict) -> None:
    """Refuse ``lora`` for a model without adapters: everything would train."""
    if paramwise_cfg.get('lora') is not None and not has_adapters(model):
        raise UserError(
            'optim_wrapper.paramwise_cfg.lora: the model has no adapters; train by tools/train.py, which adds them, or '
            "set model.backbone=dict(type='LoRABackbone', module=...) yourself."
        )


def _require_weight_decay(optim_wrapper_cfg: dict, paramwise_cfg: dict | None) -> None:
    """Refuse multipliers of a weight decay that the optimizer does not set; other mistakes are MMEngine's to report."""
    optimizer = optim_wrapper_cfg.get('optimizer') if isinstance(optim_wrapper_cfg, dict) else None
    if not isinstance(optimizer, dict) or optimizer.get('weight_decay') is not None:
        return
    if not isinstance(paramwise_cfg, dict):
        return
    custom = paramwise_cfg.get('custom_keys')
    in_custom = isinstance(custom, dict) and any('decay_mult' in options for options in custom.values())
    if in_custom or _NEED_WEIGHT_DECAY & paramwise_cfg.keys():
        raise UserError(
            'optim_wrapper: paramwise_cfg multiplies the weight decay but the optimizer has none; '
            'add weight_decay=0. (or your value) to optim_wrapper.optimizer.'
        )
