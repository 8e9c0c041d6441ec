"""Speech as audio, where the text-to-speech engine espeak-ng is installed; else the browser speaks."""

import asyncio
import shutil

ENGINE = "espeak-ng"
WORDS_PER_MINUTE = "150"
SECONDS_TO_SYNTHESIZE = 5


def is_available() -> bool:
    return shutil.which(ENGINE) is not None


async def synthesize(text: str, language: str) -> bytes:
    """A WAV file of the text. Raises: OSError, TimeoutError, or ValueError when the engine refuses."""
    process = await asyncio.create_subprocess_exec(
        ENGINE,
        *("-v", language.lower(), "-s", WORDS_PER_MINUTE, "--stdin", "--stdout"),
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
        raise ValueError(f"{ENGINE} cannot speak this")
    return audio
