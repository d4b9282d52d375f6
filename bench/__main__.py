"""python -m bench [--quick] [NAME ...]: run the benchmarks, all or those named, and write results.md and results.json."""

import argparse
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from bench.harness import Row, report

BENCHES = (
    "recording",
    "beside",
    "patching",
    "paths",
    "edges",
    "measuring",
    "screen_speed",
    "screening",
    "memory",
    "page",
    "slider",
    "map",
    "heads_page",
    "graph_page",
    "notebook",
    "waits",
    "yielding",
    "dictionaries",
    "features",
    "graph",
    "text",
    "harvest",
    "training",
    "jobs",
    "lrqp",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks as ratios measured side by side in one run.")
    parser.add_argument("names", nargs="*", help=", ".join(BENCHES))
    parser.add_argument("--quick", action="store_true", help="few pairs: to see that it runs, not to quote")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    arguments = parser.parse_args()

    def rows() -> Iterator[tuple[str, Row]]:
        for name in arguments.names or BENCHES:
            for row in import_module(f"bench.{name}").rows(quick=arguments.quick):
                yield name, row

    report(rows(), arguments.out, anew=not arguments.names)


if __name__ == "__main__":
    main()
