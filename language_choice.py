"""Which language a callee is spoken to in: the one asked for, else that of the number's region, else the default."""

from collections.abc import Iterable, Mapping

from languages import SpokenTexts
from phone_numbers import region_of


class LanguageChoice:
    """`known` are the languages that there are texts in, as bare codes."""

    def __init__(self, texts: Mapping[str, SpokenTexts], default_language: str) -> None:
        self.known = tuple(texts)
        self._default_language = default_language
        self._language_of_region = {region: code for code, text in texts.items() for region in text.regions}

    def knows(self, tag: str) -> bool:
        return _bare(tag) in self.known

    def is_spoken(self, tag: str, spoken: Iterable[str]) -> bool:
        """Whether a tag, or another variety of its language, is among those that can be spoken."""
        return self._match(tag, spoken) is not None

    def choose(self, wanted: str | None, phone: str, spoken: Iterable[str]) -> str | None:
        """The best tag out of those that can be spoken; None when not even the default language can be.

        The language of a region is spoken in the region's own variety where there is one.
        """
        spoken = tuple(spoken)
        region = region_of(phone)
        regional = self._language_of_region.get(region or "")
        wishes = (wanted, f"{regional}-{region}" if regional else None, self._default_language)
        matches = (self._match(wish, spoken) for wish in wishes if wish is not None)
        return next((tag for tag in matches if tag is not None), None)

    def _match(self, wanted: str, spoken: Iterable[str]) -> str | None:
        language = _bare(wanted)
        if language not in self.known:
            return None
        varieties = [tag for tag in spoken if _bare(tag) == language]
        exact = (tag for tag in varieties if tag.lower() == wanted.lower())
        return next(exact, varieties[0] if varieties else None)


def _bare(tag: str) -> str:
    return tag.split("-")[0].lower()
