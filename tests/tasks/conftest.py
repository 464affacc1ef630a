"""Golden values that several files of this room compare with."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Numbers of the published evaluation code, by name (see golden/README.md)."""
    return load_file(Path(__file__).parents[1] / "golden" / "metrics.safetensors")
