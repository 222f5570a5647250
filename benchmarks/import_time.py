"""Seconds that `import nbruntime` adds to a notebook, which has IPython already.

Every figure is the median of fresh interpreters, taken in turns. The goal is that `import nbruntime`
takes at most 0.15 s more than `import IPython`; it should take far less than IPython itself.

    python benchmarks/import_time.py [--runs 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

STATEMENTS = {
    "nothing": "pass",
    "IPython": "import IPython",
    "nbruntime": "import nbruntime",
    "nbruntime and its Runtime": "import nbruntime; nbruntime.Runtime",
    "IPython, then nbruntime": "import IPython; import nbruntime",
}
GOAL = 0.15


def measure(statement: str) -> float:
    """Time a statement in a fresh interpreter, by its own clock."""
    script = f"import time; start = time.perf_counter()\n{statement}\nprint(time.perf_counter() - start)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(result.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    runs = parser.parse_args().runs
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(runs + 1):
        for name, statement in STATEMENTS.items():
            times[name].append(measure(statement))
    print(f"median of {runs} fresh interpreters after one to warm up the disk")
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    for name, value in median.items():
        print(f"  {name:44} {value * 1000:8.1f} ms")
    over = median["nbruntime"] - median["IPython"]
    print(f"  import nbruntime over import IPython: {over:+.3f} s (goal: at most +{GOAL} s)")


if __name__ == "__main__":
    main()
