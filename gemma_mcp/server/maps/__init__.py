"""One instruction over many files: what is to be done, what is done already, and the doing."""
