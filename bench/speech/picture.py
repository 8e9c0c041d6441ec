"""The measure as an SVG: bars of codes right, a group for each noise level, readable on light and dark pages."""

from collections.abc import Sequence
from html import escape

from bench.speech.measure import NOISE_DB, Result
from bench.speech.styles import STYLES

_WIDTH = 720
_LEFT, _RIGHT, _TOP = 210, 90, 56
_BAR, _GAP, _GROUP_GAP = 18, 6, 34
_COLOURS = ("#2f81f7", "#a371f7", "#9e6a03", "#8b949e")  # the first one is ours
# The colour of text on GitHub's pages; a picture there follows the system's choice of light or dark.
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-size: 15px; font-weight: 600 }
.level { font-weight: 600 }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3 } }
"""


def picture(results: Sequence[Result]) -> str:
    bars: list[str] = []
    top = _TOP
    for noise_db in NOISE_DB:
        level = "no noise" if noise_db is None else f"speech {noise_db:g} dB above the noise"
        bars.append(f'<text class="level" x="16" y="{top}">{level}</text>')
        top += 12
        for style, colour in zip(STYLES, _COLOURS, strict=True):
            bars += _bar(_found(results, style.name, noise_db), colour, top)
            top += _BAR + _GAP
        top += _GROUP_GAP - _GAP
    height = top - 8
    codes = results[0].codes
    title = f"Codes understood, of {codes}, and how long the call has lasted by then"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img"',
            f'     aria-label="{title}">',
            f"<style>{_STYLE}</style>",
            f'<text class="title" x="16" y="26">{title}</text>',
            *bars,
            "</svg>\n",
        ]
    )


def _found(results: Sequence[Result], style: str, noise_db: float | None) -> Result:
    return next(result for result in results if (result.style, result.noise_db) == (style, noise_db))


def _bar(result: Result, colour: str, top: int) -> list[str]:
    length = (_WIDTH - _LEFT - _RIGHT - 40) * result.codes_right / result.codes
    middle = top + _BAR - 4
    label = f"{result.codes_percent:.1f} % · {result.seconds:.0f} s"
    return [
        f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(result.style)}</text>',
        f'<rect x="{_LEFT}" y="{top}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>',
        f'<text x="{_LEFT + length + 8:.1f}" y="{middle}">{label}</text>',
    ]
