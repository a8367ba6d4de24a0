"""Reward models: preference pairs in, one score per response out. Knows nothing of the web."""
