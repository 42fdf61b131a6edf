"""The pool: finds or starts an engine, proves that it is ours, streams replies, retries."""
