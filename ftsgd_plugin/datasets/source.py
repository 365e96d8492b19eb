"""Where a user's own images are and how their labels are written down: the options that the readers share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import PurePosixPath

from ..utils.errors import UserError, one_line
from ..utils.names import did_you_mean

FIELDS = ('img_path', 'gt_label', 'split', 'group', 'sample_idx')  # of every record: no metadata has these names
# Order of the directories above the images. Deeper directories belong to the class.
TREES = ('class', 'split/class', 'domain/class', 'split/domain/class', 'domain/split/class')
TABLE_SUFFIXES = ('.csv', '.tsv', '.jsonl', '.ndjson', '.parquet', '.txt')


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table.

    Attributes:
        path: Path of the image.
        label: Name or number of its class.
        split: Its split; empty: the table does not say.
        group: The group whose accuracy is reported separately; empty: the class.
        metadata: Further columns, kept in the records under their names.
    """

    path: str = 'path'
    label: str = 'label'
    split: str = ''
    group: str = ''
    metadata: tuple[str, ...] = ()

    @property
    def used(self) -> tuple[str, ...]:
        """The columns to read, in the order of the attributes."""
        return tuple(filter(None, (self.path, self.label, self.split, self.group))) + self.metadata


@dataclass(frozen=True)
class Source:
    """A user's own images: files, and what their columns or directories mean.

    Attributes:
        root: The directory that every path is relative to.
        tables: ``(split, file)`` below ``root``; the split is empty if the table holds several. Empty: a tree.
        tree: One of :data:`TREES`, for images in directories.
        columns: Names of the columns.
        images: ``(split, directory)`` below ``root`` that the paths of a table are relative to; an empty split is for
            all tables.
        suffix: Added to every path of a table, e.g. ``'.jpg'`` where the column holds identifiers.
        split_names: ``(name in the data, name here)``.
    """

    root: str
    tables: tuple[tuple[str, str], ...] = ()
    tree: str = ''
    columns: Columns = Columns()
    images: tuple[tuple[str, str], ...] = ()
    suffix: str = ''
    split_names: tuple[tuple[str, str], ...] = ()

    @property
    def name(self) -> str:
        """The file or directory that a message about the whole data names."""
        path = self.tables[0][1] if len(self.tables) == 1 else ''
        return str(PurePosixPath(self.root, path))


def parse_source(
    root: str,
    table: str | Mapping[str, str] = '',
    tree: str = '',
    columns: Mapping | None = None,
    images: str | Mapping[str, str] = '',
    suffix: str = '',
    split_names: Mapping[str, str] | None = None,
) -> Source:
    """The options of ``GroupedImages`` as a :class:`Source`.

    Raises:
        UserError: An option is of another type, unknown, or contradicts another.
    """
    if bool(table) == bool(tree):
        raise UserError(
            "GroupedImages: set one of table='labels.csv' and tree='class'; ftsgd_plugin.datasets.recognise(data_root) "
            'finds which.'
        )
    if tree and tree not in TREES:
        raise UserError(f'GroupedImages: tree={one_line(repr(tree), limit=60)} is not one of {", ".join(TREES)}.')
    if tree and (columns or images or suffix):
        raise UserError('GroupedImages: columns, images and suffix are of a table; remove them beside tree.')
    if not isinstance(suffix, str):
        raise UserError(f'GroupedImages: suffix={suffix!r} is not text.')
    tables = _pairs('table', table)
    for _, file in tables:
        if not file:
            raise UserError('GroupedImages: table has an empty file name; correct it.')
    return Source(
        root=root,
        tables=tables,
        tree=tree,
        columns=_tree_columns(tree) if tree else parse_columns(columns),
        images=_pairs('images', images),
        suffix=suffix,
        split_names=tuple(sorted(_texts('split_names', split_names or {}).items())),
    )


def _tree_columns(tree: str) -> Columns:
    parts = tree.split('/')
    return Columns(
        split='directory of the split' if 'split' in parts else '',
        group='directory of the domain' if 'domain' in parts else '',
    )


def parse_columns(columns: Mapping | None) -> Columns:
    """Names of columns from a config: ``dict(path='file', label='species', group='site', metadata=['year'])``.

    Raises:
        UserError: A key is unknown, or a name is empty, repeated or that of a field of every record.
    """
    if not isinstance(columns, Mapping | None):
        raise UserError(f'GroupedImages: columns={one_line(repr(columns), limit=60)} is not a dict; correct it.')
    columns, known = dict(columns or {}), [field.name for field in fields(Columns)]
    if unknown := [key for key in columns if key not in known]:
        raise UserError(f'GroupedImages: columns has no {unknown[0]!r}; {did_you_mean(str(unknown[0]), known)}')
    metadata = columns.pop('metadata', ())
    if isinstance(metadata, str) or not isinstance(metadata, Sequence):
        raise UserError(f'GroupedImages: columns.metadata={one_line(repr(metadata), limit=60)} is not a list of names.')
    for key, name in [*columns.items(), *(('metadata', name) for name in metadata)]:
        if not isinstance(name, str) or (not name and key not in ('split', 'group')):
            raise UserError(f'GroupedImages: columns.{key}={name!r} is not the name of a column.')
    for name in metadata:
        if name in FIELDS:
            raise UserError(f'GroupedImages: columns.metadata: every record has its own {name!r}; leave it out.')
    if repeated := [name for name in metadata if list(metadata).count(name) > 1]:
        raise UserError(f'GroupedImages: columns.metadata names {repeated[0]!r} twice; remove one.')
    return Columns(**columns, metadata=tuple(metadata))


def _texts(option: str, value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(part, str) for pair in value.items() for part in pair):
        raise UserError(f'GroupedImages: {option}={one_line(repr(value), limit=60)} does not map text to text.')
    return dict(value)


def _pairs(option: str, value: str | Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """One value for all splits, or one per split."""
    if isinstance(value, str):
        return (('', value),) if value else ()
    return tuple(_texts(option, value).items())
