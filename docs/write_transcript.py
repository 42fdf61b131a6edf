"""Runs the demo and puts what it prints into the README: `python docs/write_transcript.py`."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- transcript -->\n).*?(<!-- /transcript -->)", re.DOTALL)


def main() -> None:
    """Replace the transcript; fails when the demo does."""
    command = [sys.executable, "-m", "gemma_mcp", "demo"]
    printed = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    calls = printed[printed.index("\n1. ") :].split("\nAdd it to Claude Code")[0].strip()
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda found: f"{found[1]}```text\n{calls}\n```\n{found[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
