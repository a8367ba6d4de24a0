"""The RLHF round: rejection sampling, PPO and evaluation on top of two reward models."""
