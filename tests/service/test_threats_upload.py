"""What is seen of a file while it passes by, however it is cut into pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunewright.service.faults import ApiError
from tunewright.service.upload_check import ARCHIVES, ContentCheck


def refused(content: bytes, cuts: list[int], line_bytes: int = 8) -> str | None:
    """The code of the refusal of these bytes, fed in pieces."""
    check = ContentCheck(line_bytes)
    edges = sorted({0, len(content), *(cut for cut in cuts if cut < len(content))})
    try:
        for start, end in itertools.pairwise(edges):
            check.feed(content[start:end])
        check.check_lines()
    except ApiError as error:
        return error.code
    return None


cuts = st.lists(st.integers(0, 400), max_size=8)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=12), cuts)
def test_the_longest_line_is_found_in_any_pieces(lengths: list[int], where: list[int]) -> None:
    content = b"\n".join(b"{" * length for length in lengths)
    is_json = content.lstrip(b"\n").startswith(b"{")
    expected = "invalid_training_file" if max(lengths) > 8 and is_json else None
    assert refused(content, where) == expected


@given(st.sampled_from([*ARCHIVES]), cuts, st.binary(max_size=300))
def test_an_archive_is_seen_in_any_pieces(magic: bytes, where: list[int], rest: bytes) -> None:
    assert refused(magic + rest, where) == "unsupported_file"


@given(cuts)
def test_a_tar_archive_is_seen_in_any_pieces(where: list[int]) -> None:
    assert refused(b"\0" * 257 + b"ustar" + b"\0" * 100, where) == "unsupported_file"


@pytest.mark.parametrize(
    "content", [b"", b"[" + b"1," * 100 + b"1]", b"PAR1" + b"x" * 100, b"a,b" * 20, b"{}\n" * 99]
)
def test_other_files_may_have_long_lines(content: bytes) -> None:
    assert refused(content, []) is None


def test_a_line_after_a_byte_order_mark_is_json_too() -> None:
    assert refused(b'\xef\xbb\xbf  {"a": 123456}', []) == "invalid_training_file"
