"""The secret beside the database: whole or refused, and its owner's alone."""

from __future__ import annotations

import logging
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tunewright.errors import ServiceError
from tunewright.service.pepper import PEPPER_BYTES, load_pepper


def test_whoever_comes_first_all_have_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(load_pepper, [tmp_path] * 8))
    assert [len(pepper) for pepper in found] == [PEPPER_BYTES]
    [file] = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize("left", [b"", b"short"])
def test_one_that_is_cut_short_is_refused(left: bytes, tmp_path: Path) -> None:
    """Keys hashed with nothing would be as good as keys in clear."""
    (tmp_path / "pepper").write_bytes(left)
    with pytest.raises(ServiceError) as caught:
        load_pepper(tmp_path)
    assert caught.value.code == "service.pepper"


def test_one_that_others_can_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pepper = load_pepper(tmp_path)
    (tmp_path / "pepper").chmod(0o644)
    with caplog.at_level(logging.WARNING):
        assert load_pepper(tmp_path) == pepper
    assert "chmod 600" in caplog.text
