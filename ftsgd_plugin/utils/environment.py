"""Are the packages below this one installed, in versions that work? MMEngine, MMCV and MMPretrain may be forks.

The ranges are stated once, in ``pyproject.toml``. A checkout reads them there; an installed package, and a checkout
under Python 3.10, which cannot parse that file, from the installed metadata. A checkout without either is not checked.
"""

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .errors import one_line
from .version import checkout_project

# The extra with the official packages and the one with the forks; both own the same import names.
OFFICIAL, FORK = 'mim', 'onedl'
# Import name -> distributions that provide it, the preferred one first.
MM_PACKAGES = {
    'mmengine': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv-lite', 'mmcv', 'onedl-mmcv-lite', 'onedl-mmcv'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}
# Where the import name is not the name of the distribution.
IMPORT_NAMES = {
    'open-clip-torch': 'open_clip',
    'pillow': 'PIL',
    'huggingface-hub': 'huggingface_hub',
    'lazy-loader': 'lazy_loader',
}
# opencv-python, which MMEngine asks for, needs libGL and X11; the headless build provides the same module without them.
HEADLESS = 'pip uninstall -y opencv-python && pip install opencv-python-headless'


class StackError(ImportError):
    """A requirement is missing, broken or of an unsupported version; one line with the command that fixes it."""


def check_stack() -> None:
    """Compare the installed versions with the requirements, without importing anything.

    Raises:
        StackError: One line that names the package, what is wrong with it and the command that fixes it.
    """
    always, mm_required = _requirements()
    for requirement in always:
        _check(requirement, _import_name(requirement), requirement.name, _install(requirement))
    for import_name, distributions in MM_PACKAGES.items() if mm_required else ():
        found = next((name for name in distributions if _installed(name)), distributions[0])
        # A distribution without a range, such as the full mmcv, has that of the one that the extra names.
        fitting = [*(r for r in mm_required if r.name == found), *(r for r in mm_required if r.name in distributions)]
        _check(fitting[0], import_name, found, _install_mm())


def _check(requirement: Requirement, import_name: str, distribution: str, remedy: str) -> None:
    version = _installed(distribution)
    wanted = f'{import_name}{_range(requirement)}'
    if version is None:
        # Some builds of a package come without metadata: then its version is unknown and taken to work.
        if importlib.util.find_spec(import_name) is None:
            raise StackError(f'ftsgd_plugin needs {wanted} and it is not installed; run: {remedy}')
    elif not requirement.specifier.contains(version, prereleases=True):
        raise StackError(f'ftsgd_plugin needs {wanted} and found {version}; run: {remedy}')


@functools.lru_cache
def _requirements() -> tuple[list[Requirement], list[Requirement]]:
    """The package's requirements, and those of the extras with the MM packages."""
    requirements = _declared()
    always = [requirement for requirement in requirements if _applies(requirement)]
    return always, [requirement for requirement in requirements if _extra(requirement) is not None]


def _declared() -> list[Requirement]:
    """All requirements; those of an extra have it in their marker."""
    text = checkout_project()
    if text is None or sys.version_info < (3, 11):
        try:
            return list(map(Requirement, importlib.metadata.requires('ftsgd_plugin') or ()))
        except importlib.metadata.PackageNotFoundError:
            return []
    import tomllib

    project = tomllib.loads(text)['project']
    requirements = list(map(Requirement, project['dependencies']))
    for extra, lines in project['optional-dependencies'].items():
        for requirement in map(Requirement, lines):
            own = f'({requirement.marker}) and ' if requirement.marker else ''
            requirement.marker = Marker(f'{own}extra == "{extra}"')
            requirements.append(requirement)
    return requirements


def _applies(requirement: Requirement, extra: str = '') -> bool:
    return requirement.marker is None or requirement.marker.evaluate({'extra': extra})


def _extra(requirement: Requirement) -> str | None:
    """Which of :data:`OFFICIAL` and :data:`FORK` a requirement belongs to."""
    extras = (OFFICIAL, FORK) if not _applies(requirement) else ()
    return next((extra for extra in extras if _applies(requirement, extra)), None)


def _import_name(requirement: Requirement) -> str:
    name = canonicalize_name(requirement.name)
    return IMPORT_NAMES.get(name, name)


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _install(*requirements: Requirement, options: str = '') -> str:
    return f'pip install {options}' + ' '.join(f"'{r.name}{_range(r)}'" for r in requirements)


def _install_mm() -> str:
    """The command for all MM packages: the forks if any of them is installed, else the official packages."""
    by_extra = {extra: [r for r in _requirements()[1] if _extra(r) == extra] for extra in (OFFICIAL, FORK)}
    if not any(_installed(requirement.name) for requirement in by_extra[FORK]):
        return _install(*by_extra[OFFICIAL])
    # mmcv-lite requires the official mmengine, which owns the same files as the fork.
    mmcv = [requirement for requirement in by_extra[OFFICIAL] if requirement.name in MM_PACKAGES['mmcv']]
    return f'{_install(*by_extra[FORK])} && {_install(*mmcv, options="--no-deps ")}'


def _range(requirement: Requirement) -> str:
    """``>=2.1,<3``: the lower bound first."""
    return ','.join(sorted(map(str, requirement.specifier), reverse=True))


def import_failure(error: BaseException) -> StackError | None:
    """Say what is wrong with the environment if an exception comes from importing a requirement.

    Args:
        error: Any exception: a broken installation fails in many ways (missing shared libraries, version assertions).

    Returns:
        StackError | None: One line with the remedy; ``None`` for an exception with another cause.
    """
    if isinstance(error, StackError):
        return error
    package = next(filter(None, map(_failed_import, _chain(error))), None)
    if package is None:
        return None
    try:
        check_stack()
    except StackError as unfit:
        return unfit
    always, _ = _requirements()
    if package == 'cv2':
        remedy = HEADLESS
    elif not always:
        remedy = f"pip install -e '{Path(__file__).parents[2]}[{OFFICIAL}]'"
    elif package in MM_PACKAGES:
        remedy = _install_mm()
    else:
        remedy = _install(*(r for r in always if _import_name(r) == package))
    reason = one_line(error)
    return StackError(f'ftsgd_plugin needs {package} and cannot import it ({reason}); run: {remedy}')


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it was raised from: a failed ``custom_imports`` arrives as MMEngine's own error."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _failed_import(error: BaseException) -> str | None:
    """The requirement whose import raised an exception: it is missing, or its module level is on the traceback."""
    names = {_import_name(r) for r in _requirements()[0]} | {'torch', *MM_PACKAGES, 'cv2'}
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.partition('.')[0]
        if package in names and sys.modules.get(package) is None:
            return package
    found, trace = None, error.__traceback__
    while trace is not None:
        package = trace.tb_frame.f_globals.get('__name__', '').partition('.')[0]
        if trace.tb_frame.f_code.co_name == '<module>' and package in names:
            found = package
        trace = trace.tb_next
    return found


def explain_import_errors(function: Callable) -> Callable:
    """Decorate a function so that an import that fails in it is a :class:`StackError`."""

    @functools.wraps(function)
    def wrapped(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failure = import_failure(error)
            if failure is None:
                raise
            raise failure from None  # the chain would put pages of traceback above the line

    return wrapped
