"""What no upload may be, seen while its bytes pass by: an archive, or JSON lines without line ends."""

from __future__ import annotations

from tunewright.service.faults import BAD_FILE, ApiError, bad_value

ARCHIVES = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x04\x22\x4d\x18": "lz4",
}
_TAR_AT = 257
_HEAD_BYTES = _TAR_AT + 5


class ContentCheck:
    """Takes a file piece by piece. Remembers its first bytes and the length of its longest line.

    line_bytes: what a line may have. A row of 15 MB takes 4 GiB to tokenise, and is cut only then.
    """

    def __init__(self, line_bytes: int) -> None:
        self._line_bytes = line_bytes
        self._head = b""
        self._line = 0
        self._longest = 0

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises ApiError 400 for an archive."""
        if len(self._head) < _HEAD_BYTES:
            self._head += data[: _HEAD_BYTES - len(self._head)]
            self._refuse_archive()
        first, last = data.find(b"\n"), data.rfind(b"\n")
        if first < 0:
            self._line += len(data)
        else:
            self._longest = max(self._longest, self._line + first)
            self._line = len(data) - last - 1
            # Pieces come as the network brings them, nearly always too short to hold a line that is too long.
            if len(data) > self._line_bytes:
                self._longest = max(self._longest, *map(len, data.split(b"\n")))
        self._longest = max(self._longest, self._line)

    def check_lines(self) -> None:
        """Raise ApiError 400 when this is JSON lines with one that is too long."""
        if self._longest > self._line_bytes and self._head.lstrip(b" \t\r\n\xef\xbb\xbf").startswith(b"{"):
            raise bad_value(
                f"The file has a line of more than {self._line_bytes:,} bytes: write one example a line",
                "file",
                BAD_FILE,
            )

    def _refuse_archive(self) -> None:
        kind = next((name for magic, name in ARCHIVES.items() if self._head.startswith(magic)), None)
        if kind is None and self._head[_TAR_AT:] == b"ustar":
            kind = "tar"
        if kind is not None:
            raise ApiError(
                400,
                f"The file is a {kind} archive; upload what is in it, unpacked",
                param="file",
                code="unsupported_file",
            )
