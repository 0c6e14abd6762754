"""Why a key has its score: what was ever predicted for it, from which input row, and what the model makes of it."""
