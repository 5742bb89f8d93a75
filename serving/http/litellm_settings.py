"""The settings of the LiteLLM door."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

AccountField = Literal["key_hash", "team", "org", "user", "end_user"]
ACCOUNT_FIELDS: tuple[AccountField, ...] = get_args(AccountField)

ShortSeconds = Annotated[float, Field(gt=0, le=60, allow_inf_nan=False)]


class LiteLLMSettings(BaseModel):
    """What a LiteLLM gateway is answered. Times end in _s and are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    mode: Literal["background", "wait", "off"] = "background"
    """Whether a request is scored after its answer, or before it within `deadline_s`, or only
    once it comes by the log."""
    account: tuple[AccountField, ...] = ("key_hash", "team", "org")
    """Which of the gateway's ids is the account: the first that a request has."""
    deadline_s: ShortSeconds = 0.2
    log_patience_s: ShortSeconds = 2.0
    """How long a batch of the log waits for room before it is refused: LiteLLM forgets what ends
    while it waits."""
    blocked_reason: str = Field(
        default="This request cannot be served. Please contact support.",
        min_length=1,
        max_length=500,
    )
    """What the customer of an account is told that the site's policy blocks."""

    @field_validator("account")
    @classmethod
    def _names_one(cls, value: tuple[AccountField, ...]) -> tuple[AccountField, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("must name at least one field, and each once")
        return value
