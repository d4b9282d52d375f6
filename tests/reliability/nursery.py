"""Servers as forks of one process that has imported everything: a line with a port on stdin starts one, its pid is answered.

`python -m reliability.nursery MODEL STORE LOGS`; what a server prints is in LOGS/PORT.log.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from residscope.server.listen import serve


def main(model: str, store: str, logs: Path) -> None:
    torch.set_num_threads(1)  # a process that has once run torch's threads cannot be forked
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if pid := os.fork():
            print(pid, flush=True)
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(logs / f"{int(line)}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        serve(model, port=int(line), open_browser=False, store=store or None)
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
