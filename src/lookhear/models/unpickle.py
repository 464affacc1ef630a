"""Files that `torch.save` wrote, read as tensors and plain containers; nothing else is unpickled."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch

from lookhear.errors import CheckpointError
from lookhear.models.checkpoint import is_pickle, require_file


def unpickle(path: Path) -> Any:
    """What `torch.save` wrote to `path`, where that is tensors and plain containers; nothing else is unpickled."""
    require_file(path)
    if not is_pickle(path):
        raise CheckpointError(f"{path} is not a PyTorch file, as published weights are; is it the right file?")
    try:
        # by its bytes: given a path, torch.load goes by what the name ends in; of a bare pickle, which it refuses next,
        # it first warns with a line of its own source
        with path.open("rb") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds more than tensors: it is refused, because unpickling it could run code; "
            "ask its publisher for a file of plain tensors"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        # torch adds guesses at the cause after the first sentence
        reason = str(error).splitlines()[0].partition(". ")[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is cut short or damaged ({reason}); copy or download it again") from None
