"""Parts of documents that tests write: between `<!-- name: written by ... -->` and `<!-- end of name -->`."""

import os
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def check_part(page: str, name: str, text: str) -> None:
    """Fail unless a part of a page is this text; with UPDATE_DOCS=1 in the environment, write it."""
    path = ROOT / page
    before = path.read_text(encoding="utf-8")
    part = re.compile(rf"(<!-- {name}: [^\n]* -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    assert part.search(before), f"{page} has no marks around its part {name!r}"
    after = part.sub(lambda marks: f"{marks[1]}{text}\n{marks[2]}", before)
    if os.environ.get("UPDATE_DOCS"):
        path.write_text(after, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == after, f"{page} is out of date: renew it with UPDATE_DOCS=1"
