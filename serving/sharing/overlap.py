"""Whether two providers see the same networks and payments, without showing each other theirs.

Private set intersection by elliptic-curve Diffie-Hellman (openmined-psi), over keyed hashes, in
three files: the one who asks makes a request and keeps a secret; the other answers with its own set
behind its own key; the one who asked finds out which of its own elements both have. The other
learns how many were asked about and nothing else. To know as well, it asks in turn.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import importlib
import ipaddress
import json
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stillwatch.data.errors import ConfigError, InputError, MissingError
from stillwatch.data.events import Event
from stillwatch.data.strict_json import InvalidJson, parse_object

KINDS = ("network", "payment")
LEAST_KEY_BYTES = 32
MOST_ELEMENTS = 100_000
"""Of one side. Whoever has the key could ask about every address there is: this, and the number
that the other side is shown, is what holds them back."""
MAX_BYTES = 64 * 2**20
FALSE_POSITIVES = 1e-9
FORMAT = 1


class Element(NamedTuple):
    """A network or payment as it stands in the log."""

    kind: str
    value: str


class Request(NamedTuple):
    """`public` goes to the other side, `secret` stays; how many elements it asks about."""

    public: bytes
    secret: bytes
    asked: int


class Answer(NamedTuple):
    """`public` goes back; how many elements were asked about and how many answer."""

    public: bytes
    asked: int
    own: int


def elements_of(events: Iterable[Event]) -> dict[Element, set[str]]:
    """The networks and payments of a log, with the accounts that have each."""
    found: dict[Element, set[str]] = {}
    for event in events:
        for kind, value in zip(KINDS, (event.network, event.payment), strict=True):
            if value and value.strip():
                found.setdefault(Element(kind, value), set()).add(event.account_id)
    return found


def normalised(element: Element) -> str:
    """One spelling of what is the same."""
    text = unicodedata.normalize("NFKC", element.value).strip().casefold()
    if element.kind == "network":
        try:
            return str(ipaddress.ip_network(text, strict=False))
        except ValueError:
            pass
    return text


def keyed(key: bytes, element: Element) -> str:
    """What is compared: HMAC-SHA256, which nobody without the key can try values against."""
    message = f"stillwatch-psi-{FORMAT}\0{element.kind}\0{normalised(element)}"
    return hmac.new(key, message.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def check_key(key: bytes) -> bytes:
    """The key without the line end of its file; ConfigError if it can be guessed."""
    stripped = key.strip()
    if len(stripped) < LEAST_KEY_BYTES or len(set(stripped)) < LEAST_KEY_BYTES // 4:
        raise ConfigError(
            f"--key-file must hold a random key of {LEAST_KEY_BYTES} characters or more, however: "
            "it holds less; make one with `openssl rand -hex 32` and give it to the other side "
            "by a safe way"
        )
    return stripped


def request(key: bytes, own: Iterable[Element]) -> Request:
    """Ask which of our elements the other side has too. InputError, MissingError."""
    psi = _library()
    by_hash = _hashes(key, own)
    client = psi.client.CreateWithNewKey(True)
    names = sorted(by_hash)
    message = client.CreateRequest(names).SerializeToString()
    secret = {
        "private": _text(client.GetPrivateKeyBytes()),
        "elements": [list(by_hash[name]) for name in names],
    }
    public = {"count": len(names), "message": _text(message)}
    return Request(_pack("request", key, public), _pack("secret", key, secret), len(names))


def answer(key: bytes, own: Iterable[Element], public: bytes) -> Answer:
    """Answer a request. We learn how many elements it asks about."""
    psi = _library()
    fields = _unpack("request", key, public)
    asked = fields.get("count")
    if type(asked) is not int or not 0 < asked <= MOST_ELEMENTS:
        raise InputError(
            f"a request must ask about 1 to {MOST_ELEMENTS:,} elements, however: it does not"
        )
    names = sorted(_hashes(key, own))
    # Anew each time: with one key for two requests, their senders could compare answers.
    server = psi.server.CreateWithNewKey(True)
    try:
        message = psi.Request()
        message.ParseFromString(_bytes(fields.get("message")))
        if len(message.encrypted_elements) != asked:
            raise ValueError
        setup = server.CreateSetupMessage(FALSE_POSITIVES, asked, names)
        found = server.ProcessRequest(message)
    except Exception:
        # Of several kinds, by libraries whose words we do not know.
        raise _broken("request") from None
    back = {
        "setup": _text(setup.SerializeToString()), "message": _text(found.SerializeToString()),
        "count": len(names),
    }  # fmt: skip
    return Answer(_pack("response", key, back), asked, len(names))


def overlap(key: bytes, secret: bytes, response: bytes) -> list[Element]:
    """Those of our elements that both sides have."""
    psi = _library()
    kept = _unpack("secret", key, secret)
    fields = _unpack("response", key, response)
    elements = kept["elements"]
    try:
        client = psi.client.CreateFromKey(_bytes(kept["private"]), True)
        setup, message = psi.ServerSetup(), psi.Response()
        setup.ParseFromString(_bytes(fields.get("setup")))
        message.ParseFromString(_bytes(fields.get("message")))
        if len(message.encrypted_elements) != len(elements):
            raise ValueError
        places = client.GetIntersection(setup, message)
    except Exception:
        raise _broken("response") from None
    return sorted(Element(*elements[place]) for place in places)


def _hashes(key: bytes, own: Iterable[Element]) -> Mapping[str, Element]:
    by_hash = {keyed(key, element): element for element in own}
    if not 0 < len(by_hash) <= MOST_ELEMENTS:
        raise InputError(
            f"the logs must hold 1 to {MOST_ELEMENTS:,} networks and payments, however: they hold "
            f"{len(by_hash):,}; give other logs"
        )
    return by_hash


def _pack(step: str, key: bytes, fields: Mapping[str, Any]) -> bytes:
    content = {"stillwatch_psi": FORMAT, "step": step, "key_check": _key_check(key), **fields}
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _unpack(step: str, key: bytes, content: bytes) -> dict[str, Any]:
    try:
        if len(content) > MAX_BYTES:
            raise InvalidJson("too long")
        fields = parse_object(content)
    except InvalidJson:
        raise _broken(step) from None
    if fields.get("stillwatch_psi") != FORMAT or fields.get("step") != step:
        raise _broken(step)
    if fields.get("key_check") != _key_check(key):
        raise ConfigError(
            "both sides must have the same key, however: the file was made with another; compare "
            "the key files"
        )
    return fields


def _broken(step: str) -> InputError:
    return InputError(
        f"the {step} must be a file that stillwatch psi made, whole, however: it is not; have it "
        "sent again"
    )


def _key_check(key: bytes) -> str:
    """Tells two keys apart early; tells nothing of either."""
    return hmac.new(key, b"stillwatch-psi-key", hashlib.sha256).hexdigest()[:16]


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _bytes(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise ValueError from None


def _library() -> Any:
    try:
        return importlib.import_module("private_set_intersection.python")
    except ImportError:
        raise MissingError(
            "stillwatch psi must have openmined-psi, however: it is missing; run pip install "
            "'stillwatch[psi]'"
        ) from None
