"""One event, one line: JSON for machines, plain text on a terminal. Control characters cannot forge a line."""

import logging
import sys
import traceback
from datetime import UTC, datetime

import msgspec

from settings import LogFormat

logger = logging.getLogger(__name__)

_LINE_ENDS = {0x7F: "\\u007f", 0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}


class JsonFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__()
        self._second, self._second_text = -1, ""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": self._utc(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **({"pid": record.process} if record.process else {}),
            **_extra(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        # JSON escapes the control characters of ASCII; the rest of what ends a line somewhere is escaped here.
        return msgspec.json.encode(line, enc_hook=str).decode().translate(_LINE_ENDS)

    def _utc(self, created: float) -> str:
        """ISO 8601 with milliseconds; the text of a second is made once."""
        second, rest = divmod(created, 1)
        if second != self._second:
            self._second = int(second)
            self._second_text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._second_text}.{int(rest * 1000):03d}Z"


class ConsoleFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        extra = _extra(record)
        trace = extra.pop("trace", None) or (self.formatException(record.exc_info) if record.exc_info else "")
        process = f"[{record.process}] " if record.process else ""
        details = "".join(f"  {key}={value}" for key, value in extra.items())
        line = _printable(f"{at} {record.levelname.lower():7} {process}{record.getMessage()}{details}")
        return f"{line}\n{trace}" if trace else line


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD}


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def log_unexpected(error: BaseException, during: str) -> None:
    """Log where an error came from. Not its message, which may quote a code or a number."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    logger.error("unexpected %s during %s", type(error).__name__, during, extra={"trace": frames})


def set_up_logging(log_format: LogFormat | None, *, shows_process: bool = False) -> None:
    """Send all log lines to stderr. Without a given format: text on a terminal, else JSON.

    With several processes, each line says which one wrote it.
    """
    if log_format is None:
        log_format = LogFormat.CONSOLE if sys.stderr.isatty() else LogFormat.JSON
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(ConsoleFormatter() if log_format is LogFormat.CONSOLE else JsonFormatter())
    # What no line shows need not be found out for each of them.
    logging.logThreads = logging.logMultiprocessing = False
    logging.logProcesses = shows_process
    logging._srcfile = None  # nor who called: documented in the logging HOWTO under "Optimization"
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # These write URLs, which hold phone numbers and call tokens.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
