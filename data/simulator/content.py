"""What simulated accounts send: the forms of attack prompts and of ordinary products.

A form is a prompt template with one place for material of a corpus (`{slot}`) and with variables:
those of `fix` are drawn once an account, those of `vary` at each event. Each form is one line of
`wrappers.jsonl` or `products.jsonl`, written by hand:

{"id": "cot_tags-03-de", "family": "cot_tags", "intent": "cot_harvesting", "language": "de",
 "system": "", "template": "{slot} … {tag}", "slots": ["question"], "fix": {"tag": ["a", "b"]}}
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from stillwatch.data.errors import InputError
from stillwatch.data.events import DEFAULT_INTENTS
from stillwatch.data.files import open_lines
from stillwatch.data.strict_json import InvalidJson, parse_object

INTENTS = DEFAULT_INTENTS

FAMILIES = {
    "cot_reconstruct": "cot_harvesting",
    "cot_debug_pretext": "cot_harvesting",
    "cot_launder": "cot_harvesting",
    "cot_tags": "cot_harvesting",
    "cot_language": "cot_harvesting",
    "cot_monologue": "cot_harvesting",
    "cot_alternatives": "cot_harvesting",
    "cot_teacher": "cot_harvesting",
    "cot_agentic": "cot_harvesting",
    "cot_confidence": "cot_harvesting",
    "cot_selfquestion": "cot_harvesting",
    "cot_process_labels": "cot_harvesting",
    "out_persona": "output_harvesting",
    "out_taskgen": "output_harvesting",
    "out_toolsweep": "output_harvesting",
    "out_codesweep": "output_harvesting",
    "out_rubric": "output_harvesting",
    "out_safe_rewrite": "output_harvesting",
    "out_dialogue": "output_harvesting",
    "out_pairs": "output_harvesting",
    "out_variants": "output_harvesting",
    "out_longform": "output_harvesting",
    "out_docqa": "output_harvesting",
    "out_parallel": "output_harvesting",
    "out_registers": "output_harvesting",
    "probe_benchmark": "capability_probing",
    "probe_boundary": "capability_probing",
    "probe_technique": "capability_probing",
    "probe_selfreport": "capability_probing",
    "probe_consistency": "capability_probing",
    "probe_harness": "capability_probing",
    "probe_limits": "capability_probing",
    "probe_format": "capability_probing",
    "probe_knowledge": "capability_probing",
}
"""Family of attack behaviour -> the intent that it serves."""

SLOT_KINDS = (
    "question", "math", "exam", "code", "snippet", "instruction", "topic", "answer", "boundary",
    "customer_message", "document", "sentence", "search_query", "command", "tool_request",
    "dialogue_turn", "judge_item", "student_work",
)  # fmt: skip
"""What a corpus can offer to stand in a slot."""

PRODUCT_KINDS = (
    "product", "judge", "step_by_step", "translation", "audit", "coding_agent", "debugging",
    "multilingual", "tutoring", "prompt_library",
)  # fmt: skip

SLOT = "slot"
MAX_SLOT_KINDS = 4
MIN_FIXED_VALUES = 2
MIN_VARIED_VALUES = 8

_HANDS = (20, 80, 100, *range(200, 2000, 50))
_NUMBER = re.compile(r"-(\d+)-")
_PLACEHOLDER = re.compile(r"\{([a-z][a-z0-9_]*)\}")
"""JSON in a template has a quote, a space or a line break after its brace, never a bare name."""


@dataclass(frozen=True)
class PromptForm:
    """A prompt with places for a slot and for variables.

    `template` holds `{slot}` once, or not at all if `slots` (the kinds of material that make
    sense in it) is empty. `system` may hold variables too. Compared and hashed by its fields.
    """

    id: str
    language: str
    system: str
    template: str
    slots: tuple[str, ...]
    fix: Mapping[str, tuple[str, ...]] = field(hash=False)
    vary: Mapping[str, tuple[str, ...]] = field(hash=False)

    @property
    def variety(self) -> float:
        """Different prompts that one account can make of it."""
        return math.inf if self.slots else math.prod(len(own) for own in self.vary.values())

    def fixed(self, rng: np.random.Generator) -> dict[str, str]:
        """The variables that an account draws once."""
        return _draw(rng, self.fix)

    def render(
        self, rng: np.random.Generator, fixed: Mapping[str, str], slot: str
    ) -> tuple[str, str]:
        """(system prompt, user prompt) of one event; the varied variables are drawn anew.

        `slot` and the values are put in as they are: braces in them mean nothing.
        """
        values = {**fixed, **_draw(rng, self.vary), SLOT: slot}
        return _replace(self.system, values), _replace(self.template, values)


@dataclass(frozen=True)
class Wrapper(PromptForm):
    """How an attacker asks. `family` is of FAMILIES, `intent` that family's."""

    family: str
    intent: str

    @property
    def hand(self) -> str:
        """Those wrappers of a family that were written in one go, by their numbers (01 to 19,
        20 to 79, 80 to 99, 100 to 199, then by fifties): others of the family share no phrase
        with them."""
        found = _NUMBER.search(self.id)
        number = int(found[1]) if found else 0
        return f"{self.family}/{bisect_right(_HANDS, number)}"


@dataclass(frozen=True)
class Product(PromptForm):
    """How an ordinary application asks. `trade` is its line of business, `kind` of
    PRODUCT_KINDS."""

    trade: str
    kind: str


@cache
def load_wrappers() -> tuple[Wrapper, ...]:
    """Every attack wrapper that is shipped. Raises InputError if one is malformed."""
    return read_wrappers(Path(__file__).with_name("wrappers.jsonl"))


@cache
def load_products() -> tuple[Product, ...]:
    """Every ordinary product that is shipped. Raises InputError if one is malformed."""
    return read_products(Path(__file__).with_name("products.jsonl"))


def read_wrappers(path: Path, intents: Sequence[str] = INTENTS) -> tuple[Wrapper, ...]:
    """The wrappers of a file, each of one of these intents. Raises InputError with the first
    fault and the number of others."""
    return _read(path, Wrapper, ("family", "intent"), partial(_wrapper_faults, intents))


def read_products(path: Path) -> tuple[Product, ...]:
    """The products of a file. Raises InputError with the first fault and the number of others."""
    return _read(path, Product, ("trade", "kind"), _product_faults)


def _draw(rng: np.random.Generator, choices: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    return {name: values[int(rng.integers(len(values)))] for name, values in choices.items()}


def _replace(text: str, values: Mapping[str, str]) -> str:
    """One pass over the text, so that nothing is replaced within what was put in."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)


_Form = TypeVar("_Form", bound=PromptForm)
_TEXTS = ("id", "language", "template")
_OPTIONAL = ("system", "slots", "fix", "vary")


def _read(
    path: Path,
    form: type[_Form],
    own: tuple[str, str],
    own_faults: Callable[[Mapping[str, Any]], Iterator[str]],
) -> tuple[_Form, ...]:
    forms: list[_Form] = []
    faults: list[str] = []
    for number, line in open_lines(path):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}:"
        try:
            fields = parse_object(line)
        except InvalidJson as error:
            faults.append(f"{where} {error.reason}")
            continue
        found = list(_shape_faults(fields, own))
        if not found:
            found = [*_form_faults(fields), *own_faults(fields)]
        if found:
            faults += [f"{where} {fault}" for fault in found]
            continue
        forms.append(
            form(
                id=fields["id"],
                language=fields["language"],
                system=fields.get("system", ""),
                template=fields["template"],
                slots=tuple(fields.get("slots", ())),
                fix={name: tuple(values) for name, values in fields.get("fix", {}).items()},
                vary={name: tuple(values) for name, values in fields.get("vary", {}).items()},
                **{name: fields[name] for name in own},
            )
        )
    faults += [
        f"{path.name}: an id must stand once, however: {name!r} stands {count} times"
        for name, count in Counter(each.id for each in forms).items()
        if count > 1
    ]
    if not forms and not faults:
        faults.append(f"{path.name} must hold at least one line, however: it is empty")
    if faults:
        more = f" (and {len(faults) - 1} more faults)" if len(faults) > 1 else ""
        raise InputError(faults[0] + more)
    return tuple(forms)


def _shape_faults(fields: Mapping[str, Any], own: tuple[str, str]) -> Iterator[str]:
    """Fields that are missing, unknown or of another type."""
    for name in (*_TEXTS, *own):
        if not isinstance(fields.get(name), str) or not fields[name].strip():
            yield f"{name} must be a text, however: it is missing, empty or another value"
    unknown = sorted(fields.keys() - {*_TEXTS, *own, *_OPTIONAL})
    if unknown:
        yield f"fields must be known ones, however: {unknown[0]!r}"
    if not isinstance(fields.get("system", ""), str):
        yield "system must be a text, however: another value"
    if not _are_texts(fields.get("slots", [])):
        yield "slots must be a list of different texts, however: another value"
    for group in ("fix", "vary"):
        choices = fields.get(group, {})
        if not isinstance(choices, dict) or not all(map(_are_texts, choices.values())):
            yield f"{group} must map names to lists of different texts, however: another value"


def _are_texts(values: object) -> bool:
    return (
        isinstance(values, list)
        and all(isinstance(value, str) and value for value in values)
        and len(set(values)) == len(values)
    )


def _form_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    if not re.fullmatch(r"[a-z]{2}", fields["language"]):
        yield "language must be a code of two small letters, however: another value"
    slots: list[str] = fields.get("slots", [])
    yield from (
        f"slots must be of {', '.join(SLOT_KINDS)}, however: {kind!r}"
        for kind in slots
        if kind not in SLOT_KINDS
    )
    if len(slots) > MAX_SLOT_KINDS:
        yield f"slots must be at most {MAX_SLOT_KINDS}, however: {len(slots)}"

    in_template = _PLACEHOLDER.findall(fields["template"])
    in_system = _PLACEHOLDER.findall(fields.get("system", ""))
    wanted = 1 if slots else 0
    if in_template.count(SLOT) != wanted:
        yield (
            f"the template must hold {{{SLOT}}} {wanted} times, however: "
            f"{in_template.count(SLOT)} times; slots decides"
        )
    if SLOT in in_system:
        yield f"{{{SLOT}}} must stand in the template, however: in the system prompt"

    fix: dict[str, list[str]] = fields.get("fix", {})
    vary: dict[str, list[str]] = fields.get("vary", {})
    known = {*fix, *vary}
    used = {*in_template, *in_system} - {SLOT}
    if not slots and not vary:
        yield "a form without slots must vary a variable, however: none"
    for name in sorted(used - known):
        yield f"variables must stand in fix or vary, however: {name!r} does not"
    for name in sorted(known - used - {SLOT}):
        yield f"variables must be used, however: {name!r} is not"
    for name in sorted(fix.keys() & vary.keys()):
        yield f"a variable must stand in fix or in vary, however: {name!r} in both"
    if SLOT in known:
        yield f"variables must have other names, however: {SLOT!r}"
    for choices, least in ((fix, MIN_FIXED_VALUES), (vary, MIN_VARIED_VALUES)):
        for name, values in choices.items():
            if len(values) < least:
                yield (
                    f"variable {name!r} must have at least {least} values, however: {len(values)}"
                )


def _wrapper_faults(intents: Sequence[str], fields: Mapping[str, Any]) -> Iterator[str]:
    family, intent = fields["family"], fields["intent"]
    if family not in FAMILIES and intent in INTENTS:
        yield f"family must be of {', '.join(FAMILIES)}, however: {family!r}"
    if intent not in intents:
        yield f"intent must be of {', '.join(intents)}, however: {intent!r}"
    elif FAMILIES.get(family, intent) != intent:
        yield f"intent must be {FAMILIES[family]} for {family}, however: {intent}"


def _product_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    if fields["kind"] not in PRODUCT_KINDS:
        yield f"kind must be of {', '.join(PRODUCT_KINDS)}, however: {fields['kind']!r}"
