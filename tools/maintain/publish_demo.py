"""Put the result of a whole `bash tools/demo.sh` into README.md and docs/: the figure, the table, what was seen.

    bash tools/demo.sh --out work_dirs/published
    python tools/maintain/publish_demo.py work_dirs/published --machine '2 hyper-threads of an AMD EPYC, otherwise idle'

Writes docs/demo.png, docs/demo.json, and the blocks between the marks `demo result` of README.md and
docs/get_started.md, which a test compares with docs/demo.json.
"""

import argparse
import json
import re
import textwrap
from pathlib import Path

from ftsgd_plugin.utils.cli import one_line_errors
from ftsgd_plugin.utils.errors import UserError
from ftsgd_plugin.utils.files import write_bytes, write_text
from ftsgd_plugin.utils.format import format_duration

ROOT = Path(__file__).resolve().parents[2]
PAGES = {'README.md': 108, 'docs/get_started.md': 125}  # width of their lines
FIGURE = 'Gradient norm of every layer before training, and accuracies of three methods after it'
MARK = re.compile(r'(<!-- demo result[^\n]*-->\n)(.*?)(<!-- end of demo result -->)', re.S)


def block(page: str, published: dict) -> str:
    """The text between the marks of a page.

    Args:
        page: A key of :data:`PAGES`.
        published: Content of ``docs/demo.json``.
    """
    lines = published['table'].splitlines()
    if page == 'README.md':
        lines = _columns(lines, ('method', 'ID (%)', 'OOD (%)', 'AUROC OOD', 'state bytes per parameter'))
    said = published['sentences'][:2] if page == 'README.md' else published['sentences']
    made = (
        f'`bash tools/demo.sh`, {published["date"]}, {published["machine"]}, '
        + ', '.join(f'{name} {published["environment"][name]}' for name in ('torch', 'timm', 'mmpretrain'))
        + f': {format_duration(published["seconds"])} after set-up. One seed.'
    )
    texts = [textwrap.fill(text, PAGES[page], break_on_hyphens=False) for text in (made, ' '.join(said))]
    figure = f'![{FIGURE}]({"docs/" * (page == "README.md")}demo.png)'
    return '\n\n'.join([figure, texts[0], '\n'.join(lines), texts[1]]) + '\n'


def _columns(lines: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Some columns of a Markdown table, without its padding."""
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    places = [rows[0].index(name) for name in wanted]
    rows[1] = [':---' if cell.startswith(':') else '---:' for cell in rows[1]]
    return [f'| {" | ".join(row[i] for i in places)} |' for row in rows]


def publish(out: Path, machine: str) -> None:
    """Write the figure, the data and both pages.

    Raises:
        UserError: The directory has no result, or one that was not made in one go.
    """
    summary = out / 'summary.json'
    if not summary.is_file():
        raise UserError(f'{summary}: does not exist; run bash tools/demo.sh --out {out} first.')
    content = json.loads(summary.read_text('utf-8'))
    if content['seconds'] is None:
        raise UserError(f'{summary}: was not made in one go, so that its time is unknown; remove {out} and run again.')
    content = {'machine': machine, **{key: value for key, value in content.items() if key != 'runs'}}
    write_bytes(ROOT / 'docs/demo.png', (out / 'demo.png').read_bytes())
    write_text(ROOT / 'docs/demo.json', json.dumps(content, indent=1) + '\n')
    for page in PAGES:
        before, mark, _, end, after = MARK.split((ROOT / page).read_text('utf-8'))
        write_text(ROOT / page, before + mark + block(page, content) + end + after)


@one_line_errors
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='--out of the demo')
    parser.add_argument('--machine', required=True, help='processor and what else it did')
    args = parser.parse_args()
    publish(args.out, args.machine)


if __name__ == '__main__':
    main()
