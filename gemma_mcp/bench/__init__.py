"""The benchmark: the same work done by several engines in turn, measured from outside over HTTP."""
