"""The demo world: a small invented help desk, its hidden judge, and its starter chat models."""
