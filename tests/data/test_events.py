"""The door: what becomes an event, what is refused."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillwatch.data.errors import InputError
from stillwatch.data.events import (
    KNOWN_FIELDS,
    TIME_END,
    Event,
    InvalidEvent,
    Turn,
    event_to_fields,
    parse_event,
    parse_time,
)

Line = Callable[..., dict[str, Any]]

NAMES = st.text(min_size=1).filter(lambda text: bool(text.strip()))
OPTIONAL_TEXT = st.none() | st.text(min_size=1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
EVENTS = st.builds(
    Event,
    event_id=NAMES,
    account_id=NAMES,
    timestamp=st.floats(0.0, TIME_END, exclude_max=True),
    prompt=st.text(),
    system=st.text(),
    turns=st.lists(st.builds(Turn, st.text(), st.text()), max_size=3).map(tuple),
    model=OPTIONAL_TEXT,
    platform=OPTIONAL_TEXT,
    network=OPTIONAL_TEXT,
    payment=OPTIONAL_TEXT,
    client=OPTIONAL_TEXT,
    session_id=OPTIONAL_TEXT,
    temperature=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    max_tokens=st.none() | st.integers(0, 2**53),
    n=st.none() | st.integers(0, 100),
    logprobs=st.none() | st.booleans(),
    extra=st.dictionaries(st.text().filter(lambda name: name not in KNOWN_FIELDS), JSON),
)


@given(EVENTS)
def test_fields_and_event_are_inverse(event: Event) -> None:
    assert parse_event(event_to_fields(event)) == event


@pytest.mark.parametrize(
    "value",
    [
        1_700_000_000,
        1_700_000_000.0,
        1_700_000_000_000,
        "2023-11-14T22:13:20Z",
        "2023-11-14T22:13:20",
        "2023-11-14 22:13:20+00:00",
        "2023-11-15T00:13:20+02:00",
    ],
)
def test_every_form_of_a_time_is_the_same_moment(value: object) -> None:
    assert parse_time(value) == 1_700_000_000.0


@pytest.mark.parametrize(
    "value",
    [
        None, True, "", "yesterday", "1700000000", math.nan, math.inf, -1, 10**400, 10**16,
        "1969-12-31T23:59:59Z", "2201-01-01", "0001-01-01T00:00:00+14:00", [1], {"s": 1},
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused(value: object) -> None:
    with pytest.raises(InvalidEvent, match=r"^timestamp must"):
        parse_time(value)


@pytest.mark.parametrize("value", [0, "1970-01-01", "2200-12-31T23:59:59"])
def test_the_first_and_last_moments_are_times(value: object) -> None:
    assert 0 <= parse_time(value) < TIME_END


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"account_id": None}, "account_id must be a string that is not empty, however: missing"),
        ({"account_id": ""}, "account_id must .* an empty string"),
        ({"account_id": " \t"}, "account_id must .* an empty string"),
        ({"account_id": 7}, "account_id must .* a number"),
        ({"account_id": "\udc00"}, "account_id must .* a lone surrogate"),
        ({"account_id": "a" * 257}, "account_id must be at most 256 bytes .* it is longer"),
        ({"event_id": "\u00e9" * 129}, "event_id must be at most 256 bytes .* it is longer"),
        ({"prompt": None}, "prompt must be a string, however: missing"),
        ({"prompt": ["x"]}, "prompt must be a string, however: a list"),
        ({"prompt": "x\ud800y"}, "prompt must be Unicode text"),
        ({"event_id": None, "prompt": "x\ud800y"}, "prompt must be Unicode text"),
        ({"event_id": 4}, "event_id must be a string"),
        ({"event_id": "\ud800"}, "event_id must be Unicode text"),
        ({"system": {}}, "system must be a string, however: an object"),
        ({"system": "\ud800"}, "system must be Unicode text"),
        ({"model": 1}, "model must be a string"),
        ({"network": "\ud800"}, "network must be Unicode text"),
        ({"temperature": "0.5"}, "temperature must be a number"),
        ({"temperature": True}, "temperature must be a number, however: a boolean"),
        ({"temperature": math.nan}, "temperature must be finite"),
        ({"temperature": 10**400}, "temperature must be finite"),
        ({"max_tokens": 1.5}, "max_tokens must be an integer"),
        ({"max_tokens": math.inf}, "max_tokens must be an integer"),
        ({"n": True}, "n must be an integer"),
        ({"n": 2**60}, r"n must be at most 2\*\*53"),
        ({"logprobs": 1}, "logprobs must be true or false"),
        ({"turns": "x"}, "turns must be a list"),
        ({"turns": 0}, "turns must be a list"),
        ({"turns": ["x"]}, "turns must hold objects"),
        ({"turns": [{"role": "user"}]}, "turns must have a role and a text"),
        ({"turns": [{"role": "user", "text": "\ud800"}]}, "turns must be Unicode text"),
        ({"other": [{"deep": math.nan}]}, "numbers must be finite"),
        ({"other": math.inf}, "numbers must be finite"),
    ],
)
def test_what_is_no_event_is_refused(
    line: Line, canary: str, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(InvalidEvent, match="^" + reason) as caught:
        parse_event(line(**changes))
    assert canary not in str(caught.value)
    assert isinstance(caught.value, InputError)


@pytest.mark.parametrize("name", sorted(KNOWN_FIELDS - {"prompt", "event_id"}))
def test_a_reason_never_tells_the_value(line: Line, canary: str, name: str) -> None:
    for value in ([canary], {canary: canary}, canary + "\ud800"):
        with pytest.raises(InvalidEvent) as caught:
            parse_event(line(**{name: value}))
        assert canary not in str(caught.value)


def test_deep_unknown_fields_are_refused(line: Line) -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidEvent, match="nested at most 64 deep"):
        parse_event(line(other=deep))


def test_unknown_fields_are_kept(line: Line) -> None:
    assert parse_event(line(region="north", other={"a": [1, None]})).extra == {
        "region": "north",
        "other": {"a": [1, None]},
    }


def test_empty_optional_texts_are_unknown(line: Line) -> None:
    """An empty network would link all accounts that have none."""
    event = parse_event(line(network="", payment="", client=""))
    assert (event.network, event.payment, event.client) == (None, None, None)


def test_whole_floats_are_integers(line: Line) -> None:
    assert parse_event(line(max_tokens=100.0)).max_tokens == 100


def test_a_missing_id_is_derived_from_account_time_and_prompt(line: Line) -> None:
    event = parse_event(line(event_id=None))
    assert event.event_id.startswith("sha256:")
    same = parse_event(line(event_id="", timestamp=1_700_000_000_500, model="m"))
    assert same.event_id == event.event_id
    others = [
        parse_event(line(event_id=None, **changes)).event_id
        for changes in ({"account_id": "a2"}, {"timestamp": 1.0}, {"prompt": "x"})
    ]
    assert len({event.event_id, *others}) == 4


def test_an_event_cannot_be_changed(line: Line) -> None:
    event = parse_event(line())
    with pytest.raises(FrozenInstanceError):
        event.prompt = "x"  # type: ignore[misc]
