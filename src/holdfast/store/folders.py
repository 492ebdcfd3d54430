"""Folders of objects in a file system: placed, pointed at and removed as a whole. Looks into none of the objects."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
import threading

from holdfast.store import files
from holdfast.store.base import LINKER, REMOVER, Entry, temporary_name
from holdfast.store.failures import acceptable, checked_name, reported
from holdfast.store.listing import walk

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux's renameat2


class LocalFolders:
    """What ``LocalStore`` does with folders; ``FolderStore`` says what each verb promises.

    Args:
        root: The store's folder, absolute.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._temporaries = threading.Lock()

    def is_folder(self, name: str) -> bool:
        """Whether ``name`` is a folder itself, and not a link to one."""
        path = self._path("stat", name)
        return os.path.isdir(path) and not os.path.islink(path)

    def inside(self, name: str) -> list[Entry]:
        """Every plain file below the folder ``name``."""
        checked_name("list", name)
        return [*walk(self.root, f"{name}/")]

    def place_folder(self, temporary: str, name: str) -> None:
        """Rename a folder of durable files to ``name``, which is free."""
        path = self._path("publish", name)
        with reported("publish", path):
            _place(self._path("publish", temporary), path)

    def exchange_folder(self, temporary: str, name: str) -> None:
        """Exchange a folder of durable files with the one called ``name``, which is removed then."""
        path = self._path("publish", name)
        with reported("publish", path):
            _exchange(self._path("publish", temporary), path)
        self.remove_folder(temporary)

    def point(self, source: str, name: str, *, replace: bool) -> None:
        """Make ``name`` a relative symbolic link to the folder ``source``."""
        path = self._path("link", name)
        with self._temporaries, reported("link", path):
            temporary = os.path.join(self.root, temporary_name(name, LINKER))
            _point(path, self._path("link", source), temporary, replace=replace)

    def pointers(self, folder: str) -> list[str]:
        """Symbolic links to folders right in ``folder``."""
        path = os.path.join(self.root, folder)
        with reported("list", path):
            found = _links(path)
        return [f"{folder}/{name}" if folder else name for name in found if acceptable(name)]

    def remove_folder(self, name: str) -> None:
        """Remove a folder with all that is in it."""
        path = self._path("remove", name)
        with reported("remove", path):
            # Several processes may remove one folder: each that moves it aside does so under a name of its own.
            _remove(path, os.path.join(self.root, temporary_name(f"{name}~{secrets.token_hex(4)}", REMOVER)))

    def _path(self, operation: str, name: str) -> str:
        return os.path.join(self.root, checked_name(operation, name))


def _place(temporary: str, path: str) -> None:
    """Make the folder ``temporary`` appear as ``path``, durably; raises ``EEXIST`` where that name is taken."""
    files.sync_folder(temporary)
    files.make_folder(os.path.dirname(path))
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    os.rename(temporary, path)
    files.sync_folder(os.path.dirname(path))


def _exchange(temporary: str, path: str) -> None:
    """Let two folders change names, at once and durably; raises ``ENOSYS`` where the system cannot."""
    files.sync_folder(temporary)
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # not Linux, or an old C library
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS)) from None
    if call(_HERE, os.fsencode(temporary), _HERE, os.fsencode(path), _EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(errno.ENOSYS if code == errno.EINVAL else code, os.strerror(code))
    files.sync_folder(os.path.dirname(path))


def _point(path: str, target: str, temporary: str, *, replace: bool) -> None:
    """Make ``path`` a symbolic link to the folder ``target``, relative, so that both can be moved together.

    Raises ``EEXIST`` where ``path`` is taken and not to be replaced, ``EISDIR`` where it is a folder itself.
    """
    files.make_folder(os.path.dirname(path))
    if not replace and os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    files.unlink(temporary)
    there = os.path.realpath(target, strict=True)
    os.symlink(os.path.relpath(there, os.path.realpath(os.path.dirname(path))), temporary)
    try:
        files.place_over(temporary, path)
    except BaseException:
        files.unlink(temporary)
        raise
    files.sync_folder(os.path.dirname(path))


def _remove(path: str, aside: str) -> None:
    """Remove a folder with all that is in it: gone as a whole, durably, before the first file of it goes."""
    try:
        os.rename(path, aside)
    except OSError as error:
        if error.errno in files.ABSENT:
            return
        raise
    files.sync_folder(os.path.dirname(path))
    shutil.rmtree(aside)


def _links(folder: str) -> list[str]:
    """Names of the symbolic links right in ``folder`` that lead to a folder."""
    try:
        with os.scandir(folder) as found:
            return sorted(item.name for item in found if item.is_symlink() and item.is_dir())
    except OSError as error:
        if error.errno in files.ABSENT:
            return []
        raise
