"""Whose is the file of a unix listener? It outlives its process, unless somebody removes it."""

from __future__ import annotations

import socket
import stat
from pathlib import Path


class SocketFile:
    """The file of one unix listener."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own_inode: int | None = None

    def remove_stale(self) -> None:
        """Remove a socket that a process left behind; one that still answers is an `OSError`."""
        try:
            if not stat.S_ISSOCK(self._path.stat().st_mode):
                return  # whatever it is, binding will say so
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._path))
            except ConnectionRefusedError:
                self._path.unlink()
                return
        raise OSError("another process listens there")

    def note_own(self) -> None:
        """Remember which file we made by binding."""
        self._own_inode = self._path.stat().st_ino

    def remove_own(self) -> None:
        """Remove the file that we made, if it is still there and not somebody else's."""
        try:
            if self._path.stat().st_ino == self._own_inode:
                self._path.unlink()
        except FileNotFoundError:
            pass
