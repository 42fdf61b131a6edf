"""Stands between a client and a server and writes down what the client sends: `python recorder.py FILE COMMAND...`."""

import subprocess
import sys
from pathlib import Path


def main() -> None:
    server = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE)
    assert server.stdin is not None
    with Path(sys.argv[1]).open("ab", buffering=0) as record:
        for line in sys.stdin.buffer:
            record.write(line)
            server.stdin.write(line)
            server.stdin.flush()
    server.stdin.close()
    server.wait()


if __name__ == "__main__":
    main()
