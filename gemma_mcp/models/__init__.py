"""What is on disk: names to files, and what a GGUF file says of itself before it is loaded."""
