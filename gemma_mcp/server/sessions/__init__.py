"""Conversations that outlive every process: kept in a SQLite file, shared by all servers of one user."""

from gemma_mcp.server.sessions.store import Limits, Session, SessionStore, Summary
from gemma_mcp.server.sessions.turns import Sessions, Turn

__all__ = ["Limits", "Session", "SessionStore", "Sessions", "Summary", "Turn"]
