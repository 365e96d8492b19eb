"""A full disk ends a run with one line, wherever MMEngine writes; it damages no file of an earlier run."""

import logging
import sys
from functools import partial
from pathlib import Path

from mmengine.config import Config

from ..utils.errors import UserError
from ..utils.files import write_text
from ..utils.patching import replaced
from ..utils.write_errors import cannot_write, is_write_failure


def configs_written_whole() -> replaced:
    """Until undone, write ``.py`` configs atomically; in place a full disk would empty those of an earlier run."""
    dump = Config.dump

    def dump_whole(self: Config, file: str | Path | None = None) -> str | None:
        if file is None or not str(file).endswith('.py'):
            return dump(self, file)
        write_text(file, self.pretty_text, remedy='make room or choose another work_dir')
        return None

    return replaced(Config, 'dump', dump_whole)


def unwritable_log_refused() -> replaced:
    """Until undone, as :func:`refuse_unwritable_log` for the loggers that are still to be made."""
    return replaced(logging.StreamHandler, 'handleError', _handle)


def refuse_unwritable_log(logger: logging.Logger) -> None:
    """Let a line of the log that cannot be written end the run; Python prints a traceback for each and continues."""
    for handler in logger.handlers:
        if isinstance(handler, logging.StreamHandler):
            replaced(handler, 'handleError', partial(_handle, handler))


def _handle(handler: logging.StreamHandler, record: logging.LogRecord) -> None:
    error = sys.exc_info()[1]
    if not is_write_failure(error):
        logging.Handler.handleError(handler, record)
        return
    file = getattr(handler, 'baseFilename', 'standard output')
    raise UserError(cannot_write(file, error)) from error
