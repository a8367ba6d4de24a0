"""What evaluations measure beside rewards, and the release gate over it."""
