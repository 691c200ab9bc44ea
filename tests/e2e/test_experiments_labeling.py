"""experiments/labeling: the simulated user, the classes, the goal."""

from __future__ import annotations

import sys

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _path(repository, monkeypatch):
    monkeypatch.syspath_prepend(str(repository / "experiments" / "labeling"))
    yield
    for name in ("labeling", "views", "scenes", "report"):
        sys.modules.pop(name, None)


def test_the_user_clicks_well_inside_the_largest_error_of_one_class() -> None:
    from labeling import worst_error

    truth = np.zeros((40, 60), int)
    truth[:, 30:] = 1  # with 2 it makes the larger error, but of two classes
    truth[20:, 30:] = 2
    truth[:4, :4] = -1
    labels = np.zeros_like(truth)
    labels[:25, :30] = 1  # 25 x 30 wrong pixels of class 0, less 16 unknown
    rng = np.random.default_rng(0)
    for _ in range(20):
        row, column, number = worst_error(labels, truth, None, rng)
        assert number == 0
        assert 6 <= row <= 19
        assert 6 <= column <= 24
    locked = np.zeros((40, 60), bool)
    locked[:, :30] = True
    assert worst_error(labels, truth, locked, rng)[2] in (1, 2)
    assert worst_error(np.where(truth < 0, 5, truth), truth, None, rng) is None


def test_parts_of_a_person_are_grouped_and_the_rest_of_it_is_unknown() -> None:
    from scenes import CCP_GROUPS, _ccp

    names = list(CCP_GROUPS)
    masks = np.zeros((4, 3, 6), bool)
    masks[0, :, 1:] = True  # the person
    masks[1, :, 2], masks[2, :, 3], masks[3, :, 4] = True, True, True
    annotations = [
        {"level": "object", "label": "person"},
        {"level": "part", "label": "jeans"},
        {"level": "part", "label": "hair"},
        {"level": "part", "label": "watch"},
    ]
    expected = [names.index("background"), -1, names.index("legs"), names.index("hair"), -1, -1]
    assert _ccp(annotations, masks)[0].tolist() == expected


def test_clicks_to_a_goal_are_read_off_the_curve() -> None:
    from report import _clicks_to

    curve = np.array([0.2, 0.4, 0.5])
    assert _clicks_to(curve, 0.1) == pytest.approx(0.5)
    assert _clicks_to(curve, 0.3) == pytest.approx(1.5)
    assert _clicks_to(curve, 0.5) == pytest.approx(3)
    assert _clicks_to(curve, 0.6) == np.inf
