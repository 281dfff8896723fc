"""Where a long encoding is, beside its unfinished file, so that a killed one goes on instead of starting anew.

Tokens are a function of the audio alone and a stream's state is a value: what is written after going on is what would have been
written. The audio is read again from its start, as resamplers have no state that could be kept, and is known again by its hash.
"""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

State = dict[str, dict[str, npt.NDArray[Any]]]  # whose state: name: value


class Checkpoint:
    """The state of an encoding into the file `part`."""

    def __init__(self, part: Path) -> None:
        self.path = part.with_name(f"{part.name}.npz")

    def save(self, state: State) -> None:
        """Replace what was saved before, at once or not at all. A full disk is met by the file itself, not here."""
        draft = self.path.with_name(f"{self.path.name}.new")
        try:
            with draft.open("wb") as file:
                np.savez(file, **{f"{owner}/{name}": value for owner, values in state.items() for name, value in values.items()})  # type: ignore[arg-type]
            draft.replace(self.path)
        except OSError:
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def load(self) -> State | None:
        """What was saved; None when that cannot be read."""
        state: State = {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                for key in file.files:
                    owner, _, name = key.partition("/")
                    state.setdefault(owner, {})[name] = file[key]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None
        return state

    def remove(self) -> None:
        """It is no longer needed."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)
