"""The code blocks of README.md and docs/: finding, classifying and running them.

Every fenced block of python, bash, text or another language carries an HTML comment on the line before it::

    <!-- test: run -->         python: executed; bash: its programs run, in the scratch directory of the page
                               (``| head -N`` and ``| tail -N`` work)
    <!-- test: run | WORDS --> bash: with these words added to each command, to keep the test small
    <!-- test: config -->      python: a config that loads and whose model is built on the meta device
    <!-- test: config on PATH --> python: likewise, as a child of that config
    <!-- test: parse -->       bash: programs exist and know these options; nothing runs
    <!-- test: output -->      text: what the block before printed; a line `...` matches any lines
    <!-- test: numbers -->     text: likewise, numbers apart
    <!-- test: skip REASON --> not tested

Among the words of ``run``, ``expect N`` is the exit code and ``TINY`` means options that evaluate few images. With
``FTSGD_UPDATE_DOCS=1`` the outputs are written into the pages instead of compared.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from helpers import ROOT

_BLOCK = re.compile(
    r'(?:<!-- test: (?P<mark>[^\n]*?) -->\n)?^(?P<fence>```)(?P<language>\w+)\n(?P<code>.*?)^```$', re.M | re.S
)
KINDS = {
    'python': {'run', 'config', 'skip'},
    'bash': {'run', 'parse', 'skip'},
    'text': {'output', 'numbers', 'skip'},
}


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The Markdown file.
        line: Line of its first code line, from 1.
        language: What follows the fence.
        kind: First word of the mark; ``''`` without a mark.
        words: The rest of the mark.
        code: The text between the fences.
    """

    page: Path
    line: int
    language: str
    kind: str
    words: str
    code: str

    @property
    def name(self) -> str:
        return f'{self.page.relative_to(ROOT)}:{self.line}'


def pages() -> list[Path]:
    """README and the pages of docs/, generated ones apart."""
    return [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order. Directives (```{name}) are none."""
    text = page.read_text('utf-8')
    found = []
    for match in _BLOCK.finditer(text):
        kind, _, words = (match['mark'] or '').partition(' ')
        line = text.count('\n', 0, match.start('code')) + 1
        found.append(Block(page, line, match['language'], kind, words.strip(), match['code']))
    return found


def commands(code: str) -> list[str]:
    """The commands of a bash block: comments dropped, continued lines joined."""
    lines = code.replace('\\\n', ' ').splitlines()
    return [line for line in (re.sub(r'(^|\s)#.*', '', line).strip() for line in lines) if line]


def matches(wanted: str, found: str, numbers: bool) -> bool:
    """Whether an output is the documented one; ``numbers``: whatever its numbers are."""

    def plain(text: str) -> str:
        text = '\n'.join(line.rstrip() for line in text.strip().splitlines())
        if numbers:
            text = re.sub(r'\d[\d.,e+-]*', '#', text)
            text = re.sub(r'# [KMGT]?i?B\b', '# B', text)
            text = re.sub(r'[ -]+', ' ', text)  # columns and signs
        return text

    pattern = re.escape(plain(wanted)).replace(r'\.\.\.', '...')
    pattern = re.sub(r'(^|\n)\.\.\.(?=\\?\n|$)', r'\1(?:.*)', pattern)  # re.escape puts a backslash before line breaks
    return re.fullmatch(pattern, plain(found), re.S) is not None


def replace_output(block: Block, found: str) -> None:
    """Write an output into the page of its block."""
    lines = block.page.read_text('utf-8').splitlines(keepends=True)
    start = block.line - 1
    end = start + block.code.count('\n')
    text = '\n'.join(line.rstrip() for line in found.strip('\n').splitlines())
    lines[start:end] = [text + '\n']
    block.page.write_text(''.join(lines), 'utf-8')
