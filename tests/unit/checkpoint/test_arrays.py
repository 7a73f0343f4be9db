"""The safetensors container against the reference library, and against headers that lie."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file, save_file

from tunewright.arrays import MOST_HEADER_BYTES, ArrayFileError, read_arrays, read_header, write_arrays
from tunewright.types import Array

NUMPY = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "I64": "<i8",
    "I32": "<i4",
    "U16": "<u2",
    "U8": "u1",
    "BOOL": "?",
}
tensors = st.dictionaries(
    st.text(min_size=1, max_size=12).filter(lambda name: name != "__metadata__"),
    st.tuples(st.sampled_from(sorted(NUMPY)), st.lists(st.integers(0, 5), max_size=3)),
    max_size=6,
)


def _values(spec: dict[str, tuple[str, list[int]]]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(len(spec))
    return {name: np.asarray(rng.random(shape) * 100, NUMPY[dtype]) for name, (dtype, shape) in spec.items()}


def _as_arrays(spec: dict[str, tuple[str, list[int]]], values: dict[str, np.ndarray]) -> dict[str, Array]:
    return {name: Array(dtype, tuple(shape), values[name].data) for name, (dtype, shape) in spec.items()}


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(spec=tensors)
def test_reference_library_reads_what_we_write_and_we_what_it_writes(tmp_path: Path, spec):
    values = _values(spec)
    write_arrays(tmp_path / "ours", _as_arrays(spec, values))
    theirs = load_file(tmp_path / "ours")
    assert theirs.keys() == values.keys()
    for name, value in values.items():
        assert theirs[name].dtype == value.dtype
        assert np.array_equal(theirs[name], value, equal_nan=False)
    save_file(values, tmp_path / "theirs")
    read = read_arrays(tmp_path / "theirs")
    assert {name: (a.dtype, a.shape, bytes(a.data)) for name, a in read.items()} == {
        name: (spec[name][0], value.shape, value.tobytes()) for name, value in values.items()
    }


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(spec=tensors)
def test_same_arrays_same_bytes_and_every_tensor_aligned(tmp_path: Path, spec):
    arrays = _as_arrays(spec, _values(spec))
    first = write_arrays(tmp_path / "a", arrays)
    assert first == write_arrays(tmp_path / "b", dict(reversed(arrays.items())))
    for entry in read_header(tmp_path / "a").values():
        assert entry.span[0] % np.dtype(NUMPY[entry.dtype]).itemsize == 0


def test_metadata_reaches_the_reference_library(tmp_path: Path):
    write_arrays(tmp_path / "a", {"w": Array("U8", (2,), b"ab")}, {"format": "pt"})
    with safe_open(tmp_path / "a", framework="numpy") as file:
        assert file.metadata() == {"format": "pt"}
    assert read_header(tmp_path / "a")["w"] == ("U8", (2,), (0, 2))


@pytest.mark.parametrize(
    "array",
    [
        Array("F32", (2,), b"1234"),
        Array("F33", (1,), b"1234"),
        Array("F4", (1,), b"1"),
        Array("U8", (0,), b"1"),
    ],
)
def test_arrays_that_do_not_fit_their_shape_are_not_written(tmp_path: Path, array: Array):
    with pytest.raises(ArrayFileError):
        write_arrays(tmp_path / "a", {"w": array})
    assert not (tmp_path / "a").exists()


def _file(tmp_path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = tmp_path / "lying"
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def _tensor(start: int, end: int, dtype: object = "U8", shape: object = None) -> dict[str, object]:
    return {"dtype": dtype, "shape": [end - start] if shape is None else shape, "data_offsets": [start, end]}


LIES = {
    "gap": ({"a": _tensor(0, 4), "b": _tensor(5, 8)}, b"12345678", "expected 4"),
    "overlap": ({"a": _tensor(0, 4), "b": _tensor(3, 8)}, b"12345678", "expected 4"),
    "starts late": ({"a": _tensor(1, 8)}, b"12345678", "expected 0"),
    "data too long": ({"a": _tensor(0, 4)}, b"12345", "need 4 bytes"),
    "data too short": ({"a": _tensor(0, 4)}, b"123", "need 4 bytes"),
    "wrong size": ({"a": _tensor(0, 4, "F32", [2])}, b"1234", "do not fit"),
    "negative": ({"a": _tensor(0, 4, "U8", [-4])}, b"1234", "needs exactly"),
    "bool as size": ({"a": _tensor(0, 1, "U8", [True])}, b"1", "needs exactly"),
    "float as size": ({"a": _tensor(0, 1, "U8", [1.0])}, b"1", "needs exactly"),
    "huge size": ({"a": _tensor(0, 4, "U8", [2**62, 2**62])}, b"1234", "do not fit"),
    "three offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"1", "do not fit"),
    "backwards": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [1, 0]}}, b"1", "do not fit"),
    "unknown dtype": ({"a": _tensor(0, 1, "PICKLE")}, b"1", "unknown dtype"),
    "dtype no text": ({"a": _tensor(0, 1, 3)}, b"1", "needs exactly"),
    "extra field": ({"a": {**_tensor(0, 1), "code": "x"}}, b"1", "needs exactly"),
    "no tensor": ({"a": 3}, b"", "needs exactly"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "__metadata__"),
    "metadata list": ({"__metadata__": ["a"]}, b"", "__metadata__"),
    "list": ([1], b"", "not a JSON object"),
    "twice": (b'{"a":1,"a":2}', b"", "twice"),
    "not JSON": (b"{", b"", "not valid JSON"),
    "not UTF-8": (b'{"\xff":1}', b"", "not valid JSON"),
    "deep": (b"[" * 200_000, b"", "not valid JSON"),
    "digits": (b"9" * 5000, b"", "not valid JSON"),
}


@pytest.mark.parametrize("name", LIES)
def test_lying_header_is_named(tmp_path: Path, name: str):
    header, data, what = LIES[name]
    path = _file(tmp_path, header, data)
    for read in (read_header, read_arrays):
        with pytest.raises(ArrayFileError, match=what):
            read(path)


def test_header_length_limits(tmp_path: Path):
    for length in (2**63, 1000):
        with pytest.raises(ArrayFileError, match="the file has"):
            read_header(_file(tmp_path, {}, length=length))
    with pytest.raises(ArrayFileError, match="at most"):
        read_header(_file(tmp_path, b" " * (MOST_HEADER_BYTES + 1)))
    many = {str(index): _tensor(0, 0) for index in range(100_001)}
    with pytest.raises(ArrayFileError, match="100001 tensors"):
        read_header(_file(tmp_path, many))
    with pytest.raises(ArrayFileError, match="could not be read back"):
        write_arrays(tmp_path / "a", {str(index): Array("U8", (0,), b"") for index in range(100_001)})
    (tmp_path / "short").write_bytes(b"1234")
    with pytest.raises(ArrayFileError, match="too few"):
        read_header(tmp_path / "short")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(at=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.integers(0, 3))
def test_no_damaged_header_crashes_or_passes_what_the_reference_refuses(tmp_path: Path, at, value, cut):
    values = {"a": np.arange(6, dtype="<f4").reshape(2, 3), "b": np.zeros((3,), dtype="u1")}
    save_file(values, tmp_path / "good")
    data = bytearray((tmp_path / "good").read_bytes())
    data[at % len(data)] = value
    (tmp_path / "bad").write_bytes(data[: len(data) - cut])
    try:
        read_arrays(tmp_path / "bad")
    except ArrayFileError:
        return
    try:
        load_file(tmp_path / "bad")
    except SafetensorError as error:
        pytest.fail(f"passed what the reference library refuses: {error}")
