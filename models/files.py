"""The files of models from elsewhere. Example: model_file("path/to/file.py")"""

from __future__ import annotations

import glob
from pathlib import Path


def model_file(name: str) -> Path:
    """The file of that name. Records have U+FFFD for what is no UTF-8 in a name: then the one file that looks so."""
    alike = glob.glob(glob.escape(name).replace("\ufffd", "?")) if "\ufffd" in name else []
    alike = [path for path in alike if path.encode(errors="replace").decode() == name.replace("\ufffd", "?")]
    return Path(alike[0] if len(alike) == 1 else name)
