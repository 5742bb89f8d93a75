"""Intelligence that providers share: exchange types, and their form in STIX 2.1."""

from stillwatch.data.intelligence.types import (
    FeedError,
    NotShareable,
    Producer,
    SharedCampaign,
    SharedTemplate,
    Tlp,
)

__all__ = [
    "FeedError",
    "NotShareable",
    "Producer",
    "SharedCampaign",
    "SharedTemplate",
    "Tlp",
]
