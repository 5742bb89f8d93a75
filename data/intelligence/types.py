"""What providers tell each other: reviewed templates and figures of campaigns, nothing else.

These types are the allow-list. They have no field for a prompt, an account, a network, a payment,
a price or terms, and the writer builds its objects from them alone. Times are seconds since the
epoch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from stillwatch.data.errors import InputError


class NotShareable(InputError):  # noqa: N818 - it names what happened, as Refused does
    """Something that must not go out."""


class FeedError(InputError):
    """A bundle or a server that cannot be used as a whole."""


class Tlp(Enum):
    """Traffic Light Protocol 2.0: how far something may be passed on."""

    CLEAR = "clear"
    GREEN = "green"
    AMBER = "amber"
    AMBER_STRICT = "amber+strict"
    RED = "red"

    @property
    def for_peers(self) -> bool:
        """Whether every peer that reads a collection may have it. AMBER+STRICT ends at the
        organisation that has it, RED at those who were there."""
        return self in (Tlp.CLEAR, Tlp.GREEN, Tlp.AMBER)

    def __str__(self) -> str:
        return f"TLP:{self.value.upper()}"

    @classmethod
    def named(cls, name: str) -> Tlp:
        """The level of a name such as green or TLP:GREEN; InputError."""
        try:
            return cls(name.strip().lower().removeprefix("tlp:"))
        except ValueError:
            known = ", ".join(one.value for one in cls)
            raise InputError(
                f"a TLP level must be one of {known}, however: another; name one of them"
            ) from None


@dataclass(frozen=True, slots=True)
class Producer:
    """Who shares. `key` is a secret or random text that is the same each time, from which ids are
    made; it does not go out."""

    key: str
    name: str = "A Stillwatch site"


@dataclass(frozen=True, slots=True)
class SharedTemplate:
    """A reviewed prompt template. `text` has at most one `{slot}`; `creator` is the STIX id of
    whoever shares it, `""` where it is ours. A revoked one stays so for good."""

    id: str
    text: str
    intent: str
    language: str
    created: float
    modified: float
    valid_from: float
    valid_until: float | None
    revoked: bool
    tlp: Tlp
    family: str | None = None
    creator: str = ""


@dataclass(frozen=True, slots=True)
class SharedCampaign:
    """Figures of one campaign. `campaign_id` is the site's own name for it: it does not go out,
    only an id made from it. `intents` are (name, mean probability); `templates` the ids of
    templates of the site that its prompts were near to. `updated` is when the figures were made.
    """

    campaign_id: str
    intents: Mapping[str, float]
    first_seen: float
    last_seen: float
    accounts: int
    events: int
    updated: float
    templates: tuple[str, ...] = ()
    tlp: Tlp = Tlp.AMBER
    creator: str = ""
