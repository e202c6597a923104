"""What data are known by."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint_of(data: Any) -> str:
    """16 hexadecimal digits of JSON data: settings, sizes, texts; the order of a mapping's keys makes no difference."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
