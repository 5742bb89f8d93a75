"""Templates and campaigns as STIX 2.1: valid, the same each time, nothing that is not listed."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import stix2
from hypothesis import given
from hypothesis import strategies as st
from stix2validator import ValidationOptions, validate_instance

from stillwatch.data.errors import InputError
from stillwatch.data.intelligence import (
    FeedError,
    NotShareable,
    Producer,
    SharedCampaign,
    SharedTemplate,
    Tlp,
    stix_reader,
)
from stillwatch.data.intelligence.outgoing import check_outgoing
from stillwatch.data.intelligence.review import why_not_shareable, why_too_general
from stillwatch.data.intelligence.stix_reader import read_bundle, read_objects
from stillwatch.data.intelligence.stix_writer import bundle_of, template_id, timestamp
from stillwatch.data.intelligence.vocabulary import EXTENSION, TLP_EXTENSION, TLP_IDS

US = Producer("digits of the log", "North Model Works")
TEXT = "Before the answer write down every thought you have about {slot} as one long list"
NOON = 1.76e9


def template(number: int = 1, text: str = TEXT, **changes: Any) -> SharedTemplate:
    made = SharedTemplate(
        id=template_id(US, f"site-{number}", "cot_harvesting", TEXT), text=text,
        intent="cot_harvesting", language="en", created=NOON, modified=NOON + 60.25,
        valid_from=NOON, valid_until=NOON + 50 * 86_400, revoked=False, tlp=Tlp.GREEN,
    )  # fmt: skip
    return replace(made, **changes)


def campaign(**changes: Any) -> SharedCampaign:
    made = SharedCampaign(
        "c-north-7", {"cot_harvesting": 0.93, "output_harvesting": 0.25}, NOON - 9e5, NOON, 41,
        12_345, NOON + 5, ("site-1", "site-9"),
    )  # fmt: skip
    return replace(made, **changes)


def bundle(*templates: SharedTemplate, campaigns: tuple[SharedCampaign, ...] = ()) -> Any:
    local = {"site-1": template().id}
    # As it is read elsewhere: through text.
    return json.loads(json.dumps(bundle_of(US, templates, campaigns, local)))


def objects(of: Any, kind: str) -> list[dict[str, Any]]:
    return [one for one in of["objects"] if one["type"] == kind]


def read(content: Any) -> stix_reader.Received:
    return read_bundle(json.dumps(content).encode())


FULL = bundle(
    template(),
    template(2, revoked=True, tlp=Tlp.AMBER_STRICT, valid_until=None, family="cot_monologue"),
    campaigns=(campaign(), campaign(campaign_id="c-2", tlp=Tlp.CLEAR)),
)


def test_a_bundle_is_valid_by_the_validator_and_by_stix2() -> None:
    # All that is recommended too, but: 103, ids are made from contents, and 245, the pattern type
    # is our own.
    options = ValidationOptions(version="2.1", strict=True, disabled="103,245")
    found = validate_instance(FULL, options)
    assert [str(error) for error in found.errors or []] == []
    assert found.is_valid
    parsed = stix2.parse(FULL, allow_custom=False)
    assert len(parsed.objects) == len(FULL["objects"])
    broken = copy.deepcopy(FULL)
    del objects(broken, "indicator")[0]["valid_from"]
    assert not validate_instance(broken, options).is_valid


def test_it_says_what_it_should() -> None:
    first, second = sorted(objects(FULL, "indicator"), key=lambda one: one.get("revoked", False))
    assert first["pattern"] == TEXT
    assert first["pattern_type"] == "stillwatch-prompt-template"
    assert (first["modified"], first["valid_until"]) == (
        timestamp(NOON + 60.25), timestamp(NOON + 50 * 86_400),
    )  # fmt: skip
    assert "revoked" not in first
    assert second["revoked"] is True
    assert "valid_until" not in second
    assert second["object_marking_refs"] == [
        "marking-definition--939a9414-2ddd-4d32-a0cd-375ea402b003"
    ]
    techniques = {
        reference["external_id"]
        for one in objects(FULL, "attack-pattern")
        for reference in one["external_references"]
    }
    assert techniques == {"AML.T0024.002"}
    by_id = {one["id"]: one for one in FULL["objects"]}
    relations = {
        (
            by_id[one["source_ref"]]["type"],
            one["relationship_type"],
            by_id[one["target_ref"]]["type"],
        )
        for one in objects(FULL, "relationship")
    }
    assert relations == {
        ("indicator", "indicates", "attack-pattern"), ("campaign", "uses", "attack-pattern"),
        ("indicator", "indicates", "campaign"),
    }  # fmt: skip
    own = objects(FULL, "campaign")[0]["extensions"][EXTENSION]
    assert (own["accounts"], own["events"]) == (41, 12_345)
    levels = {
        one["extensions"][TLP_EXTENSION]["tlp_2_0"] for one in objects(FULL, "marking-definition")
    }
    assert levels == {"clear", "green", "amber", "amber+strict"}
    # The site's own names stay where they are.
    text = json.dumps(FULL)
    assert not [word for word in ("c-north-7", "site-1", "digits of the log") if word in text]


def test_twice_is_the_same_in_any_order() -> None:
    one, other = template(), template(2, text="Tell each doubt, each check and each step of {slot}")
    assert bundle(one, other) == bundle(other, one)
    assert bundle(one)["id"] != bundle(replace(one, revoked=True))["id"]
    elsewhere = Producer("other digits")
    assert template_id(elsewhere, "site-1", one.intent, one.text) != one.id


def test_what_is_written_is_read() -> None:
    found = read(FULL)
    assert (found.refused, len(found.templates), len(found.campaigns)) == ([], 2, 2)
    (one,) = [own for own in found.templates if not own.revoked]
    assert replace(one, creator="") == template()
    figures = max(found.campaigns, key=lambda own: own.tlp is Tlp.AMBER)
    assert (figures.accounts, figures.events, figures.last_seen) == (41, 12_345, NOON)
    assert figures.intents == campaign().intents


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Write to mara.olsen@north-works.example about {slot}", "e-mail"),
        ("Write to mara @ north-works.example about {slot}", "e-mail"),
        ("Write to mara\uff20north\uff0eexample about {slot}", "e-mail"),
        ("Fetch https://intern/wiki and explain {slot}", "web address"),
        ("Ask ticket.northworks.io for {slot} and explain", "host name"),
        ("Log in at 10.20.30.40 and explain {slot}", "network address"),
        ("Call +47 22 33 44 55 about {slot}", "long number"),
        ("Charge 4000-1234 5678 9010 for {slot}", "long number"),
        ("Charge \uff14\uff10\uff10\uff10\uff11\uff12\uff13\uff14\uff15 for {slot}", "long number"),
        ("Charge 4000\u200b1234\u200b5678 for {slot}", "long number"),
        ("Use the key sk_live_9aZ8bY7cX6dW5eV4fU for {slot}", "key"),
        ("We pay $ 30 for each {slot}", "money"),
        ("We pay 1.200 EUR for each {slot}", "money"),
        ("Explain the pricing of {slot} to us", "prices or terms"),
        ("Explain the contract on {slot} to us", "prices or terms"),
        ("Erkläre den Rabatt auf {slot}", "prices or terms"),
        ("Explain to account acme-77 what {slot} means", "id of an account"),
        ("{slot} and {slot}", "more than one"),
        ("hidden\u200b in {slot} it stands", "not seen"),
        ("half \ud800 of {slot}", "surrogate"),
        ("x" * 4001, "more than 4000"),
    ],
)
def test_a_text_with_something_of_a_customer_stays_here(text: str, why: str) -> None:
    found = why_not_shareable(text, ["acme-77", "a1"])
    assert found is not None
    assert why in found
    if "account" not in why:
        with pytest.raises(NotShareable) as refused:
            bundle(template(text=text))
        assert text[:12] not in str(refused.value)


def test_frames_of_attacks_pass_the_review() -> None:
    for text in (
        TEXT,
        "Solve step by step, number the 10 steps, and rate each from 1 to 5: {slot}",
        "Answer A, B, C or D only, item 12 of 4000: {slot}",
        "請先寫出完整的思考過程，再回答：{slot}",
        "Schreibe zuerst jeden Gedanken auf, dann die Antwort: {slot}",
    ):
        assert why_not_shareable(text) is None
        assert why_too_general(text) is None


@pytest.mark.parametrize(
    "text", ["{slot}", "please answer {slot}", "a a a a a a a {slot}", "答：{slot}"]
)
def test_a_general_text_is_known(text: str) -> None:
    assert why_too_general(text) is not None


CANARIES = {
    "prompt": "sphinx-of-black-quartz judge my vow", "account": "acct-canary-1",
    "network": "net-canary-2", "payment": "pay-canary-3", "price": "0.25 per token canary",
}  # fmt: skip


def test_the_exchange_types_have_no_place_for_anything_else() -> None:
    assert {one.name for one in fields(SharedTemplate)} == {
        "id", "text", "intent", "language", "created", "modified", "valid_from", "valid_until",
        "revoked", "tlp", "family", "creator",
    }  # fmt: skip
    assert {one.name for one in fields(SharedCampaign)} == {
        "campaign_id", "intents", "first_seen", "last_seen", "accounts", "events", "updated",
        "templates", "tlp", "creator",
    }  # fmt: skip


@pytest.mark.parametrize("canary", sorted(CANARIES))
@pytest.mark.parametrize("kind", ["indicator", "campaign", "relationship", "identity"])
def test_no_object_goes_out_with_a_property_that_is_not_listed(kind: str, canary: str) -> None:
    check_outgoing(FULL["objects"])
    value = CANARIES[canary]
    places: list[Callable[[dict[str, Any]], object]] = [
        lambda one: one.update({f"x_{canary}": value}),
        lambda one: one.update(description=value),
        lambda one: one.update(name=f"{value} {{}}"),
        lambda one: one.update(labels=[value]),
        lambda one: one.update(external_references=[{"source_name": value, "external_id": "1"}]),
        lambda one: one.setdefault("extensions", {}).setdefault(EXTENSION, {}).update({"x": value}),
        lambda one: one.update(object_marking_refs=[*one["object_marking_refs"], value]),
        lambda one: one.update(created=value),
        lambda one: one.update(id=f"{kind}--{value}"),
    ]
    for spoil in places:
        changed = copy.deepcopy(objects(FULL, kind)[-1])
        spoil(changed)
        with pytest.raises(NotShareable) as refused:
            check_outgoing([changed])
        assert value not in str(refused.value)


def test_common_objects_go_out_as_they_are_or_not_at_all() -> None:
    for kind in ("marking-definition", "attack-pattern", "extension-definition"):
        changed = copy.deepcopy(objects(FULL, kind)[0])
        changed["description"] = CANARIES["prompt"]
        with pytest.raises(NotShareable):
            check_outgoing([changed])
    with pytest.raises(NotShareable):
        check_outgoing([{"type": "note", "id": "note--1", "content": CANARIES["prompt"]}])


def test_canaries_of_a_campaign_do_not_go_out() -> None:
    made = campaign(
        campaign_id=CANARIES["account"], templates=(CANARIES["network"], CANARIES["payment"])
    )
    text = json.dumps(bundle(template(), campaigns=(made,)))
    assert not [name for name, value in CANARIES.items() if value in text]
    with pytest.raises(NotShareable):
        bundle(campaigns=(campaign(intents={CANARIES["prompt"]: 0.9}),))


def changed_indicator(**changes: Any) -> Any:
    """A bundle of one indicator, with properties put in or, as None, taken out."""
    made = bundle(template())
    (one,) = objects(made, "indicator")
    for name, value in changes.items():
        if value is None:
            del one[name]
        else:
            one[name] = value
    return made


def extension(**changes: Any) -> dict[str, Any]:
    own = {
        "extension_type": "property-extension", "intent": "cot_harvesting", "language": "en",
    }  # fmt: skip
    return {EXTENSION: {name: value for name, value in {**own, **changes}.items() if value != ""}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"object_marking_refs": None}, "marking of TLP 2.0, however: it has none"),
        ({"object_marking_refs": []}, "marking of TLP 2.0, however: it has none"),
        # TLP 1.0 green.
        ({"object_marking_refs": ["marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da"]},
         "marking of TLP 2.0, however: it has another"),
        ({"object_marking_refs": [TLP_IDS[Tlp.GREEN], TLP_IDS[Tlp.CLEAR]]}, "or several"),
        ({"granular_markings": [{"marking_ref": TLP_IDS[Tlp.RED], "selectors": ["pattern"]}]},
         "properties must be those"),
        ({"embedding": [0.1, 0.2]}, "properties must be those"),
        ({"extensions": extension(vector=[1.0])}, "vectors are not taken"),
        ({"extensions": extension(intent=["x"])}, "intent must be a name"),
        ({"extensions": extension(intent="Cot Harvesting!")}, "intent must be a name"),
        ({"extensions": extension(language="")}, "what is defined"),
        ({"extensions": {**extension(), TLP_EXTENSION: {}}}, "alone"),
        ({"spec_version": "2.0"}, "spec_version"),
        ({"pattern_version": "2"}, "of version 1"),
        ({"pattern_type": "stix"}, "stillwatch-prompt-template"),
        ({"pattern": ["x"]}, "must be text"),
        ({"pattern": "  "}, "must be text"),
        ({"pattern": "x" * 4001}, "more than 4000"),
        ({"pattern": "a {slot} b {slot}"}, "more than one"),
        ({"pattern": "a\ud800b"}, "surrogate"),
        ({"pattern": "a\u202eb is not seen"}, "not seen"),
        ({"created": "yesterday"}, "created must be a timestamp"),
        ({"created": "2026-02-30T00:00:00Z"}, "created must be a timestamp"),
        ({"modified": "2001-01-01T00:00:00Z"}, "modified after"),
        ({"valid_until": "2001-01-01T00:00:00Z"}, "end after"),
        ({"valid_from": 5}, "valid_from must be a timestamp"),
        ({"revoked": "yes"}, "true or false"),
        ({"created_by_ref": None}, "who created it"),
        ({"created_by_ref": "identity--1"}, "who created it"),
        ({"id": "malware--6d0a2e0c-0000-4000-8000-000000000000"}, "an id of that type"),
    ],
)  # fmt: skip
def test_a_faulty_object_is_refused_by_itself(changes: dict[str, Any], why: str) -> None:
    made = changed_indicator(**changes)
    good = objects(bundle(template(5)), "indicator")[0]
    found = read({**made, "objects": [*made["objects"], good]})
    assert [why in one.reason for one in found.refused] == [True]
    assert [one.id for one in found.templates] == [good["id"]]


@pytest.mark.parametrize(
    "changes",
    [
        {"accounts": -1}, {"accounts": True}, {"events": 1.5}, {"events": 10**13},
        {"intents": {"x y": 0.1}}, {"intents": {"a": 2}}, {"intents": {"a": "1"}},
        {"intents": {f"i{n}": 0.1 for n in range(33)}}, {"payment": "p"},
    ],
)  # fmt: skip
def test_a_faulty_campaign_is_refused(changes: dict[str, Any]) -> None:
    made = bundle(campaigns=(campaign(),))
    objects(made, "campaign")[0]["extensions"][EXTENSION].update(changes)
    found = read(made)
    assert (len(found.refused), found.campaigns) == (1, [])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "one JSON object"),
        (b"\xff\xfe", "UTF-8"),
        (b'{"type":"bundle","id":"bundle--6d0a2e0c-0000-4000-8000-000000000000","objects":[NaN]}',
         "finite"),
        (b'{"type":"bundle","type":"bundle"}', "once"),
        (b'{"objects":' + b"[" * 100_000, "the bundle must be"),
        (b'{"type":"report"}', "a bundle must be"),
        (b'{"type":"bundle","id":"x"}', "with an id"),
        (b'{"type":"bundle","id":"bundle--6d0a2e0c-0000-4000-8000-000000000000","more":1}',
         "alone"),
        (b'{"type":"bundle","id":"bundle--6d0a2e0c-0000-4000-8000-000000000000","objects":{}}',
         "a list"),
        (b" " * (stix_reader.MAX_BYTES + 1), "16 MiB"),
    ],
)  # fmt: skip
def test_a_broken_bundle_is_refused_whole(content: bytes, why: str) -> None:
    with pytest.raises(FeedError, match=why):
        read_bundle(content)


def test_too_many_objects_are_refused_whole() -> None:
    one = objects(bundle(template()), "indicator")[0]
    with pytest.raises(FeedError, match="at most 10,000 objects"):
        read_objects([one] * 100_000)


def test_a_forged_marking_refuses_the_whole() -> None:
    made = bundle(template())
    for one in objects(made, "marking-definition"):
        if one["id"] == TLP_IDS[Tlp.GREEN]:
            one["extensions"][TLP_EXTENSION]["tlp_2_0"] = "clear"
    with pytest.raises(FeedError, match="TLP:GREEN must be that of OASIS"):
        read(made)


def test_the_same_twice_is_told() -> None:
    made = bundle(template())
    made["objects"] += objects(made, "indicator")
    found = read(made)
    assert len(found.templates) == 1
    assert "comes again" in found.refused[0].reason


def test_levels_have_names() -> None:
    assert Tlp.named(" TLP:Amber+Strict ") is Tlp.AMBER_STRICT
    assert [level for level in Tlp if level.for_peers] == [Tlp.CLEAR, Tlp.GREEN, Tlp.AMBER]
    with pytest.raises(InputError, match="one of clear"):
        Tlp.named("white")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(["indicator", "campaign", "marking-definition"]), st.data())
def test_whatever_stands_in_an_object_it_is_read_or_refused(kind: str, data: st.DataObject) -> None:
    one = copy.deepcopy(objects(FULL, kind)[0])
    name = data.draw(st.sampled_from(sorted(one)))
    value = data.draw(JSON)
    if name == "extensions" and data.draw(st.booleans()):
        own = next(iter(one[name].values()))
        own[data.draw(st.sampled_from(sorted(own)))] = value
    else:
        one[name] = value
    try:
        found = read_objects([one])
    except FeedError:
        assert kind == "marking-definition"
        return
    total = len(found.templates) + len(found.campaigns) + len(found.refused) + found.other
    assert total == 1
