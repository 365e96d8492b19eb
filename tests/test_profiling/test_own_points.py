"""The file of points measured with this project: what is written is read, one row per point, and bad rows are named."""

from dataclasses import replace

import pytest

from ftsgd_plugin.profiling.own_points import POINTS, OwnPoint, add_points, own_points, read_points
from ftsgd_plugin.utils.errors import UserError

POINT = OwnPoint('a', 'x', 84, 'cpu', 1.5, 2.0, -3.25, None, 0.5, -1.0, 3, '2026-11-26')


def test_what_is_written_is_read_and_a_second_measurement_replaces_the_first(tmp_path):
    path = tmp_path / 'points.csv'
    other = replace(POINT, pixels=224, gain_auroc=20.4, adamw_gain=None)
    add_points(path, [other, POINT])
    assert read_points(path) == [POINT, other]
    add_points(path, [replace(POINT, ratio=1.75)])
    assert read_points(path) == [replace(POINT, ratio=1.75), other]
    assert own_points([path])[-2:] == [replace(POINT, ratio=1.75), other]


def test_the_points_of_the_package_are_as_they_are_written(tmp_path):
    points = own_points()
    assert len({point.key for point in points}) == len(points)
    assert add_points(tmp_path / 'again.csv', points).read_text() == POINTS.read_text()


@pytest.mark.parametrize('change, message', [
    (('1.5', 'much'), "points.csv:4: ratio='much' is not a value of this column"),
    (('1.5', '-1.5'), "points.csv:4: ratio='-1.5' is not"),
    (('1.5', 'nan'), "points.csv:4: ratio='nan' is not"),
    ((',84,', ',,'), "points.csv:4: pixels='' is not"),
    (('a,x', ',x'), "points.csv:4: model='' is not"),
    ((',3,2026', ',2026'), 'points.csv:4: 11 values instead of 12'),
    (('model,dataset', 'dataset,model'), 'its columns are not model,dataset'),
])  # fmt: skip
def test_a_malformed_file_is_one_line(tmp_path, change, message):
    path = add_points(tmp_path / 'points.csv', [POINT])
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(UserError, match=message):
        read_points(path)
    with pytest.raises(UserError, match='cannot be read'):
        own_points([tmp_path / 'absent.csv'])
