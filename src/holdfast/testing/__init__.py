"""For the tests of those who train with Holdfast: whether a run that is killed and resumed is the same run."""

from __future__ import annotations

from holdfast.testing.exact_resume import assert_exact_resume

__all__ = ["assert_exact_resume"]
