"""Keys never reach a log, whoever writes them there."""

from __future__ import annotations

import json
import logging
import sys

import pytest

from tunewright.service.keys import make_secret
from tunewright.service.logs import JsonLines, TextLines, request_id


@pytest.mark.parametrize("form", [TextLines(), JsonLines()], ids=["text", "json"])
def test_a_key_is_masked_in_messages_and_tracebacks(form: logging.Formatter) -> None:
    first, second = make_secret(), make_secret()
    try:
        raise ValueError(f"no such key: {first}")
    except ValueError:
        record = logging.LogRecord(
            "tunewright.x",
            logging.ERROR,
            "x.py",
            1,
            "sent Authorization: Bearer %s",
            (second,),
            sys.exc_info(),
        )
    text = form.format(record)
    assert first not in text
    assert second not in text
    assert "ValueError: no such key: ftk_***" in text
    assert "Authorization: ftk_***" in text


def test_a_line_says_which_request_it_belongs_to() -> None:
    record = logging.LogRecord("tunewright.x", logging.WARNING, "x.py", 1, "careful", (), None)
    token = request_id.set("req_1")
    try:
        assert TextLines().format(record) == "warning: careful (req_1)"
        told = json.loads(JsonLines().format(record))
    finally:
        request_id.reset(token)
    assert (told["request_id"], told["level"], told["message"]) == ("req_1", "warning", "careful")
    assert TextLines().format(record) == "warning: careful"
    assert "request_id" not in json.loads(JsonLines().format(record))
