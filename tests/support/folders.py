"""Folders that a program must not stumble over."""

import errno
import os
from pathlib import Path

import pytest


def close(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder one that nobody can look into, root included."""
    scandir = os.scandir

    def refused(path):
        if str(path) == str(folder):
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', refused)
