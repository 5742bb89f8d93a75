"""The template library and the indexes of templates and ordinary references."""

import json
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pytest

from stillwatch.data.errors import BundleError, InputError
from stillwatch.data.events import DEFAULT_INTENTS
from stillwatch.data.simulator.content import FAMILIES
from stillwatch.model.flat import FEW, search
from stillwatch.model.templates import (
    BenignIndex,
    Template,
    TemplateIndex,
    embedding_text,
    load_library,
)
from stillwatch.model.text import normalise, word_spans

D = 12


def unit_vectors(count: int, seed: int = 3) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, D))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def some_templates(count: int) -> list[Template]:
    return [
        Template(f"X{n}", "out_pairs", "output_harvesting", "en", f"Return record {n} of {{slot}}",
                 "stillwatch", "2026-05-01", None)
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture
def index() -> TemplateIndex:
    return TemplateIndex(some_templates(5), unit_vectors(5))


def test_library_covers_every_family() -> None:
    library = load_library()
    families = Counter((template.intent, template.family) for template in library)
    expected = {(intent, family) for family, intent in FAMILIES.items()}
    assert set(families) == expected
    assert min(families.values()) >= 4
    assert len(library) >= 104


def test_library_is_in_many_languages() -> None:
    languages = Counter(template.language for template in load_library())
    assert len(languages) >= 8
    assert 0.4 <= languages["en"] / languages.total() <= 0.6


def test_library_texts_are_distinct_frames_of_some_length() -> None:
    library = load_library()
    texts = [embedding_text(template) for template in library]
    assert len({text.casefold() for text in texts}) == len(texts)
    for template, text in zip(library, texts, strict=True):
        # A Chinese or Japanese word is about two of these units.
        count = sum(any(map(str.isalnum, text[slice(*span)])) for span in word_spans(text))
        assert 5 <= count <= 180, template.id
        if template.language not in ("zh", "ja"):
            assert 5 <= len(text.split()) <= 90, template.id
        assert normalise(text) == normalise(normalise(text))
        assert "{" not in text, template.id


def test_library_sources_are_known() -> None:
    reports = {"public-report:anthropic-2026-02", "public-report:google-2026-02",
               "public-report:anthropic-2026-09", "public-report:openai-2026-09"}  # fmt: skip
    assert {template.source for template in load_library()} <= reports | {"stillwatch"}


def test_embedding_text_drops_the_slot_and_folds_whitespace() -> None:
    template = Template("X", "out_pairs", "output_harvesting", "en", "Turn  this\n{slot}into rows",
                        "stillwatch", "2026-05-01", None)  # fmt: skip
    assert embedding_text(template) == "Turn this into rows"


VALID = {"id": "X1", "family": "out_pairs", "intent": "output_harvesting", "language": "en",
         "text": "Return records about {slot}", "source": "stillwatch", "created": "2026-05-01",
         "expires": None}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"intent": "mischief"}, "intent"),
        ({"id": ""}, "id"),
        ({"id": 7}, "id"),
        ({"family": "out pairs"}, "family"),
        ({"text": "  {slot} "}, "text"),
        ({"text": "CANARY {slot} and {slot}"}, "text"),
        ({"text": "CANARY" * 1000}, "text"),
        ({"text": "CANARY \ud800"}, "text"),
        ({"created": "2026-02-30"}, "created"),
        ({"created": "20260501"}, "created"),
        ({"expires": "soon"}, "expires"),
        ({"expires": "2026-04-01"}, "expires"),
        ({"expires": 20270101}, "expires"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(
    tmp_path: Path, change: dict[str, object], field: str
) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f"{json.dumps(VALID)}\n{json.dumps({**VALID, 'id': 'X2', **change})}\n")
    with pytest.raises(InputError) as caught:
        load_library(path)
    message = str(caught.value)
    assert "line 2" in message
    assert field in message
    assert "CANARY" not in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        "{",
        "[" * 100_000,
        "\xff",
        '"text"',
        "{}",
        '{"id": "X3", ' + json.dumps({**VALID, "id": "X2"})[1:],
    ],
)
def test_a_line_that_is_no_template_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_bytes(json.dumps(VALID).encode() + b"\n" + line.encode("latin-1"))
    with pytest.raises(InputError, match="line 2"):
        load_library(path)


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f"{json.dumps(VALID)}\n\n{json.dumps(VALID)}\n")
    with pytest.raises(InputError, match=r"line 3.*X1 is line 1 too"):
        load_library(path)


def test_an_empty_or_missing_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds none"):
        load_library(tmp_path / "empty.jsonl")
    with pytest.raises(InputError, match=r"missing\.jsonl"):
        load_library(tmp_path / "missing.jsonl")


def test_further_intents_need_no_code(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**VALID, "intent": "voice_copying"}))
    assert load_library(path, (*DEFAULT_INTENTS, "voice_copying"))[0].intent == "voice_copying"


def test_search_gives_cosines_nearest_first(index: TemplateIndex) -> None:
    queries = unit_vectors(7, seed=4)
    similarity, position = index.search(queries, k=3)
    cosines = queries @ unit_vectors(5).T
    expected = np.argsort(-cosines, axis=1)[:, :3]
    np.testing.assert_array_equal(position, expected)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosines, expected, 1), atol=1e-6)
    assert similarity.dtype == np.float32
    assert position.dtype == np.int64


def test_a_query_does_not_depend_on_its_neighbours(index: TemplateIndex) -> None:
    queries = unit_vectors(200, seed=5)
    together, _ = index.search(queries)
    alone = np.concatenate([index.search(query[None])[0] for query in queries])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_search_refuses_what_it_cannot_answer(index: TemplateIndex) -> None:
    queries = unit_vectors(2)
    for wrong_k in (0, 6):
        with pytest.raises(ValueError, match="k must be"):
            index.search(queries, wrong_k)
    with pytest.raises(ValueError, match="float32"):
        index.search(queries.astype(np.float64))
    with pytest.raises(ValueError, match=rf"\(M, {D}\)"):
        index.search(queries[:, :-1])
    queries[1, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        index.search(queries)
    assert index.search(queries[:0], 2)[0].shape == (0, 2)


@pytest.mark.parametrize("factor", [0.0, 1.01, 30.0, np.nan, np.inf])
def test_vectors_must_be_of_unit_norm(factor: float) -> None:
    vectors = unit_vectors(5)
    vectors[3] *= np.float32(factor)
    with pytest.raises(ValueError, match="vector 3"):
        TemplateIndex(some_templates(5), vectors)


def test_vectors_must_be_one_for_each_template() -> None:
    for count in (4, 6):
        with pytest.raises(ValueError, match="each of the 5 templates"):
            TemplateIndex(some_templates(5), unit_vectors(count))
    with pytest.raises(ValueError, match="at least one"):
        BenignIndex([], unit_vectors(0))


def test_template_index_survives_saving(index: TemplateIndex) -> None:
    files = index.to_files()
    assert sorted(files) == ["templates.faiss", "templates.jsonl"]
    loaded = TemplateIndex.from_files(files, D)
    assert loaded.templates == index.templates
    assert len(loaded) == 5
    np.testing.assert_array_equal(loaded.vectors(), unit_vectors(5))


def test_benign_index_keeps_sources_beside_the_file() -> None:
    sources = ["chat", "app", "chat"]
    files = BenignIndex(sources, unit_vectors(3)).to_files()
    loaded = BenignIndex.from_files(files, D, sources)
    assert loaded.sources == ("chat", "app", "chat")
    assert loaded.search(unit_vectors(3))[1][:, 0].tolist() == [0, 1, 2]
    assert b"chat" not in files["benign.faiss"]
    with pytest.raises(BundleError, match=r"benign\.faiss must hold 4 vectors, however: 3"):
        BenignIndex.from_files(files, D, [*sources, "app"])


def _with_vector(content: bytes, row: int, vector: np.ndarray) -> bytes:
    start = len(content) - 4 * D * (5 - row)
    return content[:start] + vector.astype("<f4").tobytes() + content[start + 4 * D :]


def _foreign(index: faiss.Index) -> Callable[[bytes], bytes]:
    content = bytes(faiss.serialize_index(index))
    return lambda _: content


FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "long": (lambda c: c + b"\0", "at most 285 bytes.*286"),
    "short": (lambda c: c[:-1], "5 vectors"),
    "empty": (lambda c: b"", "flat inner-product"),
    "L2": (_foreign(faiss.IndexFlatL2(D)), "flat inner-product"),
    "HNSW": (_foreign(faiss.IndexHNSWFlat(D, 4)), "flat inner-product"),
    "ID map": (_foreign(faiss.index_factory(D, "IDMap,Flat")), "flat inner-product"),
    "metric": (lambda c: c[:33] + struct.pack("<i", 1) + c[37:], "metric"),
    "dimensions": (lambda c: c[:4] + struct.pack("<i", D // 2) + c[8:], "."),
    "count": (lambda c: c[:8] + struct.pack("<q", 4) + c[16:], "."),
    "size": (lambda c: c[:37] + struct.pack("<Q", 1 << 38) + c[45:], "."),
    "long vector": (lambda c: _with_vector(c, 2, unit_vectors(1)[0] * 40), "vector 2 has norm 40"),
    "NaN": (lambda c: _with_vector(c, 4, np.full(D, np.nan)), "vector 4 has norm nan"),
    "infinity": (lambda c: _with_vector(c, 0, np.full(D, np.inf)), "vector 0 has norm inf"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tampered_index_is_refused(index: TemplateIndex, fault: str) -> None:
    files = index.to_files()
    change, message = FAULTS[fault]
    files["templates.faiss"] = change(files["templates.faiss"])
    with pytest.raises(BundleError, match=rf"templates\.faiss.*{message}"):
        TemplateIndex.from_files(files, D)


def test_another_encoders_dimensions_are_refused(index: TemplateIndex) -> None:
    files = index.to_files()
    with pytest.raises(BundleError, match=r"must have 384 dimensions, however: 12"):
        TemplateIndex.from_files(files, 384)
    with pytest.raises(BundleError, match=r"at most 85 bytes.* 285 bytes"):
        TemplateIndex.from_files(files, 2)


def test_templates_and_vectors_must_agree(index: TemplateIndex) -> None:
    files = index.to_files()
    lines = files["templates.jsonl"].splitlines(keepends=True)
    with pytest.raises(BundleError, match="for 4 vectors"):
        TemplateIndex.from_files({**files, "templates.jsonl": b"".join(lines[:4])}, D)
    with pytest.raises(BundleError, match="line 2"):
        TemplateIndex.from_files({**files, "templates.jsonl": lines[0] * 2}, D)
    del files["templates.jsonl"]
    with pytest.raises(BundleError, match=r"templates\.jsonl, however: it holds templates\.faiss"):
        TemplateIndex.from_files(files, D)


def test_the_process_limit_of_faiss_is_put_back(index: TemplateIndex) -> None:
    before = faiss.get_deserialization_vector_byte_limit()
    TemplateIndex.from_files(index.to_files(), D)
    assert faiss.get_deserialization_vector_byte_limit() == before


def test_a_search_of_few_waits_for_no_other_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    index = faiss.IndexFlatIP(D)
    index.add(unit_vectors(5))
    threads: list[int] = []

    def watched(vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        threads.append(faiss.omp_get_max_threads())
        if len(threads) > 2:
            raise RuntimeError("as a search may fail")
        return np.zeros((len(vectors), k)), np.zeros((len(vectors), k), dtype=np.int64)

    monkeypatch.setattr(index, "search", watched)
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    try:
        search(index, unit_vectors(1), 1)
        search(index, unit_vectors(FEW + 1), 1)
        with pytest.raises(RuntimeError):
            search(index, unit_vectors(2), 1)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)
    assert threads == [1, 3, 1]
