"""Raw files found by name at any depth, symbolic links followed."""

import fnmatch
import os
from pathlib import Path

from common.files import UserError, missing


class Finder:
    """Finds files by pattern; every folder below a root is looked at once.

    A pattern is a path whose parts may have wildcards; a part "**" stands for any number of folders, none included. What
    stands before the first "**" is the root, whose own name counts as a folder too.
    """

    def __init__(self):
        self._trees = {}

    def _files(self, root):
        """All files below root, list of (parts, Path) in order; the parts begin with the root's own name."""
        if root not in self._trees:
            files, seen, name = [], set(), Path(root).resolve().name
            for folder, subfolders, names in os.walk(root, followlinks=True):
                real, phantom = os.path.realpath(folder), "phantom_truth.json" in names and Path(folder) != Path(root)
                if real in seen or phantom:  # a link to a folder above itself, or simulated data beside the real ones
                    subfolders.clear()
                    continue
                seen.add(real)
                subfolders.sort()
                below = (name, *Path(folder).relative_to(root).parts)
                files += [((*below, file), Path(folder) / file) for file in sorted(names)]
            self._trees[root] = files
        return self._trees[root]

    def all(self, pattern):
        """Files that a pattern stands for, list of Path in order; one that is reached on two ways counts once."""
        parts = pattern.parts
        if "**" in parts:
            at = parts.index("**")
            found = [path for below, path in self._files(Path(*parts[:at])) if _matches(below, parts[at:])]
        elif "*" in pattern.name:
            found = sorted(path for path in pattern.parent.glob(pattern.name) if path.is_file())
        else:
            found = [pattern] if pattern.exists() else []
        once = {}
        for path in filter(Path.exists, found):  # a link may lead nowhere
            stat = path.stat()
            once.setdefault((path.name, stat.st_dev, stat.st_ino), path)
        return list(once.values())

    def first(self, *patterns):
        """First file that one of the patterns stands for, or None."""
        return next((path for pattern in patterns for path in self.all(pattern)), None)

    def one(self, pattern, do):
        """The only file that a pattern stands for; a UserError for none, with what to `do` about it, or several."""
        found = self.all(pattern)
        if not found:
            raise missing(pattern, do)
        if len(found) > 1:
            raise UserError(f"{found[0].name} lies in {found[0].parent} and in {found[1].parent}; keep one of them below --data_root")
        return found[0]


def _matches(parts, wanted):
    """Whether the parts of a path are as those of a pattern."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return (
            bool(parts) and fnmatch.fnmatchcase(parts[-1], wanted[-1]) and any(_matches(parts[i:], wanted[1:]) for i in range(len(parts)))
        )
    return bool(parts) and fnmatch.fnmatchcase(parts[0], wanted[0]) and _matches(parts[1:], wanted[1:])
