"""Find a table with labels, its columns, and the directory that its paths are relative to."""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

from ..utils.errors import UserError, one_line
from .csv_reader import open_text
from .image_names import SUFFIXES
from .readers import read_rows
from .readers.saved import image_columns, is_saved, label_columns, open_saved
from .readers.trees import subdirectories
from .source import TABLE_SUFFIXES, parse_columns
from .splits import is_split, split_name

# Usual names of columns, the likelier first; without _, - and blanks, in lower case.
PATH_NAMES = (
    *('path', 'filename', 'filepath', 'imagepath', 'imgpath', 'imagefile', 'imagefilename', 'imgfilename', 'image'),
    *('imagename', 'img', 'file', 'imageid', 'id'),
)
LABEL_NAMES = (
    *('label', 'class', 'classname', 'category', 'categoryname', 'labelname', 'target', 'species', 'diagnosis', 'dx'),
    *('breed', 'y', 'gtlabel', 'categoryid', 'classid'),
)
SPLIT_NAMES = ('split', 'subset', 'partition', 'set', 'fold', 'phase')
GROUP_NAMES = (
    *('group', 'domain', 'site', 'hospital', 'centre', 'center', 'institution', 'scanner', 'environment', 'location'),
    *('place', 'country', 'region', 'patientid', 'patient', 'subjectid', 'subject', 'source'),
)
_LOOKED_AT = 50  # rows whose images are looked for


def find_table(root: Path, given: Mapping) -> tuple[Path, dict, list[str]] | None:
    """The table that belongs to a path, with the options that read it.

    Args:
        root: A table, or a directory.
        given: Options that the caller has set.

    Returns:
        tuple | None: The directory, options of ``GroupedImages``, and notes; ``None`` if there is no table.

    Raises:
        UserError: There are several tables, or one whose columns or images are not found.
    """
    if root.is_file():
        if root.suffix.lower() not in TABLE_SUFFIXES:
            raise UserError(f'{root}: is not a table ({" ".join(TABLE_SUFFIXES)}); name a directory or a table.')
        root, tables = root.parent, {'': root.name}
    elif 'table' in given:
        tables = {'': given['table']} if isinstance(given['table'], str) else dict(given['table'])
    else:
        tables = _saved_of(root) or _tables_of(root)
    if not tables:
        return None
    options = {key: value for key, value in given.items() if key != 'table'}
    first = next(iter(tables.values()))
    notes = [f'table: {", ".join(tables.values())}']
    if is_saved(str(root / first)):
        options |= _of_saved(root, tables, options)
        notes = [f'saved by datasets: {", ".join(tables) if "" not in tables else "one data set"}']
    elif not first.lower().endswith('.txt'):
        options['columns'] = _name_columns(str(root / first), options.get('columns') or {})
        notes.append('columns: ' + ', '.join(f'{key} = {name}' for key, name in options['columns'].items()))
    if is_saved(str(root / first)):
        notes.append('columns: ' + ', '.join(f'{key} = {name}' for key, name in options['columns'].items()))
    options['table'] = tables.get('', tables)
    if 'images' not in options and not is_saved(str(root / first)):
        options |= _find_images(root, tables, options, notes)
    return root, options, notes


def _saved_of(root: Path) -> dict[str, str]:
    """The splits of a data set that ``datasets`` has saved, or the single one."""
    if is_saved(str(root)):
        return {'': '.'}
    if not (root / 'dataset_dict.json').is_file():
        return {}
    return {split_name(name): name for name in subdirectories(root) if is_saved(str(root / name))}


def _of_saved(root: Path, tables: Mapping[str, str], options: Mapping) -> dict:
    """Columns of a saved data set, by their types and then by their names, and where its images are."""
    first = str(root / next(iter(tables.values())))
    columns = dict(options.get('columns') or {})
    for key, typed in (('path', image_columns(first)), ('label', label_columns(first))):
        if typed:
            columns.setdefault(key, typed[0])
    found = {'columns': _name_columns(first, columns)}
    if '' not in tables and 'images' not in options:
        found['images'] = dict(tables)
    return found


def _tables_of(root: Path) -> dict[str, str]:
    """Tables in a directory: one per split, or a single one."""
    beside = {name: root / name for name in subdirectories(root) if is_split(name)}
    own = {}
    for name, directory in beside.items():
        for table in ('metadata.csv', 'metadata.jsonl', 'metadata.parquet'):  # image directories of Hugging Face
            if (directory / table).is_file():
                own[split_name(name)] = f'{name}/{table}'
    if own:
        return own
    for directory in ('', 'meta'):
        files = [path for path in sorted((root / directory).glob('*')) if _is_table(path)]
        by_split = {
            split_name(path.stem): f'{directory}/{path.name}'.lstrip('/') for path in files if is_split(path.stem)
        }
        if by_split:
            return by_split
        files = [path for path in files if path.suffix.lower() != '.txt'] if not directory else []
        if len(files) > 1 and (usual := [path for path in files if path.stem.lower() in ('labels', 'metadata')]):
            files = usual[:1]
        if len(files) > 1:
            names = ', '.join(path.name for path in files)
            raise UserError(
                f'{root}: holds several tables ({one_line(names, limit=120)}); name the one with the labels.'
            )
        if files:
            return {'': files[0].name}
    return {}


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES and path.is_file() and not path.name.startswith('.')


def header_of(file: str) -> list[str]:
    """Names of the columns of a table that has a header."""
    if is_saved(file):
        return list(open_saved(file).features)
    suffix = Path(file).suffix.lower()
    if suffix == '.parquet':
        try:
            from pyarrow import ArrowException, parquet
        except ImportError:
            raise UserError(f"{file}: Parquet needs pyarrow; run: pip install 'ftsgd_plugin[hf]'.") from None
        try:
            return parquet.read_schema(file).names
        except (ArrowException, OSError) as error:
            raise UserError(f'{file}: not a Parquet file ({one_line(error, limit=120)}); write it again.') from None
    with open_text(file, 'table') as text:
        if suffix in ('.jsonl', '.ndjson'):
            try:
                row = json.loads(next((line for line in text if line.strip()), '{}'))
            except ValueError:
                row = {}
            return list(row) if isinstance(row, dict) else []
        return next(csv.reader(text, delimiter='\t' if suffix == '.tsv' else ','), [])


def _name_columns(file: str, columns: Mapping) -> dict:
    """The columns that the caller has not named, by their usual names."""
    parse_columns(columns)
    if not Path(file).is_file() and not is_saved(file):
        raise UserError(f'{file}: not found; correct table or the path.')
    header = header_of(file)
    found = usual_columns(header, columns)
    for key in ('path', 'label'):
        if key not in found:
            if len(header) == 1 and (other := next((mark for mark in ';\t|' if mark in header[0]), None)):
                raise UserError(f'{file}: the fields are separated by {other!r}; write commas, or tabs in a .tsv file.')
            shown = one_line(', '.join(header), limit=300) or 'no header'
            raise UserError(
                f'{file}: no column is named like {key} (found: {shown}); name it with columns=dict({key}=...).'
            )
    return {key: value for key, value in found.items() if value}


def usual_columns(header: Sequence[str], given: Mapping) -> dict:
    """The columns of a table by their usual names.

    Args:
        header: Names of its columns.
        given: Those that are named already: ``path``, ``label``, ``split``, ``group``, ``metadata``.

    Returns:
        dict: ``given``, and what was recognised of the others.
    """
    plain, found = {}, dict(given)
    for name in header:
        plain.setdefault(name.lower().replace('_', '').replace('-', '').replace(' ', ''), name)
    taken = {*(name for key, name in found.items() if key != 'metadata'), *found.get('metadata', ())}
    for key, usual in (('path', PATH_NAMES), ('label', LABEL_NAMES), ('split', SPLIT_NAMES), ('group', GROUP_NAMES)):
        if key in found:
            continue
        name = next((plain[one] for one in usual if one in plain and plain[one] not in taken), '')
        if name:
            found[key] = name
            taken.add(name)
    return found


def _find_images(root: Path, tables: Mapping[str, str], options: Mapping, notes: list[str]) -> dict:
    """The directory that the paths are relative to, and what they lack at their end: where the first images exist."""
    prefixes, suffix = {}, options.get('suffix', '')
    for split, file in tables.items():
        columns = parse_columns(options.get('columns'))
        rows = [fields[0] for _, fields in islice(read_rows(str(root / file), columns), _LOOKED_AT)]
        beside = os.path.dirname(file)
        places = list(dict.fromkeys(['', beside, split, *_image_directories(root, beside, split)]))
        ends = [suffix] if suffix or any(Path(name).suffix.lower() in SUFFIXES for name in rows) else ['', *SUFFIXES]
        hits = {(place, end): _existing(root / place, rows, end) for place in places for end in ends}
        place, end = max(hits, key=hits.get) if hits else ('', '')
        if rows and not hits[place, end]:
            looked = ', '.join(str(root / place) for place in places[:4])
            raise UserError(
                f'{root / file}: none of its first {len(rows)} images exists, such as {one_line(rows[0], limit=80)} '
                f'(looked in {looked}); set images= to the directory that the paths are relative to.'
            )
        prefixes[split], suffix = place, end
    found = {'suffix': suffix} if suffix else {}
    if any(prefixes.values()):
        found['images'] = next(iter(prefixes.values())) if len(set(prefixes.values())) == 1 else prefixes
        notes.append(f'paths are relative to: {", ".join(dict.fromkeys(place or "." for place in prefixes.values()))}')
    if suffix:
        notes.append(f'images end in: {suffix}')
    return found


def _image_directories(root: Path, beside: str, split: str) -> list[str]:
    """Directories in which the images of a table may be: one or two levels down."""
    found = []
    for base in dict.fromkeys((beside, '')):
        for name in subdirectories(root / base)[:100]:
            place = f'{base}/{name}'.lstrip('/')
            if is_split(name) and split and split_name(name) != split:
                continue
            found += [place, *(f'{place}/{inner}' for inner in subdirectories(root / place)[:20])]
    return found


def _existing(directory: Path, names: Sequence[str], end: str) -> int:
    return sum((directory / f'{name}{end}').is_file() for name in names if name.strip() and '\0' not in name)
