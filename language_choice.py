"""Which language a callee is spoken to in: the wanted one, else that of the number's region, else the default."""

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
        return bare_language(tag) in self.known

    def choose(self, wanted: str | None, phone: str, spoken: Iterable[str]) -> str | None:
        """The best tag out of those that can be spoken; None when not even the default language can be.

        The language of a region is spoken in the region's own variety where there is one.
        """
        spoken = tuple(spoken)
        region = region_of(phone)
        regional = self._language_of_region.get(region or "")
        wishes = (wanted, f"{regional}-{region}" if regional else None, self._default_language)
        matches = (self.match(wish, spoken) for wish in wishes if wish is not None)
        return next((tag for tag in matches if tag is not None), None)

    def match(self, wanted: str, spoken: Iterable[str]) -> str | None:
        """The wanted tag, or another variety of its language, among those that can be spoken."""
        language = bare_language(wanted)
        if language not in self.known:
            return None
        varieties = [tag for tag in spoken if bare_language(tag) == language]
        exact = (tag for tag in varieties if tag.lower() == wanted.lower())
        return next(exact, varieties[0] if varieties else None)


# What carriers and older tags call a language otherwise than its file does.
_SAME_LANGUAGE = {"cmn": "zh", "no": "nb", "iw": "he", "in": "id", "tl": "fil"}


def bare_language(tag: str) -> str:
    """The language of a tag, as the files of texts are named."""
    language = tag.split("-")[0].lower()
    return _SAME_LANGUAGE.get(language, language)


def texts_tag(tag: str) -> str:
    """A carrier's tag as texts are looked up by it: cmn-CN as zh-CN."""
    _, hyphen, variety = tag.partition("-")
    return bare_language(tag) + hyphen + variety
