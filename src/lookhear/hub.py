"""The Hugging Face hub, both ways. The only file that knows huggingface_hub, which is imported when it is needed.

Where the hub is, who is logged in and where downloads are kept is settled as huggingface_hub does: HF_ENDPOINT,
HF_TOKEN or `hf auth login`, HF_HOME.
"""

import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lookhear.config import to_dict
from lookhear.errors import CheckpointError
from lookhear.models.checkpoint import LoadedCheckpoint, find_checkpoint, load_checkpoint
from lookhear.models.published import PublishedChoices, read_model
from lookhear.models.weights import HUB_NAME, WEIGHT_FILES, Located, is_hub_name, locate

MODEL_FILE = "model.safetensors"
CARD_FILE = "README.md"
_LABELS_SHOWN = 20  # in a model card
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS})

# A download is talk, and must be seen without any setting up: Python shows warnings of a logger on stderr.
_log = logging.getLogger("lookhear")


def find_weights(name_or_path: str | Path) -> Located:
    """What `models.weights.locate` finds; what is neither a path nor in WEIGHTS is downloaded where it names a model
    on the hub.

    A name whose first part is a folder here, or that begins as paths do (./, ../, /, ~, a drive), is a path: mistyped,
    it is not looked up. Raises CheckpointError, with where it was looked for.
    """
    name = str(name_or_path)
    if not is_hub_name(name) or Path(name).exists():
        return locate(name_or_path)
    folder = name.partition("/")[0]
    if Path(folder).is_dir():
        raise CheckpointError(
            f"there is no checkpoint at {name}, and since the folder '{folder}' is here, it was not looked for on the "
            "Hugging Face hub; mend the path, or call from another folder if a model on the hub is meant"
        )
    return Located(path=download(name))


def open_weights(name_or_path: str | Path, *, choices: PublishedChoices | None = None) -> LoadedCheckpoint:
    """The model of what `find_weights` finds. `choices` say what a published file does not show."""
    located = find_weights(name_or_path)
    return read_model(located.path, choices=choices or located.choices)


def download(name: str) -> Path:
    """The file of weights of `user/model` (or `user/model/FILE`) on this machine, downloaded if it is not here yet.

    The file is model.safetensors, or the only file of weights that the model has. Its sha256 is verified where the
    hub states one, as it does for large files. Without a network, what was downloaded before is used. Raises
    CheckpointError, in one sentence, where there is no such model or file, or no network.
    """
    found = HUB_NAME.fullmatch(name)
    assert found is not None, "ask is_hub_name first"
    repo, file = found["repo"], found["file"]
    hub = _import_hub()
    try:
        with _explained(f"cannot get '{name}', which is no path on this machine, from the Hugging Face hub"):
            about = hub.HfApi().model_info(repo, files_metadata=True)
    except CheckpointError:
        kept = hub.try_to_load_from_cache(repo, file or MODEL_FILE)
        if not isinstance(kept, str):
            raise
        _log.warning("the hub cannot be asked for %s: using what was downloaded before", name)
        return Path(kept)
    files = {sibling.rfilename: sibling for sibling in about.siblings or ()}
    file = file or _only_file(repo, list(files))
    if file not in files:
        raise CheckpointError(f"{repo} on the Hugging Face hub has no {file}; it has {_some(list(files))}")
    kept = hub.try_to_load_from_cache(repo, file, revision=about.sha)
    if isinstance(kept, str):
        return Path(kept)
    size = files[file].size
    _log.warning("downloading %s of %s%s", file, repo, f" ({size / 1e6:,.1f} MB)" if size else "")
    with _explained(f"cannot download {file} of {repo} from the Hugging Face hub"):
        path = Path(hub.hf_hub_download(repo, file))
    _verify(path, files[file].lfs, f"{file} of {repo}")
    return path


def push(checkpoint: str | Path, name: str, *, licence: str = "unknown", private: bool = False) -> str:
    """Uploads a checkpoint of ours, or of a run folder, to `user/model`, which is made if it is not there.

    With it goes a model card, made from what the checkpoint says of itself; it replaces the card that is there.
    `licence` is a name that the hub knows, such as apache-2.0 or cc-by-nc-4.0. Returns the address. Raises
    CheckpointError for a file that is no checkpoint of ours, or where the hub refuses.
    """
    if not is_hub_name(name) or name.count("/") != 1:
        raise CheckpointError(f"'{name}' is no name on the Hugging Face hub; give user/model")
    path = find_checkpoint(Path(checkpoint))
    card = model_card(load_checkpoint(path), title=name, licence=licence)
    hub = _import_hub()
    with _explained(f"cannot upload to '{name}' on the Hugging Face hub"):
        api = hub.HfApi()
        address = api.create_repo(name, private=private, exist_ok=True)
        operations = [
            hub.CommitOperationAdd(MODEL_FILE, str(path)),
            hub.CommitOperationAdd(CARD_FILE, card.encode()),
        ]
        api.create_commit(name, operations, commit_message="Weights and card of a lookhear checkpoint")
    return str(address)


def model_card(loaded: LoadedCheckpoint, *, title: str, licence: str = "unknown") -> str:
    """README.md of a checkpoint for the hub: its model, sizes, preprocessing, labels, licence and fingerprint."""
    head = {"license": licence, "library_name": "lookhear", "tags": ["audio-visual", "lookhear", loaded.name]}
    numbers = sum(tensor.numel() for tensor in loaded.model.state_dict().values())
    labels = ""
    if loaded.labels:
        more = len(loaded.labels) - _LABELS_SHOWN
        shown = ", ".join(loaded.labels[:_LABELS_SHOWN]) + (f", and {more} more" if more > 0 else "")
        labels = f"\n## Labels\n\n{len(loaded.labels)}: {shown}. All of them are in the checkpoint.\n"
    history = "".join(f"- {key}: `{json.dumps(value)}`\n" for key, value in loaded.extra.items())
    return f"""---
{chr(10).join(f"{key}: {json.dumps(value)}" for key, value in head.items())}
---

# {title}

A `{loaded.name}` of {numbers:,} numbers for sound and picture, made with lookhear.

```python
import lookhear

embedder = lookhear.load("{title}")
embeddings = embedder.embed("video.mp4")
```

- licence: {licence if licence != "unknown" else "not stated"}
- fingerprint (sha256 of tensors and preprocessing): `{loaded.fingerprint}`
{history}
## Sizes

```json
{json.dumps(to_dict(loaded.config), indent=1)}
```

## Preprocessing

```json
{json.dumps(loaded.preprocess, indent=1)}
```
{labels}"""


def _only_file(repo: str, files: list[str]) -> str:
    weights = [file for file in files if file.endswith(WEIGHT_FILES)]
    if MODEL_FILE in files or len(weights) != 1:
        if MODEL_FILE in files:
            return MODEL_FILE
        raise CheckpointError(
            f"{repo} on the Hugging Face hub has {len(weights)} files of weights and none is called {MODEL_FILE} "
            f"({_some(weights or files)}); name one as {repo}/FILE"
        )
    return weights[0]


def _verify(path: Path, lfs: Any, what: str) -> None:
    expected = getattr(lfs, "sha256", None)
    if expected is None:
        return
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != expected:
        kept = path.resolve()  # the hub's client keeps a file once and links to it: the link alone would come back
        path.unlink()
        kept.unlink(missing_ok=True)
        raise CheckpointError(f"{what} came with sha256 {digest}, not {expected}: it was removed; try again")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of the hub's client, which are of many kinds that differ from version to version, as one sentence."""
    try:
        yield
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        reasons = {401: "it wants a login", 403: "you may not do that there", 404: "there is no such model"}
        if type(error).__name__ == "HFValidationError":
            why = "that is no name on the hub"
        elif isinstance(error, OSError) and error.errno in _DISK_ERRORS:
            why = f"it cannot be kept on this machine ({error.strerror}); make room, or name another place as HF_HOME"
        elif status is None:
            why = "it cannot be reached; is there a network here?"
        else:
            why = f"{reasons.get(status, 'it refused')} (HTTP {status}; a private model needs HF_TOKEN)"
        raise CheckpointError(f"{what}: {why}") from error


def _import_hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(
            "the Hugging Face hub needs the package huggingface_hub; install it with pip, or give a path"
        ) from None
    return huggingface_hub


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f", and {len(names) - 5} more" if len(names) > 5 else "") if names else "no files"
