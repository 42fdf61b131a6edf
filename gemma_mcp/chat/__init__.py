"""Messages to prompt segments: templates and fill-in-the-middle. Pure functions."""
