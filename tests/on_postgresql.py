"""Run pytest on PostgreSQL: ``python -m tests.on_postgresql [pytest's words]``."""

import os
import subprocess
import sys

from tests.postgresql import postgresql

if __name__ == "__main__":
    with postgresql() as url:
        print("On PostgreSQL:", flush=True)
        command = [sys.executable, "-m", "pytest", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env={**os.environ, "DATABASE_URL": url}).returncode)
