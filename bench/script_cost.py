"""What saying a code costs: CPU time for a script and its XML, of the reading with greeting and menu."""

import random
import time
from dataclasses import dataclass
from pathlib import Path

import plivo_client
import vobiz_client
from bench.sample_data import SEED
from call_script import Manner
from languages import load_spoken_texts
from script_writer import ScriptWriter
from voice_provider import CallUrls
from xml_builder import Dialect, render

DOCUMENTS = 20_000
DIALECTS = {"vobiz": vobiz_client.DIALECT, "plivo": plivo_client.POLLY_DIALECT}


@dataclass(frozen=True, slots=True)
class ScriptCost:
    """CPU microseconds per document, by carrier, and how many documents they were measured over."""

    microseconds: dict[str, float]
    documents: int


def measure_script_cost() -> ScriptCost:
    texts = load_spoken_texts(Path(__file__).parent.parent / "spoken_texts")
    writer = ScriptWriter(texts, "Example")
    rng = random.Random(SEED)  # noqa: S311 - sample data, the same each time
    orders = [(f"{rng.randrange(10**6):06d}", Manner(rng.choice(list(texts)))) for _ in range(DOCUMENTS)]
    return ScriptCost({name: _microseconds(writer, one, orders) for name, one in DIALECTS.items()}, DOCUMENTS)


def _microseconds(writer: ScriptWriter, dialect: Dialect, orders: list[tuple[str, Manner]]) -> float:
    urls = [_urls(number) for number in range(len(orders))]
    started = time.process_time()
    for (code, manner), one in zip(orders, urls, strict=True):
        render(writer.read_code(code, manner, reading=1), dialect, one)
    return (time.process_time() - started) / len(orders) * 1e6


def _urls(number: int) -> CallUrls:
    """As long as real ones, and another one in each call."""
    url = f"https://otp.example.com/otp-choice/{number:068x}?n=1"
    return CallUrls(url, url, url, url, url, url)
