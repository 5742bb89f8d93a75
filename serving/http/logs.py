"""Logs: one line of JSON each on standard error, and nothing of a request's content in them.

Other libraries' messages may hold anything, so of theirs only what is known to be fixed text is
kept. Of an exception its type and its place in our code are told, never its words.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from datetime import UTC, datetime
from typing import TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LOGGER = "stillwatch.http"
# Their messages are templates, and values come apart.
_KNOWN_TEXTS = ("uvicorn", "uvicorn.error")


def get_logger() -> FilteringBoundLogger:
    """The service's logger. Give it names, numbers and codes, never text of a request."""
    logger: FilteringBoundLogger = structlog.get_logger(LOGGER)
    return logger


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send our lines and those of every library to `stream`, standard error if None."""
    out = stream or sys.stderr
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            _stamp,
            structlog.processors.JSONRenderer(ensure_ascii=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = _Foreign()
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers[:] = []
        logger.setLevel(max(number, logging.INFO))
        logger.propagate = name != "uvicorn.access"
    logging.captureWarnings(True)
    # Its own way is to print the traceback, with the exception's words.
    threading.excepthook = _thread_fault


def fault_fields(error: BaseException) -> dict[str, str]:
    """The type of an exception and its innermost place in our code."""
    place = "outside"
    for frame, line in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.startswith("stillwatch."):
            place = f"{module}:{line}"
    return {"error": type(error).__name__, "place": place}


class _Foreign(logging.Handler):
    """Passes on what libraries log, without what may be a value."""

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, str] = {}
        if record.exc_info and record.exc_info[1] is not None:
            fields = fault_fields(record.exc_info[1])
        text = "a message of a library"
        if record.name in _KNOWN_TEXTS and isinstance(record.msg, str):
            text = record.msg.strip().split("\n")[0]
        log = getattr(get_logger(), _method(record.levelno))
        log(text, logger=record.name, code=f"{record.module}:{record.lineno}", **fields)


def _method(level: int) -> str:
    if level >= logging.ERROR:
        return "error"
    return "warning" if level >= logging.WARNING else "info"


def _stamp(logger: WrappedLogger, method: str, fields: EventDict) -> EventDict:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    return {"time": now.replace("+00:00", "Z"), **fields}


def _thread_fault(fault: threading.ExceptHookArgs) -> None:
    if fault.exc_value is not None:
        get_logger().error("a thread failed", **fault_fields(fault.exc_value))
