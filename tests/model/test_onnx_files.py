"""ONNX files that take weights from elsewhere are told from those that hold all of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from stillwatch.data.errors import BundleError
from stillwatch.model.bundle import load_bundle, manifest_fields, write_bundle
from stillwatch.model.onnx_files import check_self_contained
from tests.support import tiny_bundle


def tensor(external: bool) -> TensorProto:
    found = helper.make_tensor(
        "w", TensorProto.FLOAT, [4], np.ones(4, np.float32).tobytes(), raw=True
    )
    if external:
        found.ClearField("raw_data")
        found.data_location = TensorProto.EXTERNAL
        entry = found.external_data.add()
        entry.key, entry.value = "location", "elsewhere.bin"
    return found


def model(place: str, external: bool) -> bytes:
    """A model with a tensor in one of the places that may hold one."""
    value = tensor(external)
    constant = helper.make_node("Constant", [], ["c"], value=value)
    inner = helper.make_graph([constant], "inner", [], [], [value])
    nodes, initialisers, sparse, functions = [], [], [], []
    if place == "initializer":
        initialisers.append(value)
    elif place == "constant":
        nodes.append(constant)
    elif place == "branch":
        branch = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
        nodes.append(branch)
    elif place == "sparse":
        indices = helper.make_tensor("i", TensorProto.INT64, [4], [0, 1, 2, 3])
        sparse.append(helper.make_sparse_tensor(value, indices, [9]))
    else:
        opset = helper.make_opsetid("", 17)
        functions.append(helper.make_function("own", "f", [], ["c"], [constant], [opset]))
    graph = helper.make_graph(nodes, "g", [], [], initialisers, sparse_initializer=sparse)
    made: bytes = helper.make_model(graph, functions=functions).SerializeToString()
    return made


@pytest.mark.parametrize("place", ["initializer", "constant", "branch", "sparse", "function"])
def test_weights_from_elsewhere_are_found(place: str) -> None:
    check_self_contained(model(place, external=False), "encoder.onnx")
    with pytest.raises(BundleError, match=r"encoder\.onnx must hold its own weights"):
        check_self_contained(model(place, external=True), "encoder.onnx")


def test_what_is_no_onnx_file_is_refused() -> None:
    whole = model("branch", external=False)
    onnx.load_from_string(whole)
    for content in (whole[:-1], b"\xff" * 20, b"\x0b", b"\x0a\xff\xff\xff\xff\x0f", b"\x08"):
        with pytest.raises(BundleError, match=r"encoder\.onnx must be an ONNX file"):
            check_self_contained(content, "encoder.onnx")
    nested = b""
    for _ in range(200):
        # A graph in an attribute of a node of a graph, again and again.
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            nested = tag + _size(nested) + nested
    with pytest.raises(BundleError, match=r"encoder\.onnx must be an ONNX file"):
        check_self_contained(b"\x3a" + _size(nested) + nested, "encoder.onnx")


def _size(content: bytes) -> bytes:
    size, found = len(content), b""
    while size > 127:
        found += bytes([size & 127 | 128])
        size >>= 7
    return found + bytes([size])


def test_a_bundle_with_such_a_model_is_refused(tmp_path: Path) -> None:
    made = tiny_bundle(tmp_path / "tiny")
    content = {
        **made.content, "encoder.onnx": model("initializer", True), "tokenizer.json": b"{}"
    }  # fmt: skip
    with pytest.raises(BundleError, match=r"encoder\.onnx must hold its own weights"):
        write_bundle(tmp_path / "new", manifest_fields(made.manifest), content)
    content["encoder.onnx"] = model("initializer", False)
    write_bundle(tmp_path / "new", manifest_fields(made.manifest), content)
    assert load_bundle(tmp_path / "new").has_encoder
