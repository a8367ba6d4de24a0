"""Reward models: preference pairs in, one score per response out. Knows nothing of the web."""

import logging

# Where bitsandbytes is installed peft loads it; what it could do better with is nobody's fault.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
