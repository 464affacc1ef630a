"""Where things are kept on this machine from one run to the next."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$LOOKHEAR_CACHE, or .cache/lookhear in the home folder."""
    chosen = os.environ.get("LOOKHEAR_CACHE")
    return Path(chosen) if chosen else Path.home() / ".cache" / "lookhear"
