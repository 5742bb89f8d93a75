"""Whether an ONNX file takes weights from other files, told without the onnx package.

onnxruntime reads such a file from the working folder of the process when a model is handed to it
as bytes: it would be part of the detector and under no hash of the bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from stillwatch.data.errors import BundleError

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_MOST_NESTED = 64

# The messages of onnx.proto that lead to a tensor: field number -> kind of message.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


class _Field(NamedTuple):
    number: int
    value: int
    """Of a varint; 0 for the others."""
    content: memoryview | None
    """Of a field with a length."""


def check_self_contained(content: bytes, name: str) -> None:
    """BundleError if the model takes weights from another file, or is no ONNX file at all."""
    try:
        external = _is_external(memoryview(content), "model", 0)
    except (ValueError, IndexError):
        raise BundleError(
            f"{name} must be an ONNX file, however: its fields cannot be read; "
            "take the bundle from its source again"
        ) from None
    if external:
        raise BundleError(
            f"{name} must hold its own weights, however: it takes some from another file; "
            "export the model in one file"
        )


def _is_external(message: memoryview, kind: str, depth: int) -> bool:
    if depth > _MOST_NESTED:
        raise ValueError("nested too deep")
    for field in _fields(message):
        if kind == "tensor" and field.number in (_EXTERNAL_DATA, _DATA_LOCATION):
            # A location of 0 is the file itself.
            if field.value or field.content is not None:
                return True
        elif field.number in _FIELDS[kind] and field.content is not None:
            inner = _FIELDS[kind][field.number]
            if _is_external(field.content, inner, depth + 1):
                return True
    return False


def _fields(message: memoryview) -> Iterator[_Field]:
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, position = _varint(message, position)
            yield _Field(number, value, None)
            continue
        if wire == _BYTES:
            size, position = _varint(message, position)
        elif wire in (_EIGHT, _FOUR):
            size = 8 if wire == _EIGHT else 4
        else:
            # Groups, which ONNX has none of.
            raise ValueError("another wire type")
        if position + size > len(message):
            raise ValueError("cut short")
        yield _Field(number, 0, message[position : position + size] if wire == _BYTES else None)
        position += size


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")
