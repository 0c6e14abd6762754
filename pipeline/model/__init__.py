"""Models: the registry on disk, the kinds of file it takes, and the loaded model that scores."""
