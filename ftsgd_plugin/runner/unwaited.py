"""What MMEngine waits for in every training step on a GPU, without the wait.

It reads the loss from the device after every step (``.item()``) and waits until the batch is copied, so that the host
cannot prepare the next step while the device works on this one. It also copies the whole history of every scalar
whenever it adds a value. No number changes.
"""

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import nn

from ..layers import unwrap
from ..utils.patching import replaced

_MOST_WAITING = 4096  # values
_EXACT = (torch.float32, torch.float16, torch.bfloat16, torch.bool)  # in float32


class PatientHistory(HistoryBuffer):
    """MMEngine's history of a scalar, which takes values of the device as they are and reads them when it is read.

    Statistics and content are those of a ``HistoryBuffer``, and it is pickled (in checkpoints) and copied as one.

    Args:
        log_history, count_history, max_length: Those of ``HistoryBuffer``.
    """

    def __init__(self, log_history=(), count_history=(), max_length: int = 1_000_000) -> None:
        self._waiting: list[tuple[float | torch.Tensor, int]] = []
        self._values = self._counts = np.array([])
        super().__init__(log_history, count_history, max_length)

    def update(self, log_val: float | torch.Tensor, count: int = 1) -> None:
        """Add a number, or a tensor with one element, whose value is read later."""
        if isinstance(log_val, torch.Tensor):
            log_val = log_val.detach().clone()  # its owner may change it
        self._waiting.append((log_val, count))
        if len(self._waiting) >= _MOST_WAITING:
            self._read()

    @property
    def _log_history(self) -> np.ndarray:
        self._read()
        return self._values

    @_log_history.setter
    def _log_history(self, values: np.ndarray) -> None:
        self._values = values

    @property
    def _count_history(self) -> np.ndarray:
        self._read()
        return self._counts

    @_count_history.setter
    def _count_history(self, counts: np.ndarray) -> None:
        self._counts = counts

    def _read(self) -> None:
        """Append what waits; of all values on the device in one transfer."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        tensors = [value.reshape(()) for value, _ in waiting if isinstance(value, torch.Tensor)]
        # Not all in float64, which Apple's GPUs lack.
        wide = torch.float32 if all(value.dtype in _EXACT for value in tensors) else torch.float64
        read = iter(torch.stack([value.to(wide) for value in tensors]).tolist() if tensors else ())
        values = [
            _number(value.dtype, next(read)) if isinstance(value, torch.Tensor) else value for value, _ in waiting
        ]
        counts = [count for _, count in waiting]
        if len(self._values):
            values, counts = np.append(self._values, values), np.append(self._counts, counts)
        else:  # the type of the numbers, which decides how they are written, is that of the first ones
            values, counts = np.array(values), np.array(counts)
        self._values, self._counts = values[-self.max_length :], counts[-self.max_length :]

    def __reduce__(self) -> tuple:
        return HistoryBuffer, (self._log_history, self._count_history, self.max_length)


def _number(dtype: torch.dtype, value: float) -> float | int | bool:
    """A value as ``.item()`` gives it."""
    if dtype.is_floating_point:
        return value
    return bool(value) if dtype == torch.bool else int(value)


def wait_for_no_scalar(hub: MessageHub) -> replaced:
    """Let ``hub.update_scalar`` keep values in a :class:`PatientHistory`, until undone.

    Args:
        hub: A run's message hub. What it holds already is kept.
    """
    check = hub._get_valid_value

    def update_scalar(key: str, value, count: int = 1, resumed: bool = True) -> None:
        assert isinstance(count, int), f'count={count!r} is not an integer'
        hub._set_resumed_keys(key, resumed)
        patient = isinstance(value, torch.Tensor) and value.numel() == 1
        value = value if patient and _on_device(value) else check(value)
        history = hub.log_scalars.get(key)
        if type(history) is HistoryBuffer or history is None:
            data = history.data if history is not None else ((), ())
            limit = {} if history is None else {'max_length': history.max_length}
            history = hub.log_scalars[key] = PatientHistory(*data, **limit)
        history.update(value, count)

    return replaced(hub, 'update_scalar', update_scalar)


def copy_without_waiting(model: nn.Module) -> None:
    """Let the model's data preprocessor copy batches to a GPU without waiting; the device keeps the order.

    Memory that the loader has pinned is not used again before its copy is done, which PyTorch sees to; other memory is
    staged by CUDA before the call returns.

    Args:
        model: The model as the runner holds it, on its device.
    """
    preprocessor = getattr(unwrap(model), 'data_preprocessor', None)
    if hasattr(preprocessor, '_non_blocking') and torch.device(preprocessor.device).type == 'cuda':
        preprocessor._non_blocking = True


def _on_device(value: torch.Tensor) -> bool:
    """Whether reading the value would make the host wait."""
    return value.device.type != 'cpu'
