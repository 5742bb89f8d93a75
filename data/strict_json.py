"""JSON that comes from outside, read without the leniency of the standard library.

Refused: NaN and infinity (also as 1e999), the same key twice, nesting beyond the interpreter's
recursion limit, integers of thousands of digits, bytes that are not UTF-8. A reason never quotes
the text.
"""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from stillwatch.data.errors import InputError


class InvalidJson(InputError):  # noqa: N818 - it names what was found, as InvalidEvent does
    """Text that is no strict JSON object. `reason` quotes nothing of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def parse_object(data: bytes | str) -> dict[str, Any]:
    """The JSON object in `data`. Raises InvalidJson."""
    try:
        value = _DECODER.decode(data if isinstance(data, str) else data.decode())
    except InvalidJson:
        raise
    except UnicodeDecodeError as error:
        raise InvalidJson(
            f"a line must be UTF-8, however: another encoding at byte {error.start}"
        ) from None
    except json.JSONDecodeError as error:
        raise InvalidJson(
            f"a line must be one JSON object, however: no JSON at column {error.colno}"
        ) from None
    except RecursionError:
        raise InvalidJson(
            "a line must be nested moderately, however: too deep to be read"
        ) from None
    except ValueError:
        # Python converts no integer of more than 4,300 digits.
        raise InvalidJson(
            "integers must have at most 4,300 digits, however: a longer one"
        ) from None
    if type(value) is not dict:
        raise InvalidJson("a line must be one JSON object, however: another JSON value")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidJson("a key must stand once in an object, however: one stands twice")
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise InvalidJson("numbers must be finite, however: one beyond the range of a float")
    return number


def _refuse_constant(_: str) -> NoReturn:
    raise InvalidJson("numbers must be finite, however: NaN or infinity")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant
)
