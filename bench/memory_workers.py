"""Several workers without Redis, each with a memory of its own: enough for requests that share nothing.

A code that one worker made is unknown to the others, which is why `server.py` refuses to start like this.
"""

import signal
import sys

import server
from log_format import set_up_logging
from settings import load_settings
from workers import WORKER_FLAG, ParentLine

COMMAND = [sys.executable, "-m", "bench.memory_workers"]


def main(workers: int) -> int:
    settings = load_settings()
    listener = server._listen(settings)
    port = listener.getsockname()[1]
    set_up_logging(settings.log_format, shows_process=True)
    print(f"http://127.0.0.1:{port}", file=sys.stderr, flush=True)
    return server.supervise(COMMAND, listener, settings.model_copy(update={"http_port": port, "workers": workers}))


def work() -> int:
    parent = ParentLine()
    settings = load_settings(**parent.settings)
    set_up_logging(settings.log_format, shows_process=True)
    server.serve_as_worker(server.create_app(settings), parent, settings.stop_delay_seconds)
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(work() if WORKER_FLAG in sys.argv else main(workers=int(sys.argv[1])))
