"""Records in little memory: tables and reports hold those of a whole sweep at once."""

import functools
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..records import RunRecord


class PackedEpochs(Sequence):
    """Metrics of every epoch as one array of numbers; an epoch is made into a dictionary when it is read.

    Args:
        epochs: Epochs that all have the same metrics.
    """

    __slots__ = ('_keys', '_values')

    def __init__(self, epochs: Sequence[Mapping[str, float]]) -> None:
        self._keys = _shared_keys(tuple(epochs[0]))
        self._values = array('d', (metrics[key] for metrics in epochs for key in self._keys))

    def __len__(self) -> int:
        return len(self._values) // len(self._keys)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        start = range(len(self))[index] * len(self._keys)
        return dict(zip(self._keys, self._values[start : start + len(self._keys)]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None


def small(record: RunRecord) -> RunRecord:
    """The same record, in 2 KiB instead of 20: packed epochs, and one code and environment for all runs that share it.

    Epochs with different metrics stay as they are.
    """
    epochs = record.epochs
    keys = epochs[0].keys() if epochs else ()
    if keys and all(metrics.keys() == keys for metrics in epochs):
        epochs = PackedEpochs(epochs)
    code, environment = (_shared_dict(json.dumps(one)) for one in (record.code, record.environment))
    return replace(record, epochs=epochs, code=code, environment=environment)


@functools.lru_cache(maxsize=1000)
def _shared_keys(keys: tuple[str, ...]) -> tuple[str, ...]:
    return keys


@functools.lru_cache(maxsize=1000)
def _shared_dict(text: str) -> dict:
    return json.loads(text)
