"""The file ``last_checkpoint``, which names the checkpoint to resume from."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import mmengine.hooks.checkpoint_hook
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ..utils.files import write_text
from ..utils.patching import replaced

POINTER = 'last_checkpoint'


def write_pointer(runner: Runner, checkpoint: str) -> None:
    """Let ``last_checkpoint`` of the work directory name a checkpoint; written atomically, by rank 0.

    Raises:
        UserError: It cannot be written; an earlier one is untouched.
    """
    if is_main_process():
        write_text(Path(runner.work_dir) / POINTER, checkpoint, remedy='make room or choose another work_dir')


@contextlib.contextmanager
def atomic_pointer(runner: Runner, hook: CheckpointHook) -> Iterator[None]:
    """Write ``last_checkpoint`` atomically where MMEngine's hook, called in this block, would write it in place.

    In place, a full disk leaves it empty. MMEngine's hook does so last, on the main process; after it has saved, this
    process is not the main one to it.
    """
    save, saved = runner.save_checkpoint, []

    def save_and_note(*args, **kwargs) -> None:
        save(*args, **kwargs)
        saved.append(True)

    module = mmengine.hooks.checkpoint_hook
    with (
        replaced(runner, 'save_checkpoint', save_and_note),
        replaced(module, 'is_main_process', lambda: is_main_process() and not saved),
    ):
        yield
    if saved:
        write_pointer(runner, str(hook.last_ckpt))
