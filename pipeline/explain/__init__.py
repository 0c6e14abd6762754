"""Why a key has its score: all predictions for it, the input rows they came from, and what each feature adds."""
