"""Let programs written for Lightning run on Holdfast, unchanged. Touches no installed package.

``holdfast run train.py`` does it for a whole program and the processes that it starts; ``install()`` from code for
the process at hand. What is served under which name is table.py's, what is not is absent.py's; docs/migrating.md
is the page.
"""

from __future__ import annotations

from holdfast.compat.finder import install, uninstall

__all__ = ["install", "uninstall"]
