"""The MCP server: registration, one module per tool, inputs, sessions, progress."""
