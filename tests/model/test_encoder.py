"""The torch-free runtime: windows, stability over neighbours and threads, refusals."""

import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.data.errors import BundleError, ConfigError, InputError
from stillwatch.model.encoder import (
    EncoderSpec,
    OnnxEncoder,
    TextVectors,
    WindowReader,
    window_starts,
)

onnx = pytest.importorskip("onnx")

LIMIT = 40
SPEC = EncoderSpec("letters", 4, LIMIT, (1,), (2,), False, "mean", "fp32", "0" * 64)
CANARY = "zanzibar-canary-4711"


def tokenizer_bytes() -> bytes:
    """One token a word of one letter; ids 0 [UNK], 1 [CLS], 2 [SEP], 3... the letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2}
    vocabulary |= {letter: 3 + i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    # As in the packaged model: a file that says to cut and to pad.
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    return str(tokenizer.to_str()).encode()


def model_bytes(metadata: str | None = SPEC.to_json(), table: Any = None) -> bytes:
    """Mean of one vector a token, normalised; quantised per tensor so that neighbours matter."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    values = rng.normal(size=(29, 4)).astype(np.float32) if table is None else table
    weight = rng.integers(-64, 63, size=(4, 4)).astype(np.int8)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["x"]),
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["xq", "weight", "zero"], ["yi"]),
        helper.make_node("Cast", ["yi"], ["yf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["yf", "scale"], ["y"]),
        helper.make_node("ReduceMean", ["y", "axis"], ["mean"], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["sentence_vector"], axis=-1, p=2),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "L"])],
        [helper.make_tensor_value_info("sentence_vector", TensorProto.FLOAT, ["B", 4])],
        [
            numpy_helper.from_array(values, "table"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(np.array([1]), "axis"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    if metadata is not None:
        helper.set_model_props(model, {"stillwatch_encoder": metadata})
    return bytes(model.SerializeToString())


@pytest.fixture(scope="module")
def encoder() -> OnnxEncoder:
    return OnnxEncoder((model_bytes(), tokenizer_bytes()))


TEXTS = ["a b c", "z", "", "q " * 200, "h e l l o", "x y " * 30]


@given(tokens=st.integers(0, 5000), size=st.integers(2, 300), overlap=st.integers(0, 64))
def test_windows_cover_every_token_and_are_full(tokens: int, size: int, overlap: int) -> None:
    starts = window_starts(tokens, size, overlap)
    covered: set[int] = set()
    for start in starts:
        covered.update(range(start, min(start + size, tokens)))
    assert covered == set(range(tokens))
    assert starts == sorted(set(starts))
    if tokens > size:
        assert starts[-1] + size == tokens
        steps = [b - a for a, b in itertools.pairwise(starts)]
        assert max(steps) <= size - min(overlap, size // 2)


def test_reader_gives_the_tokens_of_every_window_in_place() -> None:
    reader = WindowReader(tokenizer_bytes(), SPEC)
    letters = [chr(97 + i % 26) for i in range(100)]
    read = reader.read(" ".join(letters))
    assert read.tokens == 100
    assert not read.truncated
    size = SPEC.content_limit
    for window, start in zip(read.windows, window_starts(100, size), strict=True):
        assert len(window) <= LIMIT
        assert window == [1, *(3 + (start + i) % 26 for i in range(size)), 2]


def test_control_tokens_in_a_text_are_read_as_text() -> None:
    reader = WindowReader(tokenizer_bytes(), SPEC)
    (window,) = reader.read("a [SEP] b [CLS]").windows
    assert window.count(2) == 1
    assert window.count(1) == 1


def test_empty_text_has_a_fixed_unit_vector(encoder: OnnxEncoder) -> None:
    first, second = encoder.encode(["", "  "])
    assert first.windows.shape == (1, 4)
    assert (first.tokens, first.truncated) == (0, False)
    assert np.array_equal(first.vector, second.vector)
    assert np.linalg.norm(first.vector) == pytest.approx(1)


def test_no_texts_give_no_results(encoder: OnnxEncoder) -> None:
    assert encoder.encode([]) == []


def test_neighbours_and_order_change_nothing(encoder: OnnxEncoder) -> None:
    alone = [encoder.encode([text])[0] for text in TEXTS]
    for texts in (TEXTS, TEXTS[::-1]):
        together = encoder.encode(texts)
        for text, result in zip(texts, together, strict=True):
            assert np.array_equal(result.windows, alone[TEXTS.index(text)].windows)


def test_threads_change_nothing_and_keep_order(encoder: OnnxEncoder) -> None:
    many = OnnxEncoder((model_bytes(), tokenizer_bytes()), threads=3)
    texts = TEXTS * 10
    expected = encoder.encode(texts)
    with ThreadPoolExecutor(4) as callers:
        for results in callers.map(many.encode, [texts] * 8):
            for one, other in zip(results, expected, strict=True):
                assert np.array_equal(one.windows, other.windows)
    many.close()


def test_payload_behind_the_limit_is_read(encoder: OnnxEncoder) -> None:
    plain, with_payload = encoder.encode(["a " * 300, "a " * 290 + "q " * 10])
    assert np.array_equal(plain.windows[0], with_payload.windows[0])
    assert not np.allclose(plain.windows[-1], with_payload.windows[-1])


@pytest.mark.parametrize(
    ("text", "truncated"),
    [("a " * 71, False), ("a " * 72, True), ("a" * 5_000_000, True), (" " * 5_000_000, True)],
)
def test_what_is_not_read_is_reported(text: str, truncated: bool) -> None:
    # Three windows of 38 tokens that overlap by 19: 76 tokens; and 12 characters a token.
    small = OnnxEncoder((model_bytes(), tokenizer_bytes()), max_windows=3)
    size = SPEC.content_limit
    assert size + 2 * (size - size // 2) == 76
    (result,) = small.encode([text + (" a" * 5 if len(text) < 1000 else "")])
    assert result.truncated is truncated
    assert result.tokens <= 76
    assert len(result.windows) <= 3


def test_mean_of_windows_is_a_unit_vector() -> None:
    windows = np.eye(4, dtype=np.float32)[:2]
    assert TextVectors(windows, 2, False).vector == pytest.approx([0.5**0.5, 0.5**0.5, 0, 0])
    opposite = np.stack([windows[0], -windows[0]])
    assert np.array_equal(TextVectors(opposite, 2, False).vector, windows[0])


def test_lone_surrogates_and_nul_are_survived(encoder: OnnxEncoder) -> None:
    for result in encoder.encode(["a \ud800 b", "\udfff", "a\0b", "\U0010ffff" * 10]):
        assert np.isfinite(result.windows).all()


def test_what_is_no_text_is_refused_without_being_quoted(encoder: OnnxEncoder) -> None:
    with pytest.raises(InputError, match="text 1 must be a string") as error:
        encoder.encode(["a", CANARY.encode()])  # type: ignore[list-item]
    assert CANARY not in str(error.value)
    with pytest.raises(InputError, match="sequence") as error:
        encoder.encode(CANARY)
    assert CANARY not in str(error.value)


def test_vectors_that_are_not_finite_are_refused() -> None:
    bad = OnnxEncoder((model_bytes(table=np.full((29, 4), np.nan, np.float32)), tokenizer_bytes()))
    with pytest.raises(BundleError, match="finite"):
        bad.encode(["a"])


def test_a_model_that_fails_names_no_token() -> None:
    small = OnnxEncoder((model_bytes(table=np.ones((5, 4), np.float32)), tokenizer_bytes()))
    with pytest.raises(BundleError, match="onnxruntime raised") as error:
        small.encode(["z"])
    assert error.value.__cause__ is None
    assert "28" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "tokenizer", "message"),
    [
        (b"", tokenizer_bytes(), "must be a model"),
        (b"junk" * 100, tokenizer_bytes(), "must be a model"),
        (model_bytes(None), tokenizer_bytes(), "metadata"),
        (model_bytes("{}"), tokenizer_bytes(), "fields"),
        (model_bytes(SPEC.to_json().replace("40", '"40"')), tokenizer_bytes(), "limit"),
        (model_bytes(SPEC.to_json().replace('"dimensions": 4', '"dimensions": 5')),
         tokenizer_bytes(), "5 dimensions"),
        (model_bytes(SPEC.to_json().replace("40", "4")), tokenizer_bytes(), "content tokens"),
        (model_bytes(), b"{}", "tokenizer.json"),
    ],
)  # fmt: skip
def test_broken_files_are_refused(model: bytes, tokenizer: bytes, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        OnnxEncoder((model, tokenizer))


def test_folder_is_read_and_its_absence_named(tmp_path: Path, encoder: OnnxEncoder) -> None:
    with pytest.raises(BundleError, match="encoder folder"):
        OnnxEncoder(tmp_path)
    (tmp_path / "encoder.onnx").write_bytes(model_bytes())
    (tmp_path / "tokenizer.json").write_bytes(tokenizer_bytes())
    from_folder = OnnxEncoder(tmp_path)
    assert from_folder.name == "letters"
    assert np.array_equal(from_folder.encode(["a"])[0].vector, encoder.encode(["a"])[0].vector)


def test_options_out_of_range_are_refused() -> None:
    files = (model_bytes(), tokenizer_bytes())
    with pytest.raises(ConfigError, match="threads"):
        OnnxEncoder(files, threads=0)
    with pytest.raises(ConfigError, match="max_windows"):
        OnnxEncoder(files, max_windows=0)


def test_serving_imports_load_no_training_library() -> None:
    code = (
        "import sys; import stillwatch.model.encoder, stillwatch.model.encoder_export; "
        "bad = {'torch', 'transformers', 'sentence_transformers', 'onnx', 'onnxscript'}; "
        "sys.exit(', '.join(bad & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
