"""The streaming pass: Arrow batches in, staged predictions out."""
