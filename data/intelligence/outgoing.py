"""The last look at what goes out: an object may hold what is listed here, and nothing else.

It knows nothing of how objects are made. Each property has its form; free text is in two places
alone, the pattern of an indicator and the name of an identity.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stillwatch.data.intelligence.review import why_not_shareable
from stillwatch.data.intelligence.types import NotShareable
from stillwatch.data.intelligence.vocabulary import (
    ATLAS_PHASE,
    EXTENSION,
    FAMILY,
    INTENT,
    LANGUAGE,
    PATTERN_TYPE,
    PATTERN_VERSION,
    TLP_IDS,
    attack_pattern,
    extension_definition,
    project_identity,
    tlp_marking,
)

Form = Callable[[Any], bool]

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[45][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
_NAME = re.compile(r"[^\W_][\w .,&'()-]{0,79}")
MOST_COUNT = 10**12


def matches(pattern: re.Pattern[str]) -> Form:
    """Text that a pattern matches whole."""
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def one_of(*values: Any) -> Form:
    """One of these values, of the same type."""
    return lambda value: any(type(value) is type(one) and value == one for one in values)


def a_list(form: Form) -> Form:
    """One or more of a form."""
    return lambda value: isinstance(value, list) and bool(value) and all(map(form, value))


def an_object(needed: Mapping[str, Form], optional: Mapping[str, Form] | None = None) -> Form:
    """An object of these properties and no others."""
    known = {**needed, **(optional or {})}
    return lambda value: (
        isinstance(value, dict)
        and set(needed) <= set(value) <= set(known)
        and all(known[name](own) for name, own in value.items())
    )


def _id(*kinds: str) -> Form:
    return matches(re.compile(rf"(?:{'|'.join(kinds)})--{_UUID}"))


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MOST_COUNT


def _share(value: Any) -> bool:
    return type(value) is float and 0.0 <= value <= 1.0


def _pattern(value: Any) -> bool:
    return isinstance(value, str) and why_not_shareable(value) is None


def _intents(value: Any) -> bool:
    return isinstance(value, dict) and all(
        matches(INTENT)(name) and _share(own) for name, own in value.items()
    )


_time: Form = matches(_TIME)
_marks = a_list(one_of(*TLP_IDS.values()))
_COMMON: Mapping[str, Form] = {
    "spec_version": one_of("2.1"), "created_by_ref": _id("identity"), "created": _time,
    "modified": _time, "object_marking_refs": _marks,
}  # fmt: skip
_PROPERTY_EXTENSION = one_of("property-extension")
TEMPLATE_FIELDS = {"intent": matches(INTENT), "language": matches(LANGUAGE)}

INDICATOR_NAME = "Prompt template of adversarial distillation"
INDICATOR_DESCRIPTION = (
    "A prompt that many requests of a distillation campaign had in common; {slot} stands where "
    "they differed."
)
CAMPAIGN_NAME = re.compile(r"Distillation campaign [0-9a-f]{8}")

FORMS: Mapping[str, Form] = {
    "identity": an_object(
        {
            **_COMMON, "type": one_of("identity"), "id": _id("identity"), "name": matches(_NAME),
            "identity_class": one_of("organization"),
        }
    ),
    "indicator": an_object(
        {
            **_COMMON, "type": one_of("indicator"), "id": _id("indicator"),
            "name": one_of(INDICATOR_NAME), "description": one_of(INDICATOR_DESCRIPTION),
            "indicator_types": one_of(["malicious-activity"]), "pattern": _pattern,
            "pattern_type": one_of(PATTERN_TYPE), "pattern_version": one_of(PATTERN_VERSION),
            "valid_from": _time, "kill_chain_phases": one_of([ATLAS_PHASE]),
            "extensions": an_object(
                {
                    EXTENSION: an_object(
                        {"extension_type": _PROPERTY_EXTENSION, **TEMPLATE_FIELDS},
                        {"family": matches(FAMILY)},
                    )
                }
            ),
        },
        {"valid_until": _time, "revoked": one_of(True, False)},
    ),
    "campaign": an_object(
        {
            **_COMMON, "type": one_of("campaign"), "id": _id("campaign"),
            "name": matches(CAMPAIGN_NAME), "first_seen": _time, "last_seen": _time,
            "extensions": an_object(
                {
                    EXTENSION: an_object(
                        {
                            "extension_type": _PROPERTY_EXTENSION, "intents": _intents,
                            "accounts": _count, "events": _count,
                        }
                    )
                }
            ),
        }
    ),
    "relationship": an_object(
        {
            **_COMMON, "type": one_of("relationship"), "id": _id("relationship"),
            "relationship_type": one_of("indicates", "uses"),
            "source_ref": _id("indicator", "campaign"),
            "target_ref": _id("attack-pattern", "campaign"),
        }
    ),
}  # fmt: skip
"""Of the objects that a site makes; those that all sites have in common are known whole."""


def check_outgoing(objects: Iterable[Mapping[str, Any]]) -> None:
    """NotShareable for an object that holds anything that is not listed; nothing of it is told but
    its type and the first property that is not as it must be."""
    common = {one["id"]: one for one in (extension_definition(), project_identity())}
    common |= {one["id"]: one for one in map(tlp_marking, TLP_IDS)}
    for one in objects:
        kind = str(one.get("type"))
        known = common.get(str(one.get("id")))
        if known == one:
            continue
        if kind == "attack-pattern" and _is_attack_pattern(one):
            continue
        form = FORMS.get(kind)
        if form is None or known is not None or not form(one):
            raise NotShareable(
                "what goes out must hold the properties that are listed, each of its form, "
                f"however: {kind if kind in FORMS else 'an object'} does not; nothing was shared"
            )


def _is_attack_pattern(one: Mapping[str, Any]) -> bool:
    """Whether it is what every site has for some intent."""
    intent = str(one.get("name", "")).lower().replace(" ", "_")
    known = {"chain-of-thought_harvesting": "cot_harvesting"}
    intent = known.get(intent, intent)
    return INTENT.fullmatch(intent) is not None and attack_pattern(intent) == one
