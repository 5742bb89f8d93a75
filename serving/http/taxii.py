"""TAXII 2.1 under /taxii2/: one collection, which peers read. Nothing can be written.

A key of the role peer opens this and nothing else. taxii2-client and others send it as the password
of HTTP Basic; the name before it is not looked at. The desk waits for the disk, so it is asked in
threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from stillwatch.data.errors import InputError
from stillwatch.data.intelligence import NotShareable
from stillwatch.serving.http import taxii_schemas as described
from stillwatch.serving.http.auth import Caller, require
from stillwatch.serving.http.problems import Problem
from stillwatch.serving.http.requests import JsonResponse
from stillwatch.serving.sharing import collection as held
from stillwatch.serving.sharing.collection import STIX_MEDIA, Collection, Filter, Page
from stillwatch.serving.sharing.shelf import Shelf

T = TypeVar("T")

MEDIA = described.MEDIA
MAX_CONTENT = 1
"""Nothing is taken in."""
ROOT = "/taxii2/api/"
TITLE = "Templates and campaigns"

Peer = Annotated[Caller, Depends(require("peer", "admin", basic=True))]
Limit = Annotated[int, Query(ge=1, le=2**31)]
Next = Annotated[str | None, Query(min_length=1, max_length=400)]
CollectionId = Annotated[str, Path(max_length=64)]
ObjectId = Annotated[str, Path(max_length=128)]


class TaxiiResponse(JsonResponse):
    """JSON of TAXII's media type."""

    media_type = MEDIA


def router(shelf: Shelf | None) -> APIRouter:
    """The routes under `/taxii2/`; without a desk each of them says so."""
    routes = APIRouter(tags=["sharing"])
    collection = Collection(shelf) if shelf is not None else None

    async def ask(question: Callable[[Collection], T]) -> T:
        if collection is None:
            raise Problem("not_found", "The desk must be configured, however: it is not.")
        try:
            return await asyncio.to_thread(question, collection)
        except NotShareable as error:
            # A fault of ours, found before anything went out.
            raise Problem("not_ready", _sentence(error)) from None
        except InputError as error:
            raise Problem("invalid_request", _sentence(error)) from None

    async def known(collection_id: str) -> None:
        if await ask(lambda own: own.id) != collection_id:
            raise Problem("not_found", "The collection must be one that is listed, however: none.")

    async def page_of(request: Request, collection_id: str, limit: int, after: str | None) -> Page:
        await known(collection_id)
        query = request.query_params
        return await ask(lambda own: own.page(Filter.of_query(query), limit, after))

    @routes.get("/taxii2/", **described.DISCOVERY)
    async def discovery(_: Peer) -> Response:
        return TaxiiResponse({"title": "Stillwatch", "default": ROOT, "api_roots": [ROOT]})

    @routes.get("/taxii2/api/", **described.API_ROOT)
    async def api_root(_: Peer) -> Response:
        return TaxiiResponse(
            {"title": "Stillwatch", "versions": [MEDIA], "max_content_length": MAX_CONTENT}
        )

    @routes.get("/taxii2/api/collections/", **described.COLLECTIONS)
    async def collections(_: Peer) -> Response:
        own = await ask(lambda own: own.id)
        return TaxiiResponse({"collections": [_described(own)]})

    @routes.get("/taxii2/api/collections/{collection_id}/", **described.COLLECTION)
    async def one_collection(_: Peer, collection_id: CollectionId) -> Response:
        await known(collection_id)
        return TaxiiResponse(_described(collection_id))

    @routes.get("/taxii2/api/collections/{collection_id}/manifest/", **described.MANIFEST)
    async def manifest(
        request: Request, _: Peer, collection_id: CollectionId, limit: Limit = held.PAGE,
        next_: Annotated[Next, Query(alias="next")] = None,
    ) -> Response:  # fmt: skip
        page = await page_of(request, collection_id, limit, next_)
        records = [
            {
                "id": one.id, "date_added": one.added, "version": one.version,
                "media_type": STIX_MEDIA,
            }
            for one in page.items
        ]  # fmt: skip
        return _paged(page, records)

    @routes.get("/taxii2/api/collections/{collection_id}/objects/", **described.OBJECTS)
    async def objects(
        request: Request, _: Peer, collection_id: CollectionId, limit: Limit = held.PAGE,
        next_: Annotated[Next, Query(alias="next")] = None,
    ) -> Response:  # fmt: skip
        page = await page_of(request, collection_id, limit, next_)
        return _paged(page, [one.content for one in page.items])

    async def only(collection_id: str, object_id: str) -> Page:
        await known(collection_id)
        wanted = Filter(ids=frozenset({object_id}))
        page = await ask(lambda own: own.page(wanted))
        if not page.items:
            raise Problem("not_found", "The object must be in the collection, however: none is.")
        return page

    @routes.get("/taxii2/api/collections/{collection_id}/objects/{object_id}/", **described.OBJECT)
    async def one_object(_: Peer, collection_id: CollectionId, object_id: ObjectId) -> Response:
        page = await only(collection_id, object_id)
        return _paged(page, [one.content for one in page.items])

    @routes.get(
        "/taxii2/api/collections/{collection_id}/objects/{object_id}/versions/",
        **described.VERSIONS,
    )
    async def versions(_: Peer, collection_id: CollectionId, object_id: ObjectId) -> Response:
        page = await only(collection_id, object_id)
        return _paged(page, [one.version for one in page.items], "versions")

    return routes


def _described(collection_id: str) -> dict[str, Any]:
    return {
        "id": collection_id, "title": TITLE, "can_read": True, "can_write": False,
        "media_types": [STIX_MEDIA],
    }  # fmt: skip


def _paged(page: Page, listed: list[Any], name: str = "objects") -> Response:
    content: dict[str, Any] = {"more": page.next is not None}
    if page.next is not None:
        content["next"] = page.next
    if listed:
        content[name] = listed
    headers = {}
    if page.first is not None and page.last is not None:
        headers = {
            "X-TAXII-Date-Added-First": page.first, "X-TAXII-Date-Added-Last": page.last,
        }  # fmt: skip
    return TaxiiResponse(content, headers=headers)


def _sentence(error: Exception) -> str:
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."
