"""A worker for tests to kill: it takes calls that wait, says so, and never comes to the end of one."""

import asyncio
import sys

from jobs import Dial, dial_lane
from redis_jobs import RedisJobs


async def hold(job: Dial) -> None:
    sys.stdout.write(f"{job.call_number}\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


async def main(url: str) -> None:
    jobs = RedisJobs(url)
    jobs.on(Dial, hold, [dial_lane("vobiz")])
    await jobs.work()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
