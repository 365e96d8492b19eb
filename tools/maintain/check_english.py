"""Find words and phrases that docs/glossary.md rejects; lint runs this.

    python tools/maintain/check_english.py            # every tracked text file
    python tools/maintain/check_english.py FILE ...

Prints `FILE:LINE: 'found': write ...` and exits with 1 if there is any. The patterns are in rejected_words.txt.
"""

import re
import subprocess
import sys
from pathlib import Path

PATTERNS = Path(__file__).with_name('rejected_words.txt')
SUFFIXES = {'.py', '.md', '.sh', '.toml', '.yml', '.cfg', '.txt', '.j2', '.rst', '.in'}
EXEMPT = (
    'docs/glossary.md',  # names what it rejects
    'ftsgd_plugin/datasets/meta/',
    'requirements/',
    'tests/assets/',
    'tools/maintain/rejected_words.txt',
)


def read_patterns() -> list[tuple[re.Pattern, str]]:
    """``(pattern, what to write instead)`` of each line ``pattern -> text``; ``#`` starts a comment line."""
    lines = PATTERNS.read_text('utf-8').splitlines()
    pairs = (line.split(' -> ') for line in lines if line.strip() and not line.startswith('#'))
    return [(re.compile(pattern.strip(), re.IGNORECASE), text.strip()) for pattern, text in pairs]


def check(path: str, patterns: list[tuple[re.Pattern, str]]) -> list[str]:
    """One line for every rejected phrase in a file."""
    found = []
    for number, line in enumerate(Path(path).read_text('utf-8').splitlines(), start=1):
        for pattern, text in patterns:
            found += [f'{path}:{number}: {match[0]!r}: write {text}' for match in pattern.finditer(line)]
    return found


def main() -> None:
    paths = sys.argv[1:] or subprocess.check_output(['git', 'ls-files'], text=True).split('\n')
    paths = [path for path in paths if Path(path).suffix in SUFFIXES and not path.startswith(EXEMPT)]
    patterns = read_patterns()
    found = [line for path in paths if Path(path).is_file() for line in check(path, patterns)]
    print('\n'.join(found) if found else f'{len(paths)} files use the terms of docs/glossary.md')
    sys.exit(bool(found))


if __name__ == '__main__':
    main()
