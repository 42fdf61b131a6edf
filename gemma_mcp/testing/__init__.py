"""Public testing tools: the echo backend and the suite that every backend must pass."""
