"""Models of the Hugging Face hub: from its local cache when they are whole there, else downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from tunewright.errors import ModelError
from tunewright.models.sanitise import checked_settings
from tunewright.models.weights import find_weights

_SETTINGS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.jinja",
    "*.index.json",
)
_WEIGHTS = ("model.safetensors", "model-*.safetensors")


def fetch_model(name: str, revision: str | None) -> Path:
    """Folder of the hub model `name`, downloaded unless the local cache has all of it.

    Settings come first and are checked, so that a model that cannot be trained costs no download of weights.
    Raises ModelError when the model is unknown, gated, incomplete or cannot be reached.
    """
    cached = find_cached(name, revision)
    if cached is not None:
        return cached
    folder = _download(name, revision, _SETTINGS)
    checked_settings(folder)
    return _download(name, revision, _WEIGHTS)


def find_cached(name: str, revision: str | None) -> Path | None:
    """Folder of the hub model `name` when the local cache has all of it."""
    try:
        folder = _snapshot(name, revision=revision, local_files_only=True)
        checked_settings(folder)
        find_weights(folder)
    except (OSError, ValueError):
        # Not there, or only a part: the download says what is wrong with the rest.
        return None
    return folder


def _download(name: str, revision: str | None, patterns: Sequence[str]) -> Path:
    try:
        return _snapshot(name, revision=revision, allow_patterns=list(patterns))
    except Exception as error:
        raise _explain(name, revision, error) from error


def _snapshot(name: str, **options: Any) -> Path:
    import huggingface_hub

    return Path(cast(Any, huggingface_hub).snapshot_download(name, **options))


def _explain(name: str, revision: str | None, error: Exception) -> ModelError:
    """The library raises errors of its own, of its HTTP client and of the system; name what they mean."""
    from huggingface_hub import errors

    def fault(what: str, hint: str, code: str, got: Any = None) -> ModelError:
        return ModelError(what, where=f"model {name}", got=got, hint=hint, code=code)

    if isinstance(error, errors.GatedRepoError):
        return fault(
            "the model is gated and this machine has no access",
            "accept its terms on the hub, then set HF_TOKEN",
            "model.gated",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return fault(
            "the model has no such revision",
            "name a branch, tag or commit",
            "model.unknown-revision",
            revision,
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return fault(
            "there is no such model on the hub",
            "check the spelling; a private model needs HF_TOKEN, a local folder its path",
            "model.unknown",
        )
    if isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        return fault(
            "the model is not in the local cache and the hub cannot be reached",
            "connect to the network, or copy the model folder here and name its path",
            "model.offline",
        )
    return fault(f"the model cannot be fetched: {_first_line(error)}", "try again later", "model.fetch")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
