"""How much of a file is in this process's memory: what a statement really read of its maps."""

from __future__ import annotations

from pathlib import Path

_SMAPS = Path("/proc/self/smaps")


def resident_bytes(place: Path) -> int | None:
    """Bytes of the maps of a file, or of the files of a directory, that are in memory.

    The system brings in whole pages, some 64 KiB at a time.

    Returns:
        ``None`` where the system does not tell; Linux does.
    """
    try:
        lines = _SMAPS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        wanted = str(place.resolve())
    except OSError:
        return None
    total, counts = 0, False
    for line in lines:
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):  # the head of a map: addresses, rights, …, path
            path = rest.split(maxsplit=4)[4:]
            counts = bool(path) and (path[0] == wanted or path[0].startswith(f"{wanted}/"))
        elif counts and name == "Rss:":
            total += int(rest.split()[0]) * 1024
    return total
