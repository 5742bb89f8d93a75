"""Logging in by a key, and out."""

from __future__ import annotations

import hmac
import secrets

from fastapi import APIRouter, Request
from fastapi.responses import Response

from stillwatch.serving.http.auth import ALL_ACCOUNTS, OPERATOR, Caller, check_host
from stillwatch.serving.pages.guard import (
    HOME,
    LOGIN,
    PostedForm,
    cookie_name,
    forged,
    read_form,
    see_other,
    set_cookie,
)
from stillwatch.serving.pages.site import Site

READERS = ("analyst", "admin")


def add(routes: APIRouter, site: Site) -> None:
    """`/desk/login` and `/desk/logout`."""
    login_cookie = f"{cookie_name(site)}-login"

    @routes.get(LOGIN)
    async def form(request: Request) -> Response:
        if site.open_to_all:
            check_host(request)
        if site.sessions.find(request.cookies.get(cookie_name(site), "")) is not None:
            return see_other(HOME)
        return fresh_form(200, None)

    @routes.post(LOGIN)
    async def login(request: Request) -> Response:
        if site.open_to_all:
            check_host(request)
        fields = await read_form(request)
        cookie = request.cookies.get(login_cookie, "")
        expected = site.sessions.login_token(cookie)
        given = fields.get("csrf").encode("utf-8", "replace")
        if not cookie or not hmac.compare_digest(given, expected.encode()):
            raise forged()
        caller = _caller(request, site, fields.get("key").strip())
        if caller is None:
            return fresh_form(401, "The key must be a valid one, however: it is not.")
        if caller.role not in READERS or caller.accounts != ALL_ACCOUNTS:
            return fresh_form(
                403,
                "The key must have the role analyst or admin and be for all accounts, however: "
                "it is another.",
            )
        # Whoever was logged in here before is not any more.
        site.sessions.end(request.cookies.get(cookie_name(site), ""))
        response = see_other(HOME)
        set_cookie(site, response, cookie_name(site), site.sessions.begin(caller))
        response.delete_cookie(login_cookie, path="/")
        request.scope["stillwatch.key_id"] = caller.key_id
        return response

    @routes.post("/desk/logout")
    async def logout(request: Request, posted: PostedForm) -> Response:
        site.sessions.end(request.cookies.get(cookie_name(site), ""))
        response = see_other(LOGIN)
        response.delete_cookie(
            cookie_name(site), path="/", secure=site.secure_cookies, httponly=True,
            samesite="strict",
        )  # fmt: skip
        response.headers["Clear-Site-Data"] = '"cache"'
        return response

    def fresh_form(status: int, problem: str | None) -> Response:
        cookie = secrets.token_urlsafe(24)
        response = site.page(
            "login.html.j2", None, status, csrf_token=site.sessions.login_token(cookie),
            problem=problem,
        )  # fmt: skip
        set_cookie(site, response, login_cookie, cookie)
        return response


def _caller(request: Request, site: Site, key: str) -> Caller | None:
    if site.open_to_all:
        return OPERATOR
    caller: Caller | None = request.app.state.authenticator.of_key(key)
    return caller
