"""Fuzz the server for longer than the tests do: frames, arguments, paths, images and schemas, each its share of time.

Prints the counts, and the smallest input that breaks something:

    python -m benchmarks.fuzz [--minutes 10]
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1] / "tests" / "fuzz"


def main(minutes: float) -> int:
    """Run the tests in a process of their own, since pytest reads the time when they are collected."""
    environ = {**os.environ, "FUZZ_MINUTES": str(minutes)}
    return subprocess.run([sys.executable, "-m", "pytest", "-q", str(TESTS)], env=environ, check=False).returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for all kinds together")
    sys.exit(main(parser.parse_args().minutes))
