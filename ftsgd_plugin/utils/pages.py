"""Self-contained HTML pages from Jinja templates: inline style, embedded figures, nothing from the network.

A page is a template that extends ``base.html.j2`` (style, title, footer) and may use ``macros.html.j2``. Every value is
escaped, whatever its source.
"""

import base64
import os
from pathlib import Path
from typing import Any

from .format import format_bytes

_SHARED = Path(__file__).with_name('templates')


def render_page(template: str | os.PathLike, **context: Any) -> str:
    """Fill a template.

    Args:
        template: Path of the template file. Templates in its directory and the shared ones can be extended, included
            and imported by their file names.
        **context: Its variables. ``base.html.j2`` needs ``title`` and takes ``footer``.

    Returns:
        str: The page.

    Raises:
        jinja2.UndefinedError: The template uses a variable that was not passed.

    Examples:
        >>> text = render_page('templates/report.html.j2', title='My runs', notes=['2 runs'])
    """
    import jinja2

    template = Path(template)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {'data_uri': data_uri, 'format_bytes': format_bytes}
    return environment.get_template(template.name).render(context)


def data_uri(image: str | os.PathLike | bytes) -> str:
    """A PNG file, or its content, as the value of ``src``."""
    content = image if isinstance(image, bytes) else Path(image).read_bytes()
    return 'data:image/png;base64,' + base64.b64encode(content).decode()
