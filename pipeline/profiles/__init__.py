"""What each day looked like: histograms of features and scores, kept per run."""
