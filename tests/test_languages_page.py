"""docs/languages.md: what is in the language files, and which carriers' clients declare a voice for it."""

import httpx

from language_choice import bare_language
from languages import load_spoken_texts
from tests.provider_cases import VOICE_CASES
from tests.rendered_docs import ROOT, check_part


def test_the_table_of_languages_is_what_files_and_clients_say() -> None:
    spoken = {
        case.name: set(map(bare_language, case.client(lambda _: httpx.Response(500)).capabilities.languages))
        for case in VOICE_CASES.values()
    }
    lines = ["| language | code | its regions | digits 0 to 9 | carriers with a voice |", "|---|---|---|---|---|"]
    for code, texts in sorted(load_spoken_texts(ROOT / "spoken_texts").items()):
        carriers = [name for name, languages in spoken.items() if code in languages]
        cells = (
            texts.name,
            f"`{code}`",
            " ".join(texts.regions),
            ", ".join(texts.digits[digit] for digit in sorted(texts.digits)),
            ", ".join(carriers),
        )
        lines.append(f"| {' | '.join(cells)} |")
    check_part("docs/languages.md", "languages", "\n".join(lines))
