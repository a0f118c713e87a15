"""Runs a command and writes the most memory it had, in GiB, to a file: peak_memory.py FILE COMMAND...

Linux counts what a process's parent had into its peak, so a small parent like this one has to start what is measured.
"""

import resource
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    status = subprocess.run(sys.argv[2:], check=False).returncode
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    Path(sys.argv[1]).write_text(str(peak_kib / 2**20), encoding="ascii")
    sys.exit(status)
