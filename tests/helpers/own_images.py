"""A user's own images: one small data set in every layout that is read."""

import csv
import io
import json
from pathlib import Path

from PIL import Image

CLASSES = ('cat', 'dog', 'owl')
SITES = ('north', 'south', 'west')
COLUMNS = ('path', 'label', 'site', 'patient')


def image_bytes(shade: int) -> bytes:
    """A PNG of 4 x 4 pixels of one grey."""
    buffer = io.BytesIO()
    Image.new('L', (4, 4), shade).save(buffer, 'png')
    return buffer.getvalue()


def rows(per_cell: int = 4) -> list[tuple[str, str, str, str]]:
    """``path, label, site, patient`` for every class and site; a patient has two images."""
    found = []
    for site in SITES:
        for label in CLASSES:
            for i in range(per_cell):
                found.append((f'{site}/{label}/{i}.png', label, site, f'{site}-{label}-{i // 2}'))
    return found


def write_images(root: Path, paths) -> Path:
    for shade, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(image_bytes(shade % 256))
    return root


def as_table(table_rows, header=COLUMNS, delimiter: str = ',') -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator='\n').writerows([header, *table_rows])
    return text.getvalue()


def write_table(file: Path, table_rows, header=COLUMNS) -> Path:
    """A table in the format of its name."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == '.parquet':
        import pandas as pd

        pd.DataFrame(table_rows, columns=list(header)).to_parquet(file)
    elif file.suffix == '.jsonl':
        file.write_text(''.join(json.dumps(dict(zip(header, row))) + '\n' for row in table_rows))
    elif file.suffix == '.txt':
        file.write_text(''.join(f'{path} {label}\n' for path, label, *_ in table_rows))
    else:
        file.write_text(as_table(table_rows, header, '\t' if file.suffix == '.tsv' else ','))
    return file
