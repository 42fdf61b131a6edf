"""The engine process: models, workers, scheduling, and the HTTP application in front of them."""
