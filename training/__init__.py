"""How the starter model is made: data generators, training, export and evaluation. Not installed."""
