"""Heads that learn a site's ordinary traffic: what they forget, and what they must not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load, save

from stillwatch.data.errors import BundleError
from stillwatch.model.adapt import (
    MOST_ORIGINS,
    HeadExamples,
    HeadTexts,
    adapt_heads,
    examples_from_bytes,
    examples_to_bytes,
    ngram_rows,
    sample_by_account,
)
from stillwatch.model.heads import PROJECTION, IntentHeads, class_names, projection_matrix
from stillwatch.model.lexical import BUCKETS
from stillwatch.model.logistic import Problem, balanced
from tests.support import INTENTS

CLASSES = class_names(INTENTS)
DIMENSIONS = 16
ATTACK, ORDINARY = 0, len(INTENTS) + 1
KINDS = len(INTENTS) + 1
ALIKE = np.ones(BUCKETS, np.float16)
"""Rarity of n-grams that all count alike."""


def texts(kinds: np.ndarray, rng: np.random.Generator, shift: int = 0) -> HeadTexts:
    """Texts whose vectors and n-grams say which kind they are of."""
    vectors = 0.2 * rng.normal(size=(len(kinds), DIMENSIONS))
    vectors[np.arange(len(kinds)), kinds + shift] += 1
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    bags = [
        np.unique(
            np.concatenate([np.arange(10) + 100 * (kind + shift), rng.integers(0, BUCKETS, 5)])
        )
        for kind in kinds
    ]
    weight = np.ones(len(kinds), np.float32)
    return HeadTexts(vectors.astype(np.float32), ngram_rows(bags, ALIKE), weight)


def examples(rng: np.random.Generator) -> HeadExamples:
    kinds = np.repeat([ATTACK, ORDINARY], 60)
    target = np.eye(len(CLASSES), dtype=np.float32)[kinds]
    target[:, len(INTENTS)] = kinds == ATTACK
    return HeadExamples(texts(kinds, rng), target)


def without_vectors(own: HeadExamples) -> HeadExamples:
    """As frames are kept."""
    return replace(own, texts=replace(own.texts, vectors=own.texts.vectors[:, :0]))


def fit(own: HeadExamples) -> IntentHeads:
    weight = balanced(own.target, own.texts.weight)
    dense = Problem(own.texts.vectors, own.target, weight, 3e-4).minimise()
    lexical = Problem(own.texts.ngrams, own.target, weight, 1e-4).minimise()
    return IntentHeads(
        dense[:-1], dense[-1],
        np.stack([lexical[:-1]] * 2).astype(np.float16), np.stack([lexical[-1]] * 2),
        np.stack([ALIKE] * 2), projection_matrix(DIMENSIONS * 8)[:DIMENSIONS],
    )  # fmt: skip


def logit(heads: IntentHeads, own: HeadTexts, column: int) -> float:
    return float(heads.dense_logits(own.vectors)[:, column].mean())


def lexical_logit(heads: IntentHeads, own: HeadTexts, column: int) -> float:
    rows = own.ngrams @ heads.lexical_weight[0].astype(np.float32)
    return float((rows + heads.lexical_bias[0])[:, column].mean())


def test_a_sites_look_alike_becomes_ordinary_and_attacks_stay_attacks() -> None:
    rng = np.random.default_rng(0)
    own = examples(rng)
    heads = fit(own)
    # Attack-like by half, and something of its own: what a look-alike product is.
    look_alike = texts(np.full(20, ATTACK), rng)
    other = texts(np.full(20, 9), rng)
    mixed = look_alike.vectors + other.vectors
    site = HeadTexts(
        (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32),
        ngram_rows(
            [
                np.union1d(a, b)
                for a, b in zip(
                    np.split(look_alike.ngrams.indices, look_alike.ngrams.indptr[1:-1]),
                    np.split(other.ngrams.indices, other.ngrams.indptr[1:-1]),
                    strict=True,
                )
            ],
            ALIKE,
        ),
        np.full(20, 0.5, np.float32),
    )
    attacks = texts(np.full(40, ATTACK), rng)
    adapted = adapt_heads(heads, (own, own), (site, site), (10.0, 10.0), KINDS)
    for column in (ATTACK, len(INTENTS)):
        for read in (logit, lexical_logit):
            assert read(heads, site, column) > -1, "it looks like an attack before"
            unlearnt = read(heads, site, column) - read(adapted, site, column)
            assert unlearnt > 0.7
            assert read(heads, attacks, column) - read(adapted, attacks, column) < unlearnt
            assert read(adapted, attacks, column) > 1
    np.testing.assert_array_equal(
        adapted.dense_weight[:, KINDS:], heads.dense_weight[:, KINDS:],
        err_msg="nothing is known of what kind of ordinary text a site's is",
    )  # fmt: skip


def test_a_site_counts_however_many_origins_the_heads_know() -> None:
    rng = np.random.default_rng(4)
    own = examples(rng)
    heads = fit(own)
    site = texts(np.full(30, ATTACK), rng)
    few, most, more = (
        logit(adapt_heads(heads, (own, own), (site, site), (n, n), KINDS), site, ATTACK)
        for n in (MOST_ORIGINS / 30, MOST_ORIGINS, 50 * MOST_ORIGINS)
    )
    assert most == more
    assert few < most - 0.3 < logit(heads, site, ATTACK) - 0.4


def test_without_site_texts_the_heads_stay() -> None:
    rng = np.random.default_rng(1)
    own = examples(rng)
    heads = fit(own)
    none = texts(np.empty(0, np.int64), rng)
    same = adapt_heads(heads, (own, own), (none, none), (10.0, 10.0), KINDS)
    assert same.to_bytes() == heads.to_bytes()


def test_a_sample_keeps_the_heads_where_they_were() -> None:
    # Ordinary texts that the heads know already move them little, though a sample of the
    # examples alone would pull them elsewhere.
    rng = np.random.default_rng(2)
    own = examples(rng)
    heads = fit(own)
    kept = np.concatenate([np.arange(0, 15), np.arange(60, 75)])
    sample = HeadExamples(
        HeadTexts(own.texts.vectors[kept], own.texts.ngrams[kept], np.full(30, 4.0, np.float32)),
        own.target[kept],
    )
    known = texts(np.full(30, ORDINARY), rng)
    adapted = adapt_heads(heads, (sample, sample), (known, known), (60.0, 60.0), KINDS)
    attacks = texts(np.full(40, ATTACK), rng)
    assert abs(logit(adapted, attacks, ATTACK) - logit(heads, attacks, ATTACK)) < 0.5


def test_what_is_saved_is_read() -> None:
    own = examples(np.random.default_rng(3))
    heads = fit(own)
    heads = replace(heads, projection=np.zeros((DIMENSIONS, PROJECTION), np.float32))
    content = examples_to_bytes((without_vectors(own), own), heads)
    (frames, again), fitted = examples_from_bytes(content, DIMENSIONS, len(CLASSES))
    assert fitted.to_bytes() == heads.to_bytes()
    np.testing.assert_allclose(again.texts.vectors, own.texts.vectors, atol=1e-3)
    assert frames.texts.vectors.shape == (len(own.texts), 0)
    assert (again.texts.ngrams != own.texts.ngrams).nnz == 0
    np.testing.assert_array_equal(again.target, own.target)
    with pytest.raises(BundleError, match=r"examples\.safetensors must hold"):
        examples_from_bytes(content, DIMENSIONS + 1, len(CLASSES))
    with pytest.raises(BundleError, match="take the bundle from its source"):
        examples_from_bytes(content[:-7], DIMENSIONS, len(CLASSES))


def test_n_grams_past_the_table_are_refused() -> None:
    own = examples(np.random.default_rng(3))
    heads = replace(fit(own), projection=np.zeros((DIMENSIONS, PROJECTION), np.float32))
    tensors = load(examples_to_bytes((without_vectors(own), own), heads))
    tensors["slot.ngram_ids"][7] = BUCKETS
    with pytest.raises(BundleError, match="those of slot are not"):
        examples_from_bytes(save(tensors), DIMENSIONS, len(CLASSES))


def test_accounts_weigh_alike_however_much_they_say() -> None:
    accounts = np.repeat([0, 1, 2], [400, 40, 4])
    chosen, weight = sample_by_account(accounts, 1000, np.random.default_rng(0))
    sums = np.bincount(accounts[chosen], weights=weight)
    np.testing.assert_allclose(sums, 1)
    chosen, weight = sample_by_account(accounts, 60, np.random.default_rng(0))
    assert len(chosen) == 60
    assert weight.sum() == pytest.approx(3)
    assert (accounts[chosen] == 2).sum() >= 3
