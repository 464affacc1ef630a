"""Folders that cannot be listed, for root too, which ordinary permissions do not stop."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest


def lock_folders(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Listing any of `folders` fails as without permission, until the patch is undone."""
    locked = {folder.resolve() for folder in folders}

    def scandir(path: Any, original: Any = os.scandir) -> Any:
        if not isinstance(path, int) and Path(path).resolve() in locked:
            raise PermissionError(errno.EACCES, "Permission denied")
        return original(path)

    monkeypatch.setattr(os, "scandir", scandir)
