"""What is computed from scores alone. Without torch, so that the web side may call it."""
