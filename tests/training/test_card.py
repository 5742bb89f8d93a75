from __future__ import annotations

from stillwatch.training.card import with_campaigns
from tests.model.campaigns.campaign_support import calibration

CARD = "# A detector\n\n## Figures\nmany\n\n## Limits\nsome\n"


def test_a_card_gets_a_section_on_campaigns_before_its_limits() -> None:
    card = with_campaigns(CARD, calibration(enter=0.25), {"campaigns flagged": 0.75})
    assert "| campaigns flagged | 0.75 |" in card
    assert "flagged at 0.250 and left below 0.125" in card
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert headings == ["# A detector", "## Figures", "## Campaigns", "## Limits"]
    assert card.endswith("## Limits\nsome\n")


def test_a_section_that_is_there_is_replaced() -> None:
    first = with_campaigns(CARD, calibration(), {"campaigns flagged": 0.75})
    second = with_campaigns(first, calibration(), {"campaigns flagged": 0.5})
    assert "0.75" not in second
    assert second == with_campaigns(CARD, calibration(), {"campaigns flagged": 0.5})
