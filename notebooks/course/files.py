"""Files that are written whole or not at all."""

import os
from pathlib import Path


def write_whole(path, write):
    """Call `write(part)` and move the file that it wrote to `path`; raises OSError."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}{path.suffix}")
    try:
        write(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
