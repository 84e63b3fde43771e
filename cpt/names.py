"""Names that become paths: each is one part of a path, or stays below the folder that it belongs to.

Recipes, manifests, registries and indexes may come from others; a name in them must not lead elsewhere.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from cpt.errors import CptError, StoreError

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_HUB_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?", re.ASCII)


def is_part(name: Any) -> bool:
    """Whether it is a plain name of a file or folder: no separator, not `.` or `..`, nothing hidden.

    Every file system that we know takes it as it is.
    """
    return isinstance(name, str) and bool(_PART.fullmatch(name)) and not name.endswith(".")


def check_part(name: Any, where: str, kind: type[CptError] = StoreError) -> str:
    """The name, if it can be a path's part.

    Raises:
        kind: it cannot; names `where` it was read.
    """
    if not is_part(name):
        raise kind(
            f"{where}: {name!r} is no plain name; write letters, digits, and . _ + - behind the first "
            f"of them (at most 200)"
        )
    return str(name)


def below(folder: Path, name: Any, where: str) -> Path:
    """The file or folder `name` below `folder`; every part of it is a plain name.

    Links are followed: the hub's cache consists of them.

    Raises:
        StoreError: it is absolute, goes upwards, or has a part that is no plain name.
    """
    parts = PurePosixPath(name).parts if isinstance(name, str) else ()
    if not parts or not all(map(is_part, parts)):
        raise StoreError(f"{where}: {name!r} does not stay below {folder}; name a file that does")
    return folder.joinpath(*parts)


def is_hub_id(name: Any) -> bool:
    """Whether it has the form `name` or `owner/name`."""
    return isinstance(name, str) and bool(_HUB_ID.fullmatch(name)) and ".." not in name
