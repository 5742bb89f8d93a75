"""The forms of simulated prompts: what is shipped, what is refused, how they are filled in."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stillwatch.data.errors import InputError
from stillwatch.data.simulator.content import (
    FAMILIES,
    INTENTS,
    PRODUCT_KINDS,
    SLOT_KINDS,
    Product,
    PromptForm,
    Wrapper,
    load_products,
    load_wrappers,
    read_products,
    read_wrappers,
)

EIGHT = ["one", "two", "three", "four", "five", "six", "seven", "eight"]

WriteLines = Callable[..., Path]


def fields(**changes: Any) -> dict[str, Any]:
    return {
        "id": "cot_tags-01-en",
        "family": "cot_tags",
        "intent": "cot_harvesting",
        "language": "en",
        "template": "Note first, then answer: {slot}",
        "slots": ["question"],
        **changes,
    }


def form(**changes: Any) -> PromptForm:
    parts: dict[str, Any] = {
        "id": "a",
        "language": "en",
        "system": "",
        "template": "{slot}",
        "slots": ("question",),
        "fix": {},
        "vary": {},
    }
    return PromptForm(**{**parts, **changes})


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def test_braces_are_left_alone(rng: np.random.Generator) -> None:
    template = 'Fill {"id": 3, "text": {slot}, "tags": ["{tag}"]} as { tag } or {Tag}.'
    made = form(template=template, fix={"tag": ("{slot}", "{slot}")})
    slot = 'def f(): return {tag}, {{x}}, "{0}", {slot}'
    _, prompt = made.render(rng, made.fixed(rng), slot)
    assert prompt == (
        f'Fill {{"id": 3, "text": {slot}, "tags": ["{{slot}}"]}} as {{ tag }} or {{Tag}}.'
    )


def test_fixed_stays_and_varied_changes(rng: np.random.Generator) -> None:
    made = form(
        system="{house} / {topic}",
        template="{topic}: {slot}",
        fix={"house": tuple(EIGHT)},
        vary={"topic": tuple(EIGHT)},
    )
    fixed = made.fixed(rng)
    rendered = [made.render(rng, fixed, "s") for _ in range(60)]
    assert len({system.split(" / ")[0] for system, _ in rendered}) == 1
    assert {prompt for _, prompt in rendered} == {f"{value}: s" for value in EIGHT}
    assert all(system.split(" / ")[1] == prompt.removesuffix(": s") for system, prompt in rendered)
    assert {made.fixed(rng)["house"] for _ in range(60)} == set(EIGHT)


def test_the_same_seed_renders_the_same() -> None:
    made = form(template="{topic} {slot}", vary={"topic": tuple(EIGHT)})
    first, second = (
        [made.render(rng, {}, "s") for _ in range(10)]
        for rng in (np.random.default_rng(1), np.random.default_rng(1))
    )
    assert first == second


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"family": "cot_nothing"}, "family must be of"),
        ({"intent": "mischief"}, "intent must be of"),
        ({"intent": "output_harvesting"}, "intent must be cot_harvesting for cot_tags"),
        ({"language": "English"}, "language must be"),
        ({"slots": ["riddle"]}, "slots must be of"),
        ({"slots": list(SLOT_KINDS[:5])}, "slots must be at most 4"),
        ({"slots": "question"}, "slots must be a list"),
        ({"slots": ["math", "math"]}, "slots must be a list of different"),
        ({"template": "canary"}, "the template must hold {slot} 1 times, however: 0"),
        ({"template": "{slot} canary {slot}"}, "the template must hold {slot} 1 times"),
        ({"slots": []}, "the template must hold {slot} 0 times"),
        ({"template": "canary", "slots": []}, "must vary a variable"),
        ({"system": "canary {slot}"}, "in the system prompt"),
        ({"system": 3}, "system must be a text"),
        ({"template": "{slot} canary {tag}"}, "'tag' does not"),
        ({"system": "canary {tag}"}, "'tag' does not"),
        ({"fix": {"tag": ["a", "b"]}}, "'tag' is not"),
        ({"template": "{slot} {t}", "fix": {"t": ["canary"]}}, "at least 2 values"),
        ({"template": "{slot} {t}", "vary": {"t": EIGHT[:7]}}, "at least 8 values"),
        ({"template": "{slot} {t}", "vary": {"t": [*EIGHT, "one"]}}, "vary must map"),
        (
            {"template": "{slot} {t}", "vary": {"t": EIGHT}, "fix": {"t": EIGHT}},
            "in both",
        ),
        ({"fix": {"slot": ["a", "b"]}}, "must have other names"),
        ({"note": "canary"}, "fields must be known"),
        ({"template": None}, "template must be a text"),
        ({"id": " "}, "id must be a text"),
    ],
)
def test_a_malformed_wrapper_is_refused(
    write_lines: WriteLines, changes: dict[str, Any], reason: str
) -> None:
    path = write_lines([fields(id="b"), fields(**changes)], "wrappers.jsonl")
    with pytest.raises(InputError) as refused:
        read_wrappers(path)
    message = str(refused.value)
    assert message.startswith("wrappers.jsonl, line 2: ")
    assert reason in message
    assert "canary" not in message


def test_all_faults_are_counted(write_lines: WriteLines) -> None:
    records = [fields(), fields(), fields(id="c", language="?"), b"[]"]
    with pytest.raises(InputError, match=r"line 3: language .* \(and 2 more faults\)$"):
        read_wrappers(write_lines(records))


def test_an_id_stands_once(write_lines: WriteLines) -> None:
    with pytest.raises(InputError, match="'cot_tags-01-en' stands 2 times"):
        read_wrappers(write_lines([fields(), fields()]))


def test_an_empty_file_is_refused(write_lines: WriteLines) -> None:
    with pytest.raises(InputError, match="must hold at least one line"):
        read_wrappers(write_lines([b""]))


def test_products_are_read_likewise(write_lines: WriteLines) -> None:
    product = {
        "id": "p",
        "language": "de",
        "trade": "insurance",
        "kind": "audit",
        "template": "Vermerk zu {slot}, {tone}.",
        "slots": ["answer"],
        "fix": {"tone": ["knapp", "genau"]},
    }
    (read,) = read_products(write_lines([product]))
    assert read == Product(
        "p", "de", "", "Vermerk zu {slot}, {tone}.", ("answer",),
        {"tone": ("knapp", "genau")}, {}, "insurance", "audit",
    )  # fmt: skip
    with pytest.raises(InputError, match="kind must be of"):
        read_products(write_lines([{**product, "kind": "toy"}]))
    with pytest.raises(InputError, match="trade must be a text"):
        read_products(write_lines([{**product, "trade": ""}]))


def test_forms_can_be_hashed(write_lines: WriteLines) -> None:
    path = write_lines([fields(template="{slot} {t}", fix={"t": ["a", "b"]})])
    (read,), (again,) = read_wrappers(path), read_wrappers(path)
    assert isinstance(read, Wrapper)
    assert {read, again} == {read}


def test_every_family_has_wrappers_in_many_languages() -> None:
    wrappers = load_wrappers()
    assert len(wrappers) >= 168
    families = Counter(wrapper.family for wrapper in wrappers)
    assert {name: families[name] for name in FAMILIES if families[name] < 3} == {}
    languages = Counter(wrapper.language for wrapper in wrappers)
    assert 0.35 < languages.pop("en") / len(wrappers) < 0.55
    assert len(languages) >= 10
    assert sum(count >= 15 for count in languages.values()) >= 10
    for language in [name for name, count in languages.items() if count >= 15]:
        intents = {wrapper.intent for wrapper in wrappers if wrapper.language == language}
        assert intents == set(INTENTS), language


def test_every_kind_of_product_is_shipped() -> None:
    assert {product.kind for product in load_products()} == set(PRODUCT_KINDS)


def test_shipped_wrappers_render_and_differ(rng: np.random.Generator) -> None:
    for wrapper in load_wrappers():
        fixed = wrapper.fixed(rng)
        prompts = {wrapper.render(rng, fixed, f"({n})")[1] for n in range(200)}
        # The least that an attacking account sends, without repeating itself.
        assert len(prompts) == 200 if wrapper.slots else len(prompts) >= 10, wrapper.id
        assert len(prompts) <= wrapper.variety
        texts = [wrapper.system, wrapper.template]
        texts += [value for values in wrapper.vary.values() for value in values]
        assert all(text == text.strip() for text in texts), wrapper.id


def test_no_two_shipped_wrappers_say_the_same() -> None:
    seen: dict[str, str] = {}
    for wrapper in load_wrappers():
        words = json.dumps(
            sorted(set(f"{wrapper.system} {wrapper.template}".casefold().split())),
            ensure_ascii=False,
        )
        assert words not in seen, (wrapper.id, seen[words])
        seen[words] = wrapper.id
