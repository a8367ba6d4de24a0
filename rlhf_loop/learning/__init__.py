"""How models learn: likelihoods, losses, optimiser steps that resume, and an update of PPO."""
