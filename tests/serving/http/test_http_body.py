"""Bodies: how long, how packed, how slow they may be."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from stillwatch.serving.http.body import BodyLimits, decompress
from stillwatch.serving.http.problems import Problem
from tests.serving.http.http_support import ScriptedScorer, client_of, event, settings_in

MEBIBYTE = 1 << 20
JSON = {"Content-Type": "application/json"}


def padded(size: int) -> bytes:
    """An event whose JSON has exactly this many bytes."""
    bare = len(json.dumps(event(prompt="")).encode())
    return json.dumps(event(prompt="x" * (size - bare))).encode()


def test_a_mebibyte_is_taken_and_one_byte_more_refused(
    client: TestClient, scorer: ScriptedScorer
) -> None:
    assert client.post("/v1/events", content=padded(MEBIBYTE), headers=JSON).status_code == 200
    answer = client.post("/v1/events", content=padded(MEBIBYTE + 1), headers=JSON)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"
    assert answer.headers["connection"] == "close"
    assert len(scorer.scored) == 1


def test_a_body_of_unstated_length_is_counted(client: TestClient) -> None:
    def chunks(size: int) -> Iterator[bytes]:
        body = padded(size)
        for start in range(0, size, 65_536):
            yield body[start : start + 65_536]

    assert client.post("/v1/events", content=chunks(MEBIBYTE), headers=JSON).status_code == 200
    assert client.post("/v1/events", content=chunks(MEBIBYTE + 1), headers=JSON).status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "x", "9" * 5000, str(2 * MEBIBYTE), "²"])
def test_a_stated_length_is_checked_first(client: TestClient, length: str) -> None:
    headers: Any = {**JSON, "Content-Length": length.encode("latin-1")}
    answer = client.post("/v1/events", content=json.dumps(event()), headers=headers)
    assert answer.status_code in (400, 413)
    assert answer.json()["code"] in ("invalid_length", "body_too_large")


def packed(encoding: str, data: bytes) -> bytes:
    return gzip.compress(data) if encoding == "gzip" else zstandard.compress(data)


@pytest.mark.parametrize("encoding", ["gzip", "zstd", "GZIP"])
def test_a_compressed_body_is_read(client: TestClient, encoding: str) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    body = packed(encoding.lower(), json.dumps(event()).encode())
    assert client.post("/v1/events", content=body, headers=headers).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_bomb_is_refused(client: TestClient, encoding: str) -> None:
    body = packed(encoding, b" " * (300 * MEBIBYTE))
    assert len(body) < MEBIBYTE
    headers = {**JSON, "Content-Encoding": encoding}
    answer = client.post("/v1/events", content=body, headers=headers)
    assert answer.status_code == 413
    assert answer.json()["code"] == "body_too_large"


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip", "compress", ""])
def test_other_encodings_are_refused(client: TestClient, encoding: str) -> None:
    headers = {**JSON, "Content-Encoding": encoding}
    answer = client.post("/v1/events", content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert answer.headers["accept-encoding"] == "gzip, zstd"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
@pytest.mark.parametrize("spoil", [lambda d: d[:-3], lambda d: b"x" + d, lambda d: d + b"trail"])
def test_what_is_not_compressed_as_it_says_is_refused(encoding: str, spoil: Any) -> None:
    with pytest.raises(Problem) as refusal:
        decompress(spoil(packed(encoding, b"{}" * 100)), encoding, 1000)
    assert refusal.value.code == "invalid_encoding"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_compressed_members_are_joined_and_bounded_together(encoding: str) -> None:
    part = packed(encoding, b"x" * 600)
    assert decompress(part + part, encoding, 1200) == b"x" * 1200
    with pytest.raises(Problem):
        decompress(part + part, encoding, 1199)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_countless_empty_members_are_refused(encoding: str) -> None:
    with pytest.raises(Problem):
        decompress(packed(encoding, b"") * 10_000, encoding, 1000)


def test_a_wide_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27)
    wide = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(Problem):
        decompress(wide.compress(b"x" * 100) + wide.flush(), "zstd", 1000)


SCOPE: Scope = {
    "type": "http", "method": "POST", "path": "/", "headers": [(b"transfer-encoding", b"chunked")],
}  # fmt: skip


async def swallow(message: Message) -> None:
    pass


def test_a_stalled_body_is_given_up() -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    async def stalls() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def scenario() -> None:
        limits = BodyLimits(100, 0.02, 1000)
        with pytest.raises(Problem) as refusal:
            await limits.middleware(reads)(SCOPE, stalls, swallow)
        assert refusal.value.code == "body_timeout"
        # A stop does not wait for the others either.
        patient = BodyLimits(100, 3600, 1000)
        task = asyncio.create_task(patient.middleware(reads)(SCOPE, stalls, swallow))
        await asyncio.sleep(0)
        patient.hurry(0.02)
        with pytest.raises(Problem):
            await task

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_body_that_drips_has_one_limit_for_all_of_it() -> None:
    async def reads(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass

    async def drips() -> Message:
        await asyncio.sleep(0.005)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def scenario() -> None:
        with pytest.raises(Problem):
            await BodyLimits(100, 0.05, 1000).middleware(reads)(SCOPE, drips, swallow)

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_all_bodies_together_are_bounded_and_given_back() -> None:
    limits = BodyLimits(100, 10, 150)

    async def receive() -> Message:
        return {"type": "http.request", "body": b"x" * 100, "more_body": False}

    async def nested(scope: Scope, receive_: Receive, send: Send) -> None:
        await receive_()
        with pytest.raises(Problem) as refusal:
            await limits.middleware(reads)(SCOPE, receive, swallow)
        assert refusal.value.code == "overloaded"

    async def reads(scope: Scope, receive_: Receive, send: Send) -> None:
        await receive_()

    asyncio.run(limits.middleware(nested)(SCOPE, receive, swallow))
    assert limits.held == 0


def test_settings_change_the_limit(scorer: ScriptedScorer, tmp_path: Path) -> None:
    with client_of(settings_in(tmp_path, body_limit_bytes=2048), scorer) as client:
        assert client.post("/v1/events", content=padded(2048), headers=JSON).status_code == 200
        answer = client.post("/v1/events", content=padded(2049), headers=JSON)
        assert answer.status_code == 413
        assert "2,048 bytes" in answer.json()["detail"]
