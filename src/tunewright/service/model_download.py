"""Fetch a fine-tuned model into a folder: whole and verified, or not at all."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import httpx2

from tunewright.errors import ServiceError
from tunewright.files import TEMPORARY, commit_folder, make_folder, write_file
from tunewright.service.api_client import api_url, call_api

HASH_HEADER = "x-content-sha256"
RETRY_SECONDS = (1.0, 5.0)
"""Pauses before a transfer that broke off is begun again."""
TIMEOUT = httpx2.Timeout(60.0, read=600.0)
"""The server reads the model once before the first byte."""
_CHUNK = 1 << 20
_MODELS = "/v1/models"


def list_model_names(server: str, key: str) -> list[str]:
    """Names of the models that the key may use. Raises as call_api."""
    return [model["id"] for model in call_api(server, key, "GET", _MODELS)["data"]]


def download_model(server: str, key: str, name: str, folder: Path, say: Callable[[str], None]) -> None:
    """Make `folder` with the files of a model; nothing of it is there until all of it is.

    Raises OSError and ServiceError: `service.folder-exists`, `service.no-model`, `service.transfer`, and as
    call_api.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ServiceError(
            "there is something at the place of the model",
            where=str(folder),
            hint="name another folder with --out, or remove this one",
            code="service.folder-exists",
        )
    path = f"{_MODELS}/{quote(name, safe='')}"
    # What is refused comes as a message of the API, not as a broken archive.
    call_api(server, key, "GET", path, missing="service.no-model")
    make_folder(folder.absolute().parent)
    temporary = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}{folder.name}-", dir=folder.absolute().parent))
    try:
        archive = temporary / "archive.tar"
        _fetch(api_url(server, f"{path}/content"), key, archive, say)
        _unpack(archive, temporary / "files")
        commit_folder(temporary / "files", folder.absolute())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _fetch(url: str, key: str, archive: Path, say: Callable[[str], None]) -> None:
    for pause in (*RETRY_SECONDS, None):
        try:
            _fetch_once(url, key, archive)
        except (httpx2.HTTPError, _WrongBytesError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            if pause is None:
                raise ServiceError(
                    "the model did not come whole",
                    where=url,
                    got=reason,
                    hint="nothing was kept; run the command again",
                    code="service.transfer",
                ) from error
            say(f"the transfer broke off ({reason}); it begins again in {pause:.0f} s")
            time.sleep(pause)
        else:
            return


class _WrongBytesError(Exception):
    """The archive has another hash than the server said."""


def _fetch_once(url: str, key: str, archive: Path) -> None:
    digest = hashlib.sha256()
    headers = {"authorization": f"Bearer {key}", "accept-encoding": "identity"}
    with httpx2.stream("GET", url, headers=headers, timeout=TIMEOUT) as answer, archive.open("wb") as file:
        if answer.status_code >= 400:
            answer.read()
            raise ServiceError(
                "the server refused the download",
                where=url,
                got=f"status {answer.status_code}: {answer.text[:300]}",
                code="service.refused",
            )
        for chunk in answer.iter_bytes(_CHUNK):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != answer.headers.get(HASH_HEADER):
            raise _WrongBytesError("its sha256 is not the one that the server named")


def _unpack(archive: Path, folder: Path) -> None:
    """Write the files of an archive, each to the disk. A path that leads elsewhere ends it."""
    folder.mkdir()
    with tarfile.open(archive) as members:
        for member in members:
            safe = tarfile.data_filter(member, str(folder))
            content = members.extractfile(safe)
            if content is None:
                continue
            path = folder / safe.name
            make_folder(path.parent)
            write_file(path, iter(lambda file=content: file.read(_CHUNK), b""))
