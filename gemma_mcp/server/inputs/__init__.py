"""What callers name and the server reads: text files, what git knows, images; one policy over all of them."""
