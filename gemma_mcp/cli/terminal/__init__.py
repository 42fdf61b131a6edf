"""The chat in a terminal: a conversation, a screen, a line to type in, and commands."""
