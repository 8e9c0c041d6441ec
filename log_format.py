"""One event, one line: JSON for machines, plain text on a terminal. Control characters cannot forge a line."""

import json
import logging
import sys
from datetime import UTC, datetime

from settings import LogFormat

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        extra = _extra(record)
        trace = extra.pop("trace", None) or (self.formatException(record.exc_info) if record.exc_info else "")
        details = "".join(f"  {key}={value}" for key, value in extra.items())
        line = _printable(f"{at} {record.levelname.lower():7} {record.getMessage()}{details}")
        return f"{line}\n{trace}" if trace else line


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def set_up_logging(log_format: LogFormat | None) -> None:
    """Send all log lines to stderr. Without a given format: text on a terminal, else JSON."""
    if log_format is None:
        log_format = LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ConsoleFormatter() if log_format is LogFormat.CONSOLE else JsonFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # These write URLs, which hold phone numbers and call tokens.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
