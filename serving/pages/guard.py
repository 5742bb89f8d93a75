"""Who may see a page, what may be posted, and the headers that every page has.

Pages know sessions, not keys: a key in a header opens none of them. Every post has its session's
CSRF token, and comes from a page of ours by the browser's own word.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import parse_qs, quote

from fastapi import Depends, Request
from fastapi.responses import RedirectResponse, Response
from fastapi.routing import APIRoute

from stillwatch.data.errors import StillwatchError, StoreError
from stillwatch.serving.desk import AuditError, Refused
from stillwatch.serving.http.auth import Role, check_host
from stillwatch.serving.http.problems import CODE, KINDS, Problem
from stillwatch.serving.pages.sessions import Session
from stillwatch.serving.pages.site import Site

HOME = "/desk/queue"
LOGIN = "/desk/login"
MAX_FIELDS = 5000
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), clipboard-read=()",
}


class LoggedOut(Exception):  # noqa: N818 - it names what happened
    """There is no session, or it has ended."""


class Form:
    """The fields of a form, each with all its values."""

    def __init__(self, fields: dict[str, list[str]]) -> None:
        self._fields = fields

    def get(self, name: str, default: str = "") -> str:
        """The first value of a field."""
        return self._fields.get(name, [default])[0]

    def every(self, name: str) -> list[str]:
        return self._fields.get(name, [])

    def single(self) -> dict[str, str]:
        """The first value of each field."""
        return {name: values[0] for name, values in self._fields.items()}


@dataclass(frozen=True, slots=True)
class Posted:
    """A form that was posted by a page of its session."""

    session: Session
    form: Form


def site_of(request: Request) -> Site:
    """The pages that a request is for."""
    site: Site = request.app.state.site
    return site


def reader(*roles: Role) -> Callable[[Request], Awaitable[Session]]:
    """A dependency: the session, whose caller has one of these roles."""
    wanted = frozenset(roles)

    async def session_of(request: Request) -> Session:
        site = site_of(request)
        if site.open_to_all:
            check_host(request)
        session = site.sessions.find(request.cookies.get(cookie_name(site), ""))
        if session is None:
            raise LoggedOut
        request.scope["stillwatch.key_id"] = session.caller.key_id
        if session.caller.role not in wanted:
            raise Problem(
                "forbidden_role",
                f"The key's role must be {' or '.join(sorted(wanted))}, however: another.",
            )
        return session

    return session_of


def poster(*roles: Role) -> Callable[[Request], Awaitable[Posted]]:
    """A dependency: the session and the form. The body is read once the role is known."""
    session_of = reader(*roles)

    async def posted(request: Request) -> Posted:
        session = await session_of(request)
        form = await read_form(request)
        if not session.allows(form.get("csrf")):
            raise forged()
        return Posted(session, form)

    return posted


ReadSession = Annotated[Session, Depends(reader("analyst", "admin"))]
PostedForm = Annotated[Posted, Depends(poster("analyst", "admin"))]
AdminForm = Annotated[Posted, Depends(poster("admin"))]


async def read_form(request: Request) -> Form:
    """The form in the body. Raises Problem: it is none, or another site's page has posted it."""
    # Browsers say so themselves; what is no browser has no cookie that it did not steal.
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise forged()
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise Problem(
            "unsupported_media_type",
            "A form must be posted as application/x-www-form-urlencoded, however: as another type.",
        )
    body = (await request.body()).decode("utf-8", "replace")
    try:
        fields = parse_qs(body, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Problem(
            "invalid_request",
            f"A form must have at most {MAX_FIELDS:,} fields, however: it has more.",
        ) from None
    # A browser ends lines as mail does.
    return Form({
        name: [value.replace("\r\n", "\n") for value in values] for name, values in fields.items()
    })  # fmt: skip


def forged() -> Problem:
    return Problem(
        "forbidden_form",
        "A form must be posted from a page of its own session, however: this was not; go back, "
        "load the page again, and repeat it.",
    )


def cookie_name(site: Site) -> str:
    return "__Host-stillwatch" if site.secure_cookies else "stillwatch"


def set_cookie(site: Site, response: Response, name: str, value: str) -> None:
    """A cookie that scripts cannot read and that other sites' pages do not send."""
    response.set_cookie(
        name, value, path="/", httponly=True, samesite="strict", secure=site.secure_cookies
    )


def see_other(path: str) -> Response:
    """Go on to another of our pages."""
    return RedirectResponse(quote(path, safe="/?=&#._-"), 303)


def page_route(site: Site) -> type[APIRoute]:
    """A kind of route whose answers, refusals too, are pages with safe headers."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                try:
                    response = await handle(request)
                except (LoggedOut, Problem, StillwatchError, KeyError) as error:
                    response = _refusal(site, request, error)
                for name, value in HEADERS.items():
                    response.headers.setdefault(name, value)
                return response

            return guarded

    return PageRoute


def _refusal(site: Site, request: Request, error: Exception) -> Response:
    if isinstance(error, LoggedOut):
        if request.headers.get("hx-request"):
            return Response(status_code=401, headers={"HX-Redirect": LOGIN})
        if request.method == "GET":
            return see_other(LOGIN)
        error = Problem("unauthenticated", "You must be logged in, however: the session has ended.")
    status, title, detail = _told(error)
    if isinstance(error, Problem):
        request.scope[CODE] = error.code
    session = site.sessions.find(request.cookies.get(cookie_name(site), ""))
    response = site.page("refusal.html.j2", session, status, title=title, detail=detail)
    if isinstance(error, Problem):
        response.headers.update(error.headers)
    return response


def _told(error: Exception) -> tuple[int, str, str]:
    """Status, title and sentence. Errors of ours hold no prompt."""
    if isinstance(error, Problem):
        return error.kind.status, error.kind.title, error.detail
    if isinstance(error, KeyError):
        return 404, KINDS["not_found"].title, "It may have been erased, or its time was over."
    detail = f"{str(error)[:1].upper()}{str(error)[1:]}."
    if isinstance(error, AuditError):
        return 503, "The audit log is not as it was left", detail
    if isinstance(error, StoreError):
        return 503, "A store does not answer", detail
    if isinstance(error, Refused):
        return 409, "That cannot be done any more", detail
    return 422, "That cannot be done so", detail
