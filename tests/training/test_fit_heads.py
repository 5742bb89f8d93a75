"""The fits of what reads one text: heads that learn, balanced, and a bank of ordinary centres."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from stillwatch.model.heads import PLACES, class_names
from stillwatch.model.lexical import BUCKETS, ngram_chunks
from stillwatch.model.logistic import Problem, balanced
from stillwatch.training.fit_heads import (
    ATTACK_POWER,
    BANK_PER_ORIGIN,
    LEAST_RATIO,
    ORDINARY_POWER,
    SMOOTHING,
    Examples,
    NgramTable,
    benign_bank,
    collect_examples,
    fit_heads,
)
from stillwatch.training.forms import FormTexts
from stillwatch.training.framed import FramedStreams
from stillwatch.training.vectors import VectorTable
from tests.support import INTENTS

CLASSES = class_names(INTENTS)
DIMENSIONS = 24
WORDS = ["alpha", "bravo", "cedar", "delta", "ember", "frost", "gravel"]


def table_of(means: np.ndarray) -> VectorTable:
    """One window a text."""
    unit = (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)
    count = np.arange(len(unit), dtype=np.int64)
    return VectorTable(unit.astype(np.float16), count, np.ones_like(count), unit)


def toy(counts: list[int], noise: float) -> tuple[Examples, VectorTable, list[str]]:
    """Texts of each class around a direction and with a word of its own."""
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(len(counts)), counts)
    means = noise * rng.normal(size=(len(classes), DIMENSIONS))
    means[np.arange(len(classes)), classes] += 1
    texts = [f"{WORDS[own]} number {n} {rng.integers(10**6)}" for n, own in enumerate(classes)]
    target = np.eye(len(CLASSES), dtype=np.float32)[classes]
    weight = np.ones(len(classes), dtype=np.float32)
    return Examples(np.arange(len(classes)), target, weight, 3.0), table_of(means), texts


def dense_logits(examples: Examples, vectors: VectorTable) -> np.ndarray:
    """Logits (N, C) of the fit on sentence vectors alone, which is the quick part."""
    balance = balanced(examples.target, examples.weight)
    found = Problem(vectors.means, examples.target, balance, 3e-4).minimise()
    weight, bias = found[:-1], found[-1]
    return np.asarray(vectors.means @ weight + bias)


def test_a_separable_toy_is_learnt_by_both_readings() -> None:
    examples, vectors, texts = toy([25] * 7, noise=0.1)
    heads = fit_heads((examples, examples), vectors, NgramTable(texts))
    wanted = examples.target.argmax(axis=1)
    lexical = [
        np.stack([heads.lexical_logits(ngram_chunks(text), place) for text in texts])
        for place in range(len(PLACES))
    ]
    for logits in (heads.dense_logits(vectors.means), *lexical):
        assert (logits.argmax(axis=1) == wanted).mean() > 0.99
        assert np.median(logits[examples.target > 0]) > 1
        assert np.median(logits[examples.target == 0]) < -1
    assert heads.lexical_weight.dtype == np.float16
    assert heads.dense_weight.dtype == heads.dense_bias.dtype == np.float32


def test_a_rare_class_is_as_likely_as_a_common_one() -> None:
    examples, vectors, texts = toy([400, 12, 60, 60, 60, 60, 60], noise=0.1)
    logits = dense_logits(examples, vectors)
    own = [logits[examples.target[:, c] > 0, c].mean() for c in range(7)]
    assert min(own) > 1
    # With nothing to learn from, the odds are even whatever the frequency.
    blind = table_of(np.ones((len(texts), DIMENSIONS)))
    np.testing.assert_allclose(dense_logits(examples, blind), 0, atol=0.05)


def test_weights_of_examples_count() -> None:
    examples, vectors, texts = toy([50] * 7, noise=0.1)
    rng = np.random.default_rng(1)
    wrong = rng.permutation(len(texts))[:120]
    target = examples.target.copy()
    target[wrong] = np.roll(target[wrong], 1, axis=1)
    weight = np.ones(len(texts), dtype=np.float32)
    weight[wrong] = 1e-4
    logits = dense_logits(replace(examples, target=target, weight=weight), vectors)
    assert (logits.argmax(axis=1) == examples.target.argmax(axis=1)).mean() > 0.99


def test_the_fit_is_the_same_each_time() -> None:
    examples, vectors, _ = toy([20] * 7, noise=0.4)
    first, second = dense_logits(examples, vectors), dense_logits(examples, vectors)
    np.testing.assert_array_equal(first, second)


def test_bags_of_n_grams_have_unit_length() -> None:
    texts = ["", "one", "a longer text " * 300]
    table = NgramTable(texts)
    rows = table.rows(np.array([2, 0, 1, 2]), np.ones(BUCKETS, np.float16))
    lengths = np.sqrt((rows.multiply(rows)).sum(axis=1))
    np.testing.assert_allclose(lengths, [1, 0, 1, 1], rtol=1e-5)
    dense = rows.toarray()
    np.testing.assert_array_equal(dense[0], dense[3])
    np.testing.assert_array_equal(np.flatnonzero(dense[2]), ngram_chunks("one")[0])


def salience_of(words: list[str], attacks: int) -> dict[str, float]:
    """Salience of the n-grams of each word that no other one has, the first `attacks` of these
    texts having a class of their own; "" stands for what is in none of them."""
    table = NgramTable(words)
    target = (np.arange(len(words)) < attacks).astype(np.float32)[:, None]
    found = table.salience(np.arange(len(words)), np.ones(len(words)), target)
    bags = {word: set(ngram_chunks(word)[0].tolist()) for word in set(words)}
    own = {
        word: bag - set().union(*(other for name, other in bags.items() if name != word))
        for word, bag in bags.items()
    }
    own[""] = set(range(BUCKETS)) - set().union(*bags.values())
    shown = {word: found[sorted(bag)] for word, bag in own.items()}
    assert all(np.ptp(values) < 1e-2 for values in shown.values())
    return {word: float(values[0]) for word, values in shown.items()}


def test_an_n_gram_counts_as_it_is_rare_and_tells_classes_apart() -> None:
    harvest, neutral, shop = ["extract"] * 20, ["hello"] * 40, ["counter"] * 20
    rare = ["trickle"] * 2
    found = salience_of([*harvest, *neutral, *shop, *rare], len(harvest) + len(neutral) // 2)
    # Of 20 of 82 texts, all on one side, of which there are 40 and 42 that weigh alike.
    rarity = np.log(83 / 21)
    each = 82 / 2 / 40 * 20
    assert found["extract"] > 0.8 * rarity * np.sqrt(np.log((each + SMOOTHING) / SMOOTHING))
    assert found["extract"] == pytest.approx(found["counter"], rel=0.1)
    assert found["hello"] == pytest.approx(np.log(83 / 41) * np.sqrt(LEAST_RATIO), rel=0.15)
    surest = found["trickle"] / np.log(83 / 3)
    assert surest < 0.7 * found["extract"] / rarity, "so few texts say little of a class"
    assert found[""] == pytest.approx(np.log(83) * np.sqrt(LEAST_RATIO), rel=0.15)


def test_salience_counts_in_frames_alone() -> None:
    examples, vectors, texts = toy([25] * 7, noise=0.1)
    heads = fit_heads((examples, examples), vectors, NgramTable(texts))
    assert heads.salience[0].min() < heads.salience[0].max() - 1
    assert (heads.salience[1] == 1).all()


def framed(
    frame_id: list[int], slot_id: list[int], labels: list[str], origins: list[str], attack: bool
) -> FramedStreams:
    """One stream with these events."""
    count = len(slot_id)
    return FramedStreams(
        ("any",), ("en",), ((INTENTS[0],) if attack else (),), np.array([float(attack)]),
        np.array([0, count]), np.array(frame_id, np.int32), np.array(slot_id, np.int32),
        np.zeros(count, np.uint32), np.zeros(count), np.zeros((count, 13), np.float32),
        np.array([label in INTENTS for label in labels]), np.array(labels), np.array(origins),
    )  # fmt: skip


def test_examples_are_distinct_texts_with_the_classes_they_stood_in() -> None:
    attack = framed(
        [7, 7, -1, -1, -1],
        [0, 1, 1, 2, 2],
        [INTENTS[0], INTENTS[0], INTENTS[0], "person", "person"],
        ["wrap", "wrap", "wrap", "chat", "chat"],
        True,
    )
    ordinary = framed([7, -1], [3, 0], ["product", "product"], ["shop", "shop"], False)
    rng = np.random.default_rng(0)
    slots = collect_examples([attack, ordinary], 1, CLASSES, 100, rng)
    found = {
        (int(text), CLASSES[int(own.argmax())])
        for text, own in zip(slots.text_id, slots.target, strict=True)
    }
    # Text 0 as an attack's slot and text 3 stand within a frame: they say nothing by themselves.
    assert found == {(1, INTENTS[0]), (2, "person"), (0, "product")}
    assert len(slots.text_id) == 3
    attacks = slots.target[:, : len(INTENTS)].sum(axis=1)
    np.testing.assert_array_equal(slots.target[:, CLASSES.index("any_intent")], attacks)
    np.testing.assert_array_equal(slots.target.sum(axis=1), 1 + attacks)
    frames = collect_examples([attack, ordinary], 0, CLASSES, 100, rng)
    assert frames.text_id.tolist() == [7, 7]
    assert {CLASSES[int(own.argmax())] for own in frames.target} == {INTENTS[0], "product"}


def test_an_origin_without_a_frame_weighs_by_its_texts() -> None:
    def own(place: int, most: int = 1000) -> Examples:
        rng = np.random.default_rng(0)
        return collect_examples([large, small, attack, few], place, CLASSES, most, rng)

    def streams(first: int, count: int, label: str, origin: str) -> FramedStreams:
        texts = list(range(first, first + count))
        attacks = label in INTENTS
        # Each text stands once as a frame of its own and once as a prompt without one.
        return framed(
            [*texts, *[-1] * count], [900] * count + texts, [label] * 2 * count,
            [origin] * 2 * count, attacks,
        )  # fmt: skip

    large, small = streams(0, 256, "person", "large"), streams(300, 16, "product", "small")
    attack, few = streams(400, 64, INTENTS[0], "list"), streams(500, 4, INTENTS[1], "few")
    starts = [0, 300, 400, 500, 600]
    for place, ratios in ((0, (1, 1)), (1, (16**ORDINARY_POWER, 16**ATTACK_POWER))):
        found = own(place)
        each = np.histogram(found.text_id, starts, weights=found.weight)[0]
        assert each[0] / each[1] == pytest.approx(ratios[0], rel=1e-3)
        assert each[2] / each[3] == pytest.approx(ratios[1], rel=1e-3)
        assert found.weight.mean() == pytest.approx(1, rel=1e-5)
        worth = (each[0] + each[1]) ** 2 / (each[0] ** 2 + each[1] ** 2)
        assert found.ordinary_origins == pytest.approx(worth)
    assert own(0).ordinary_origins == pytest.approx(2)
    assert len(set(own(1, 30).text_id.tolist())) == 30


def test_the_bank_holds_centres_of_ordinary_texts_alone() -> None:
    rng = np.random.default_rng(2)
    means = rng.normal(size=(700, DIMENSIONS))
    means[600:] = 0
    means[600:, 0] = 1
    vectors = table_of(means)
    ordinary = framed([-1] * 500, list(range(500)), ["person"] * 500, ["chat"] * 500, False)
    shop = framed([520, 520], [521, 522], ["product"] * 2, ["shop"] * 2, False)
    attack = framed([-1] * 100, list(range(600, 700)), [INTENTS[0]] * 100, ["wrap"] * 100, True)
    centres, origins = benign_bank([ordinary, shop, attack], vectors)
    assert centres.dtype == np.float32
    assert len(centres) == len(origins)
    assert set(origins) == {"chat", "shop"}
    assert 1 < origins.count("chat") <= BANK_PER_ORIGIN
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, rtol=1e-5)
    assert (centres[:, 0] < 0.9).all(), "attack prompts must not become benign references"
    again, _ = benign_bank([ordinary, shop, attack], vectors)
    np.testing.assert_array_equal(again, centres)
    own = np.array([origin == "shop" for origin in origins])
    np.testing.assert_allclose(
        (centres[own] @ vectors.means[520]).max(), 1, rtol=1e-5, err_msg="the frame as it stands"
    )
    mean = vectors.means[521:523].mean(axis=0)
    np.testing.assert_allclose(
        (centres[own] @ (mean / np.linalg.norm(mean))).max(), 1, rtol=1e-5, err_msg="slots' centre"
    )


def test_forms_stand_in_the_place_of_what_streams_made_of_them() -> None:
    streams = framed(
        [7, 8, 9], [0, 1, 2], [INTENTS[0], "product", "product"], ["family", "p1", "corpus"], True
    )
    forms = FormTexts(
        np.array([20, 21, 22, 23]),
        (INTENTS[0], INTENTS[0], "product", "an intent of no class"),
        ("w1", "w1", "p1", "w2"),
        frozenset({"family", "p1"}),
    )
    rng = np.random.default_rng(0)
    frames = collect_examples([streams], 0, CLASSES, 100, rng, [forms])
    assert frames.text_id.tolist() == [9, 20, 21, 22]
    # A form with two renderings counts as much as one with one, and as a source.
    assert frames.weight.tolist() == pytest.approx([4 / 3, 2 / 3, 2 / 3, 4 / 3])
    assert frames.ordinary_origins == 2
    assert {CLASSES[int(own.argmax())] for own in frames.target} == {INTENTS[0], "product"}
    whole = framed([-1], [3], ["product"], ["p1"], False)
    slots = collect_examples([whole], 1, CLASSES, 100, rng, [forms])
    assert slots.text_id.tolist() == [3]
