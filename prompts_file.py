"""PROMPTS_FILE, read once at the start: prompt sets and alert templates in an operator's own words."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from alert_templates import AlertTemplate, read_alert_templates
from config_file import read_config
from prompt_sets import KnownPrompts, PromptSets, read_prompt_sets
from settings import BadSettings


class PromptsFile(NamedTuple):
    sets: PromptSets
    alerts: Mapping[str, AlertTemplate]


def load(
    path: str,
    known: KnownPrompts,
    app_name: str,
    set_of_client: Mapping[str, str] | None = None,
    has_audio: Callable[[str], bool] | None = None,
) -> PromptsFile:
    """What the file has; without a path nothing.

    `known` has the languages and prompts that there are, `has_audio` tells whether AUDIO_DIR has a file.
    Raises: BadSettings, with everything that is wrong in the file.
    """
    set_of_client = set_of_client or {}
    if not path:
        return PromptsFile(PromptSets({}, {}, app_name), {})
    file = read_config("PROMPTS_FILE", path)
    file.refuse_other_keys((), file.document, ("prompts", "alerts"))
    sets = read_prompt_sets(file, known, app_name, has_audio)
    alerts = read_alert_templates(file, known)
    unknown = sorted(set(set_of_client.values()) - sets.keys())
    if unknown:
        names = f"it has {', '.join(sets) or 'none'}"
        file.problems.append(f"CLIENT_PROMPTS names sets that {path} does not have: {', '.join(unknown)}; {names}")
    if file.problems:
        raise BadSettings(file.problems)
    return PromptsFile(PromptSets(sets, set_of_client, app_name), alerts)
