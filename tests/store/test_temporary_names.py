"""A temporary name says where it belongs and whose it is."""

from __future__ import annotations

import pytest

from holdfast.store import temporary_name, temporary_owner


@pytest.mark.parametrize("name", ["a", "last.ckpt", "folder/epoch=3-step=1500.ckpt", "a.b/c.d.e", ".hidden"])
@pytest.mark.parametrize("owner", ["put", "link", "run-7f3a", "7f3a_0"])
def test_the_owner_is_read_back(name, owner):
    """Whatever dots the name has; and the folder is the object's own, so that a rename is one step."""
    temporary = temporary_name(name, owner)
    assert temporary_owner(temporary) == owner
    assert temporary.rpartition("/")[0] == name.rpartition("/")[0]
    assert temporary.rpartition("/")[2].startswith(".")


@pytest.mark.parametrize("name", ["a", "a.tmp", ".a", ".tmp", "..tmp", ".a.tmp", ".a.owner.tmp/b", "a.owner.tmp"])
def test_other_names_have_no_owner(name):
    """Users' own files are not taken for leftovers."""
    assert temporary_owner(name) is None


@pytest.mark.parametrize("owner", ["", "a.b", "a/b"])
def test_an_owner_that_could_not_be_read_back_is_our_own_mistake(owner):
    """It would be swept by nobody, or by the wrong one."""
    with pytest.raises(AssertionError):
        temporary_name("a", owner)
