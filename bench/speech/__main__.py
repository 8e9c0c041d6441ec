"""`make bench-speech`: how well a listener understands each way of reading a code, as a table and as a picture."""

import argparse
import sys
import time
from pathlib import Path

from bench.speech.measure import NOISE_DB, Result, measure_all
from bench.speech.picture import picture
from bench.speech.styles import STYLES

CODES = 200


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.speech", description=__doc__)
    parser.add_argument("--codes", type=int, default=CODES, help=f"for each style, default {CODES}")
    parser.add_argument("--picture", type=Path, help="an SVG file to write")
    options = parser.parse_args()
    results = _measured(options.codes)
    print(table(results))
    if options.picture is not None:
        options.picture.write_text(picture(results), encoding="utf-8")


def _measured(codes: int) -> list[Result]:
    started = time.monotonic()
    results: list[Result] = []
    for result in measure_all(codes):
        results.append(result)
        done = f"{len(results)} of {len(STYLES) * len(NOISE_DB)}"
        print(f"{done} after {time.monotonic() - started:.0f} s: {result.style}", file=sys.stderr, flush=True)
    return results


def table(results: list[Result]) -> str:
    """In Markdown: codes right and digits right of each style at each noise level, and how long it takes."""
    columns = [f"{what}, {noise_name(noise_db)}" for what in ("codes", "digits") for noise_db in NOISE_DB]
    lines = [f"| style | seconds | {' | '.join(columns)} |", "|---" * (len(columns) + 2) + "|"]
    for style in STYLES:
        of_style = {result.noise_db: result for result in results if result.style == style.name}
        codes = [f"{of_style[noise_db].codes_percent:.1f} %" for noise_db in NOISE_DB]
        digits = [f"{of_style[noise_db].digits_percent:.1f} %" for noise_db in NOISE_DB]
        seconds = of_style[None].seconds
        lines.append(f"| {style.name} | {seconds:.1f} | {' | '.join((*codes, *digits))} |")
    return "\n".join(lines)


def noise_name(noise_db: float | None) -> str:
    return "no noise" if noise_db is None else f"{noise_db:g} dB"


if __name__ == "__main__":
    main()
