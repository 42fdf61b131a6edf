"""gemma-mcp: Gemma models on the user's own hardware, offered as MCP tools."""

__version__ = "0.1.0"
