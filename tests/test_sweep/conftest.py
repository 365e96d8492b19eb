import pytest


@pytest.fixture(scope='module', autouse=True)
def own_cache(tmp_path_factory):
    """Keeps predicted costs out of the user's cache directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield
