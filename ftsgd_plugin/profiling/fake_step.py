"""One training step traced with fake tensors: its live bytes at every operator, and its FLOPs."""

import weakref
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from math import prod

import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope, init_default_scope
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ..models.image_size import built_for
from ..models.lora import with_adapters
from ..optim.flash import cast_weights, casts_weights
from ..optim.state import meta_optimizer, optimizer_state_bytes, state_tensors, stored_tensors, values_of_meta_tensors
from ..utils.errors import UserError, one_line
from ..utils.names import type_name


@dataclass(frozen=True)
class StepTrace:
    """What forward and backward of one step need beyond weights and buffers.

    Attributes:
        inputs: Bytes of the normalised batch.
        activations: Bytes that the forward pass leaves for the backward pass, every storage once, without weights.
        forward_peak: Most bytes live in the forward pass, inputs included.
        backward_peak: Most bytes live in the backward pass: activations not yet freed, gradients so far, temporaries.
        flops: Floating point operations of matrix products, convolutions and attention (a multiply-add counts two).
    """

    inputs: int
    activations: int
    forward_peak: int
    backward_peak: int
    flops: int


class LiveBytes(TorchDispatchMode):
    """Track every storage that operators create: bytes live now, the most at once, and the operators' FLOPs.

    Args:
        known: Tensors that exist already; they and views of them do not count.
    """

    def __init__(self, known=()) -> None:
        super().__init__()
        self.live = self.peak = self.flops = 0
        self._known = [tensor.untyped_storage() for tensor in known]  # held, so that no other storage gets their ids
        self._storages: dict[int, weakref.ref | None] = {id(storage): None for storage in self._known}
        self._formulas = _flop_formulas()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (formula := self._formulas.get(func._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=out)
        for leaf in tree_leaves(out):
            for tensor in stored_tensors(leaf):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        def freed(_) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, freed)
        self.live += size
        self.peak = max(self.peak, self.live)

    def restart_peak(self) -> int:
        """The peak so far; the next one starts from what is live now."""
        peak, self.peak = self.peak, self.live
        return peak


def _flop_formulas() -> dict:
    """PyTorch's formulas, with grouped convolutions corrected and the attention operators that it leaves out added."""
    aten = torch.ops.aten

    def convolution_backward(grad, x, weight, *args, out_val=None, **kwargs) -> int:
        # torch (2.11) ignores the groups: three times too much for all of ConvNeXt
        spatial = x.shape[2:] if args[4] else grad.shape[2:]  # transposed
        return 2 * sum(args[-1][:2]) * x.shape[0] * prod(spatial) * weight.numel()

    def attention(query, key, value, *args, out_val=None, **kwargs) -> int:
        return sdpa_flop_count(query.shape, key.shape, value.shape)

    def attention_backward(grad, query, key, value, *args, out_val=None, **kwargs) -> int:
        return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)

    def fused_attention_layer(query, key, value, width, heads, *args, out_val=None, **kwargs) -> int:
        batch, tokens = query.shape[:2]  # nn.MultiheadAttention in eval mode, as in CLIP's frozen blocks
        projections = 2 * batch * tokens * 4 * width * width
        per_head = (batch, heads, tokens, width // heads)
        return projections + sdpa_flop_count(per_head, per_head, per_head)

    return {
        **FlopCounterMode(display=False).flop_registry,
        aten.convolution_backward: convolution_backward,
        aten._native_multi_head_attention: fused_attention_layer,
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }


def model_config(cfg: Config) -> dict:
    """The model of a config, without the loading of weights; 1000 classes if none are set.

    Raises:
        UserError: The config has no model.
    """
    if 'model' not in cfg:
        raise UserError(f'{cfg.filename or "the config"}: has no model; name a config with one.')
    model = cfg.model.to_dict()
    if 'pretrained' in model.get('backbone', {}):
        model['backbone']['pretrained'] = False
    if isinstance(model.get('head'), dict):
        model['head'].setdefault('num_classes', 1000)
    return model


def image_size(cfg: Config, model: nn.Module) -> int:
    """Side of the training images in pixels: the pipeline's last crop or resize, else the backbone's, else 224."""
    dataset = (cfg.get('train_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset:  # wrappers such as RepeatDataset
        dataset = dataset['dataset']
    for step in reversed(dataset.get('pipeline') or []):
        size = next((step[key] for key in ('crop_size', 'scale', 'size') if step.get(key)), None)
        if size is not None and any(word in type_name(step) for word in ('Crop', 'Resize')):
            return size if isinstance(size, int) else max(size)
    return built_for(model.backbone) or 224


def fake_batch(classes: int, size: int, batch_size: int, device: str) -> dict:
    """Arguments of the model's loss: images (B, 3, H, W), float32, and labels. Real outside ``FakeTensorMode``."""
    with torch.device(device):
        samples = [DataSample().set_gt_label(torch.zeros(1, dtype=torch.long)) for _ in range(batch_size)]
        return dict(inputs=torch.zeros(batch_size, 3, size, size), data_samples=samples)


class FakeModel:
    """A config's model as fake tensors: shapes, types and operators are real, there is no storage.

    Args:
        cfg: A config with a model.
        device: Whose operators are traced: ``'cpu'``, or ``'cuda'`` on a machine that has one (PyTorch cannot run
            the backward pass of fake CUDA tensors elsewhere).
        optim_wrapper: A method's, which may put adapters into the model or keep its weights in bfloat16.
    """

    def __init__(self, cfg: Config, device: str = 'cpu', optim_wrapper: dict | None = None) -> None:
        self.device = device
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        if DefaultScope.get_current_instance() is None:
            init_default_scope('mmpretrain')
        settings = with_adapters(model_config(cfg), optim_wrapper)
        with torch.device('meta'):  # constructors may read values, which the meta device forgives more often
            self.model = MODELS.build(settings)
        self.size = image_size(cfg, self.model)
        self.classes = settings['head']['num_classes'] if settings.get('head') else 1000
        if casts_weights((optim_wrapper or {}).get('optimizer', {})):
            cast_weights(self.model)
        with self.mode:
            self.model.to_empty(device=device)
        self.model.train()

    def trace(self, batch_size: int, autocast: str | None = None, in_backward: bool = False) -> StepTrace:
        """Run forward and backward of what trains now.

        Args:
            batch_size: Images per step.
            autocast: ``None`` for float32, or ``'bfloat16'``, ``'float16'``.
            in_backward: Drop each gradient when it is complete.
        """
        hooks = []
        if in_backward:
            trained = (param for param in self.model.parameters() if param.requires_grad)
            hooks = [param.register_post_accumulate_grad_hook(_drop_gradient) for param in trained]
        with self.mode:
            batch = fake_batch(self.classes, self.size, batch_size, self.device)
            known = [*self.model.parameters(), *self.model.buffers(), batch['inputs']]
            inputs = batch['inputs'].untyped_storage().nbytes()
            with LiveBytes(known) as tracker:
                with torch.autocast(self.device, getattr(torch, autocast)) if autocast else nullcontext():
                    losses = self.model(**batch, mode='loss')
                loss, _ = self.model.parse_losses(losses)
                activations = tracker.live
                forward = tracker.restart_peak()
                loss.backward()
                backward = tracker.peak
                flops = tracker.flops
        for hook in hooks:
            hook.remove()
        self.model.zero_grad()
        return StepTrace(inputs, activations, inputs + forward, inputs + backward, flops)

    def forward_flops(self, batch_size: int) -> int:
        """FLOPs of the evaluation of a batch: one forward pass in eval mode."""
        with self.mode, torch.no_grad(), LiveBytes() as tracker:
            batch = fake_batch(self.classes, self.size, batch_size, self.device)
            self.model.eval()
            self.model(batch['inputs'], mode='tensor')
            self.model.train()
        return tracker.flops


def _drop_gradient(param: torch.Tensor) -> None:
    param.grad = None


def trace_update(build: Callable[[list[nn.Parameter]], Optimizer], params, foreach: bool) -> tuple[int, int]:
    """Bytes of an optimizer's state, and of the temporaries of its update.

    Args:
        build: Builds the optimizer from parameters, without ``fused`` and ``capturable``, which the meta device lacks.
        params: The parameters that train.
        foreach: Whether the update takes all tensors at once, PyTorch's default on CUDA, and not one by one.

    Returns:
        tuple: ``(state, temporaries)`` in bytes.

    Raises:
        UserError: The optimizer cannot step on meta tensors.
    """
    name = 'optimizer'
    params = list(params)
    try:
        optimizer = meta_optimizer(lambda twins: build(twins[0]), [params], foreach)
        name = f'optimizer {type(optimizer).__name__}'
        with values_of_meta_tensors():
            optimizer.step()
            return optimizer_state_bytes(optimizer), _temporaries(optimizer)
    except Exception as error:
        reason = one_line(error, limit=120)
        raise UserError(f'{name}: its state cannot be predicted ({reason}); leave its method out.') from error


def _temporaries(optimizer: Optimizer) -> int:
    """The most bytes that an update needs besides weights, gradients and state; the optimizer has stepped before."""
    twins = [twin for group in optimizer.param_groups for twin in group['params']]
    known = [*twins, *(twin.grad for twin in twins), *state_tensors(optimizer)]
    with LiveBytes(known) as tracker:
        optimizer.step()
    return tracker.peak
