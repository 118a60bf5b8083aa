"""One form for every log line, the service's own and its libraries': JSON, or text to read."""

import json
import logging
import sys
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import Processor


def configure(level: str, form: Literal["json", "console"]) -> None:
    """Send everything logged at `level` or above, by structlog or by logging, to stdout."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    logger_factory: structlog.BytesLoggerFactory | structlog.PrintLoggerFactory
    if form == "json":
        shared.append(structlog.processors.format_exc_info)
        logger_factory = structlog.BytesLoggerFactory()
        render: Processor = structlog.processors.JSONRenderer(serializer=_dumps)
        render_text: Processor = structlog.processors.JSONRenderer(
            serializer=lambda event, **options: _dumps(event, **options).decode()
        )
    else:
        logger_factory = structlog.PrintLoggerFactory()
        render = render_text = structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=logger_factory,
    )

    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render_text],
        )
    )
    logging.basicConfig(handlers=[handler], level=threshold, force=True)


def _dumps(event: Any, **options: Any) -> bytes:
    try:
        return orjson.dumps(event, **options)
    except TypeError:
        # What orjson refuses: lone surrogates, integers of more than 64 bits, keys of other types.
        return json.dumps(event, skipkeys=True, **options).encode()
