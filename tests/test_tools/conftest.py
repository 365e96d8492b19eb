"""A project directory with the digits, and one trained run of the demo's config in it."""

import pytest
from helpers.demo_run import CONFIG, ONE_EPOCH


@pytest.fixture(scope='session')
def project(make_project):
    return make_project('project')


@pytest.fixture
def inside(project, monkeypatch):
    """The project directory, as the current one."""
    monkeypatch.chdir(project)
    return project


@pytest.fixture(scope='session')
def trained(project, run_forked):
    """The work dir of one epoch of the demo's config, with every loss logged."""
    work_dir = project / 'work_dirs/trained'
    result = run_forked('tools/train.py', CONFIG, '--work-dir', work_dir, *ONE_EPOCH, cwd=project)
    assert result.returncode == 0, result.stderr
    return work_dir
