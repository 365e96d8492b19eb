"""Write the checkpoints of a sharded run in parts, at once or in the background."""

import os
import shutil
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from mmengine.runner import Runner

from ..checkpoint.parts import commit, divided, new_directory, remove_parts, temporary_of, writer
from ..layers import unwrap
from ..utils.errors import UserError, one_line
from ..utils.files import sync_directory, temporary_name
from ..utils.patching import replaced
from .checkpoint import SafeCheckpointHook
from .divergence import DivergenceHook


class PartsWriter:
    """In the place of ``Runner.save_checkpoint``: all ranks write their parts, rank 0 writes the file.

    In the background the ranks copy their parts and continue training; the file has a temporary name until all parts
    are on the disk, and the checkpoint that it replaces stays until then.

    Args:
        runner: The runner.
        save: Its own ``save_checkpoint``, which writes on the main process only.
        in_background: Whether training continues while the parts are written.
    """

    def __init__(self, runner: Runner, save: Callable[..., None], in_background: bool) -> None:
        self._runner, self._save, self._in_background = runner, save, in_background
        self.directory = Path()  # of the checkpoint being written
        self._last: tuple[str, int] | None = None  # file and iteration of the parts written last
        self._pending: tuple[Any, Path, Path] | None = None  # future, directory, file
        self._group = torch.distributed.new_group(backend='gloo') if in_background else None
        self._keepers = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
        for hook in self._keepers:
            hook.is_held = lambda: self._pending is not None

    def save(self, out_dir: str, filename: str, file_client_args: dict | None = None, **options) -> None:
        """Write a checkpoint; called on all ranks.

        Raises:
            UserError: It cannot be written.
        """
        self.finish()
        for hook in self._runner.hooks:
            if isinstance(hook, DivergenceHook):
                hook.check_weights(self._runner)  # each rank sees its parts only
        file, iteration = Path(out_dir) / filename, options['meta']['iter']
        model, optim_wrapper = unwrap(self._runner.model), self._runner.optim_wrapper
        values: dict[str, torch.Tensor] = {}
        parts = model.state_dict()
        content = {'state_dict': parts}
        if options.get('save_optimizer', True):
            content['optimizer'] = optim_wrapper.state_dict()
        rest = divided(content, values)
        weights = OrderedDict(rest['state_dict'])
        weights._metadata = parts._metadata
        again = self._last == (str(file), iteration)  # the same weights, with the outcome of a validation
        future = None if again else self._write_parts(file, iteration, values)
        with (
            replaced(model, 'state_dict', lambda *args, **kw: weights),
            replaced(optim_wrapper, 'state_dict', lambda: rest['optimizer']),
        ):
            self._save(out_dir, temporary_name(filename) if future else filename, file_client_args, **options)
        self._last = (str(file), iteration)
        if future:
            self._pending = future, self.directory, file
        elif is_main_process():
            remove_parts(file, keep=self.directory.name)

    def finish(self, wait: bool = True) -> None:
        """Complete the checkpoint that is being written; without ``wait`` only if its parts are on the disk."""
        if self._pending is None:
            return
        future, directory, file = self._pending
        if not wait and not future.done():
            return
        with _one_line(file):
            future.result()
        if is_main_process():
            commit(temporary_of(directory), directory)
            os.replace(file.with_name(temporary_name(file.name)), file)
            sync_directory(file.parent)
            remove_parts(file, keep=directory.name)
        self._pending = None
        for hook in self._keepers:
            hook.remove_outdated()

    def _write_parts(self, file: Path, iteration: int, values: dict[str, torch.Tensor]) -> Any:
        """Write the parts, or begin to; returns the future of the background."""
        from torch.distributed.checkpoint import async_save, save

        name = [new_directory(file, iteration).name]
        torch.distributed.broadcast_object_list(name, src=0)
        self.directory = file.with_name(name[0])
        temporary = temporary_of(self.directory)
        if is_main_process():
            shutil.rmtree(temporary, ignore_errors=True)  # of an attempt that was killed
            temporary.mkdir(parents=True)
        barrier()
        with _one_line(file):
            if self._in_background:
                return async_save(values, storage_writer=writer(temporary), process_group=self._group)
            save(values, storage_writer=writer(temporary))
        if is_main_process():
            commit(temporary, self.directory)
        return None


@contextmanager
def _one_line(file: Path):
    """Raise the failures of all ranks as one line."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        rank, (cause, _) = next(iter(error.failures.items()))
        raise UserError(
            f'{file}: cannot be written (rank {rank}: {one_line(cause)}); make room or choose another work_dir.'
        ) from error
