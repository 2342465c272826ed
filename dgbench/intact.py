"""Whether a checkpoint is as it was written: damaged weights would load, and give other numbers."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path
from pickle import UnpicklingError

import torch

from leaderboard import records
from leaderboard.reading import open_regular


def damage(path: Path) -> str | None:
    """What shows that a checkpoint has changed since it was written; None if nothing does.

    The sha256 in the record that it lies in tells, or, where there is none, the checksums of all
    that torch has written into it, weights and all else: torch itself does not compare them.

    Args:
        path: the file.

    Raises:
        FileNotFoundError: when it is not there.
        RecordError: when the record that it lies in cannot be read.
    """
    known = records.recorded_sha256(path)
    try:
        with open_regular(path) as file:
            if known is not None and hashlib.file_digest(file, "sha256").hexdigest() != known:
                return "its record has another sha256 of it"
            with zipfile.ZipFile(file) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    return "it is compressed, which torch's files are not"
                spoilt = archive.testzip() if known is None else None
            if known is None:
                # Its own reader of archives is stricter; onto no device, it reads no weights.
                file.seek(0)
                torch.load(file, map_location="meta", weights_only=True)
    except FileNotFoundError:
        raise
    except UnpicklingError:
        # torch's own words advise to read it all the same, which would run what is in it.
        return "it holds more than tensors, numbers and text, or is damaged"
    except Exception as error:
        # zipfile and torch raise whatever the damage leads to: there is no narrower class.
        return f"it is no whole file of torch's: {' '.join(str(error).split())}"
    return None if spoilt is None else f"the checksum of {spoilt} in it does not fit"
