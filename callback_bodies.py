"""Bodies of callbacks, read strictly: one value for each name, nothing that could be read in two ways."""

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from voice_provider import WebhookRejected

MAX_FORM_FIELDS = 100
NOT_SHOWN = "(not shown)"
_WORD = re.compile(r"[A-Za-z_ -]{0,64}|[0-9]{1,5}")


def form_of(body: bytes, carrier: str) -> dict[str, str]:
    """The fields of a form, percent-decoded. Raises: WebhookRejected for no form, or a field that comes twice."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(body),
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except ValueError:  # also UnicodeDecodeError
        raise WebhookRejected(f"{carrier} callback is not a form", status=400) from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise WebhookRejected(f"{carrier} callback names a field twice", status=400)
    return fields


def json_of(body: bytes, carrier: str) -> Mapping[str, Any]:
    """The object of a JSON body. Raises: WebhookRejected for anything else, or an object that has a name twice."""
    document = _json(body, carrier)
    if not isinstance(document, dict):
        raise WebhookRejected(f"{carrier} callback is not a JSON object", status=400)
    return document


def json_objects_of(body: bytes, carrier: str) -> list[Mapping[str, Any]]:
    """The objects of a JSON body that is one, or a list of some. Raises: WebhookRejected, as `json_of`."""
    document = _json(body, carrier)
    objects = document if isinstance(document, list) else [document]
    if not objects or not all(isinstance(item, dict) for item in objects):
        raise WebhookRejected(f"{carrier} callback is no JSON object, nor a list of them", status=400)
    return objects


def _json(body: bytes, carrier: str) -> Any:
    try:
        return json.loads(body, object_pairs_hook=_unique_names)
    except (ValueError, RecursionError):  # also UnicodeDecodeError
        raise WebhookRejected(f"{carrier} callback is not JSON", status=400) from None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("the JSON object has a name twice")
    return document


def texts_of(details: Mapping[str, Any]) -> dict[str, str]:
    """What can be read as text of a JSON object."""
    return {name: str(value) for name, value in details.items() if isinstance(value, (str, int, float))}


def shown_word(text: str) -> str:
    """A carrier's word for the log or a status: letters, `_`, `-` and spaces, or a code of at most five digits.

    Anything else could hold a number or a one-time code, and is not shown.
    """
    return text if _WORD.fullmatch(text) else NOT_SHOWN
