"""Lightning's names served in this process, for one test."""

from __future__ import annotations

import pytest

from holdfast import compat


@pytest.fixture
def served():
    """They are Holdfast's while the test runs, and nobody's afterwards."""
    compat.install()
    yield
    compat.uninstall()
