"""Imitates a training for tests of what starts trainings: python stub_run.py DIRECTORY SECONDS RECORD.

RECORD is the JSON of the record to leave. As tools/train.py does, it writes the record at the start and after every
epoch (one per metrics dict in RECORD, so many SECONDS apart), continues where an earlier start was killed, and leaves
checkpoints. It does not import torch.
"""

import json
import sys
import time
from dataclasses import replace
from pathlib import Path

from ftsgd_plugin.records import RunRecord, read_record, write_record
from ftsgd_plugin.utils.errors import UserError

directory, seconds = Path(sys.argv[1]), float(sys.argv[2])
finished = RunRecord(**json.loads(sys.argv[3]))
try:
    done = 0
    if (directory / 'record.json').is_file() and read_record(directory).config_hash == finished.config_hash:
        done = len(read_record(directory).epochs)
    for epoch in range(done, len(finished.epochs) + 1):
        running = replace(finished, status='running', epochs=finished.epochs[:epoch], selected_epoch=None)
        write_record(running, directory)
        if epoch < len(finished.epochs):
            time.sleep(seconds)
            (directory / f'epoch_{epoch + 1}.pth').write_bytes(b'weights')
    write_record(finished, directory)
except UserError as problem:
    print(f'error: {problem}', file=sys.stderr)
    sys.exit(2)
