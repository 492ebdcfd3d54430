"""Let the asserts of the shared suite explain themselves."""

import pytest

pytest.register_assert_rewrite("store.contract")
