"""Several workers without Redis, each with a memory of its own: enough for requests that share nothing.

A code that one worker made is unknown to the others, which is why `server.py` refuses to start like this.
"""

import sys

import server
from bench.servers import ROOT
from log_format import set_up_logging
from settings import load_settings


def main(workers: int) -> int:
    settings = load_settings().model_copy(update={"workers": workers})
    set_up_logging(settings.log_format, shows_process=True)
    return server.supervise([sys.executable, str(ROOT / "server.py")], server._listen(settings), settings)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
