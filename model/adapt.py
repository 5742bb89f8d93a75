"""Heads that know a site's ordinary traffic, without what they were fitted on.

A bundle holds a sample of the heads' examples. At the released heads the loss over all examples
is at rest; over the sample it is not quite, and what is left of its slope is taken off. So without
site texts the heads stay as they are, and with them they go where a fit of everything together
would go: the site's texts count as ordinary, and what attacks look like is not forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from scipy import sparse

from stillwatch.data.errors import BundleError
from stillwatch.model.heads import PLACES, IntentHeads, salience_row
from stillwatch.model.lexical import BUCKETS
from stillwatch.model.logistic import Problem, balanced

DENSE_PENALTY = 1e-4
LEXICAL_PENALTIES = (3e-6, 3e-5)
"""Of frames and of slots: what products and attacks ask about must not be learnt by heart."""
MAX_SITE_SHARE = 0.5
"""Most that a site's texts count among all ordinary ones: other sites' attacks hide behind what
this one has not seen."""
MOST_ORIGINS = 300
"""Ordinary origins of the heads that are counted beside a site's accounts, at most: what the site
sends says more of it than thousands of products elsewhere."""
SITE_PARTS = 4
"""Parts that a site's accounts are dealt into when its thresholds are set: each is scored with what
the others have taught. With two, what scores them knows half of what the bundle will."""
SITE_TEXTS = 6000
"""Most texts of a site, at each place, that its heads are adapted with."""
_STEPS = 40
_HEADS = "heads."


@dataclass(frozen=True)
class HeadTexts:
    """Texts of one place as the heads read them. vectors float32 (N, D), with D = 0 for frames,
    whose vectors are not read; ngrams sparse float32 (N, BUCKETS), rows of unit length; weight
    float32 (N,)."""

    vectors: np.ndarray
    ngrams: sparse.csr_array
    weight: np.ndarray

    def __len__(self) -> int:
        return len(self.weight)


@dataclass(frozen=True)
class HeadExamples:
    """Texts with the classes that stand for them, target float32 (N, C)."""

    texts: HeadTexts
    target: np.ndarray


def ngram_rows(bags: list[np.ndarray], salience: np.ndarray) -> sparse.csr_array:
    """Distinct n-gram ids of each text -> sparse float32 (N, BUCKETS), rows of unit length.
    `salience` (BUCKETS,) is that of the heads at the texts' place."""
    counts = np.array([len(bag) for bag in bags], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)])
    columns = np.concatenate(bags).astype(np.int32) if bags else np.empty(0, np.int32)
    values = np.concatenate(
        [np.empty(0, np.float32), *(salience_row(bag, salience) for bag in bags)]
    )
    return sparse.csr_array((values, columns, starts), shape=(len(bags), BUCKETS))


def sample_by_account(
    accounts: np.ndarray, most: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which of N texts to keep, int64 (M,), M at most `most`, and their weights float64 (M,):
    each account's texts weigh 1 together, and all that are kept as much as all there were."""
    if not len(accounts):
        return np.empty(0, np.int64), np.empty(0)
    _, inverse, counts = np.unique(accounts, return_inverse=True, return_counts=True)
    weight = 1 / counts[inverse]
    if len(accounts) <= most:
        return np.arange(len(accounts)), weight
    chosen = rng.choice(len(accounts), most, replace=False, p=weight / weight.sum())
    return chosen, np.full(most, weight.sum() / most)


def adapt_heads(
    heads: IntentHeads,
    examples: tuple[HeadExamples, HeadExamples],
    site: tuple[HeadTexts, HeadTexts],
    origins: Sequence[float],
    attack_classes: int,
) -> IntentHeads:
    """The heads with a site's ordinary texts among the examples, place by place.

    `origins` is how many ordinary origins the heads were fitted on in each place, of which
    MOST_ORIGINS are counted; the weights of `site` say how many the site's texts stand for. Only
    the first `attack_classes` classes learn from them, since nothing else is known of the texts.
    """
    dense_weight, dense_bias = heads.dense_weight.copy(), heads.dense_bias.copy()
    lexical_weight, lexical_bias = heads.lexical_weight.copy(), heads.lexical_bias.copy()
    kept = slice(0, attack_classes)
    for place in range(len(PLACES)):
        own, new = examples[place], site[place]
        if not len(new):
            continue
        share = float(new.weight.sum())
        share = min(share / (share + min(origins[place], MOST_ORIGINS)), MAX_SITE_SHARE)
        target = own.target[:, kept]
        if PLACES[place] == "slot":
            found = _adapted(
                np.vstack([dense_weight[:, kept], dense_bias[None, kept]]),
                own.texts.vectors, new.vectors, target, own.texts.weight, new.weight, share,
                DENSE_PENALTY,
            )  # fmt: skip
            dense_weight[:, kept], dense_bias[kept] = found[:-1], found[-1]
        found = _adapted(
            np.vstack(
                [lexical_weight[place][:, kept].astype(np.float32), lexical_bias[place][None, kept]]
            ),
            own.texts.ngrams, new.ngrams, target, own.texts.weight, new.weight, share,
            LEXICAL_PENALTIES[place],
        )  # fmt: skip
        lexical_weight[place][:, kept] = found[:-1].astype(np.float16)
        lexical_bias[place][kept] = found[-1]
    return IntentHeads(
        dense_weight, dense_bias, lexical_weight, lexical_bias, heads.salience, heads.projection
    )


def _adapted(
    start: np.ndarray,
    own: np.ndarray | sparse.csr_array,
    new: np.ndarray | sparse.csr_array,
    target: np.ndarray,
    own_weight: np.ndarray,
    new_weight: np.ndarray,
    share: float,
    penalty: float,
) -> np.ndarray:
    weight = balanced(target, own_weight)
    _, tilt = Problem(own, target, weight, penalty).loss(start)
    site_weight = 0.5 * share * new_weight / new_weight.sum()
    rows = (
        np.vstack([own, new])
        if isinstance(own, np.ndarray)
        else sparse.csr_array(sparse.vstack([own, new]))
    )
    both = Problem(
        rows,
        np.vstack([target, np.zeros((len(new_weight), target.shape[1]), np.float32)]),
        np.vstack(
            [
                np.where(target > 0, weight, weight * (1 - share)),
                np.repeat(site_weight[:, None], target.shape[1], axis=1),
            ]
        ),
        penalty,
    )
    return both.minimise(start, tilt, _STEPS)


def examples_to_bytes(examples: tuple[HeadExamples, HeadExamples], heads: IntentHeads) -> bytes:
    """The contents of examples.safetensors: the examples, and the heads as they were fitted, so
    that a bundle can be adapted again."""
    tensors = {f"{_HEADS}{name}": value for name, value in heads.tensors().items()}
    for name, own in zip(PLACES, examples, strict=True):
        tensors[f"{name}.vectors"] = own.texts.vectors.astype(np.float16)
        tensors[f"{name}.ngram_ids"] = own.texts.ngrams.indices.astype(np.uint32)
        tensors[f"{name}.ngram_starts"] = own.texts.ngrams.indptr.astype(np.uint32)
        tensors[f"{name}.target"] = own.target.astype(np.uint8)
        tensors[f"{name}.weight"] = own.texts.weight.astype(np.float32)
    return save_tensors({name: np.ascontiguousarray(value) for name, value in tensors.items()})


def examples_from_bytes(
    content: bytes, dimensions: int, classes: int
) -> tuple[tuple[HeadExamples, HeadExamples], IntentHeads]:
    """Read what `examples_to_bytes` gave; BundleError unless shapes and numbers hold."""
    try:
        tensors = load_tensors(content)
        own = {
            name.removeprefix(_HEADS): value
            for name, value in tensors.items()
            if name.startswith(_HEADS)
        }
        heads = IntentHeads.from_tensors(own, dimensions, classes, "examples.safetensors")
        first, second = (
            _read_place(tensors, name, dimensions, classes, salience)
            for name, salience in zip(PLACES, heads.salience, strict=True)
        )
    except (BundleError, MemoryError):
        raise
    except Exception as error:
        raise BundleError(
            f"examples.safetensors must hold what the heads were fitted on, however: "
            f"{type(error).__name__}; take the bundle from its source again"
        ) from error
    return (first, second), heads


def _read_place(
    tensors: dict[str, np.ndarray], name: str, dimensions: int, classes: int, salience: np.ndarray
) -> HeadExamples:
    vectors, ids, starts, target, weight = (
        tensors[f"{name}.{part}"]
        for part in ("vectors", "ngram_ids", "ngram_starts", "target", "weight")
    )
    count = len(weight)
    sound = (
        vectors.shape == (count, dimensions if name == "slot" else 0)
        and target.shape == (count, classes)
        and starts.shape == (count + 1,)
        and ids.ndim == 1
        and bool(((ids >= 0) & (ids < BUCKETS)).all())
        and int(starts[0]) == 0
        and int(starts[-1]) == len(ids)
        and bool((np.diff(starts.astype(np.int64)) >= 0).all())
        and bool(np.isfinite(vectors).all())
        and bool(np.isfinite(weight).all())
        and bool((weight >= 0).all())
    )
    if not sound:
        raise BundleError(
            f"examples.safetensors must hold whole and finite examples, however: those of "
            f"{name} are not; take the bundle from its source again"
        )
    bags = np.split(ids.astype(np.int64), starts[1:-1].astype(np.int64))
    return HeadExamples(
        HeadTexts(
            vectors.astype(np.float32), ngram_rows(bags, salience), weight.astype(np.float32)
        ),
        target.astype(np.float32),
    )
