"""Job definitions: the input to score, the model to use, and what to do with the results."""
