"""Models: the registry, the supported file formats, and the loaded model that scores."""
