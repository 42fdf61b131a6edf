"""`python -m gemma_mcp` serves MCP over stdio; with arguments it is the command line."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """Serve, or hand over to the command line."""
    if len(sys.argv) > 1:
        from gemma_mcp.cli.main import main as command_line

        command_line()
    else:
        from gemma_mcp.server.stdio import serve_stdio

        serve_stdio(os.environ)


if __name__ == "__main__":
    main()
