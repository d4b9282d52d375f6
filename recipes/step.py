"""python recipes/step.py N OF WORDS -- COMMAND ...: run one step of make's; say which it is, and now and then that it is at it.

What the command prints is passed on, and its exit code is this one's. Needs nothing but Python.
"""

import subprocess
import sys
import time

EVERY = 15  # seconds between two signs of life


def main() -> int:
    split = sys.argv.index("--")
    number, of, words = sys.argv[1:split]
    print(f"step {number} of {of}: {words}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(sys.argv[split + 1 :])
    while True:
        try:
            code = process.wait(timeout=EVERY)
            break
        except subprocess.TimeoutExpired:
            print(f"  at it for {time.monotonic() - began:.0f} s", flush=True)
        except KeyboardInterrupt:
            process.wait()
            return 130
    share = f"{100 * int(number) / int(of):.0f} % of the steps done" if code == 0 else f"failed with exit code {code}"
    print(f"  {time.monotonic() - began:.0f} s; {share}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
