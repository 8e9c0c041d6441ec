"""Speech as audio for the phone page, where there is an engine for it; else the browser speaks."""

import asyncio
import sys
from pathlib import Path

from simulator import speech_engine

SECONDS_TO_SYNTHESIZE = 5

is_available = speech_engine.is_available


async def synthesize(text: str, language: str) -> bytes:
    """A WAV file of the text. Raises: OSError, TimeoutError, or ValueError when the engine refuses."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", speech_engine.__name__, language, str(speech_engine.NORMAL_WORDS_PER_MINUTE)),
        cwd=Path(__file__).parent.parent,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(SECONDS_TO_SYNTHESIZE):
            audio, _ = await process.communicate(text.encode())
    finally:
        if process.returncode is None:  # late, or nobody wants to hear it any more
            process.kill()
            await process.wait()
    if process.returncode != 0 or not audio:
        raise ValueError(f"no voice for this text in {language}")
    return audio
