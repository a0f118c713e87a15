"""XLA's compiled programs, kept for the next process, which then computes the same bits and compiles nothing.

On a GPU XLA tries several kernels for each multiplication and takes the fastest, which is another one in every process.
A resume that is to end in the same weights needs the program that the training began with.

TensorFlow reads and writes a folder of this process alone. What lies in a folder that others write to as well is
checked when it is copied from there: TensorFlow ends the process over a program that is damaged or of another card.
"""

import atexit
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from ml.files import write_whole
from ml.log import say

FOLDER_VARIABLE = "POSITION_TRAINER_XLA_CACHE"  # of a folder that the jobs of a user or of a tuning job share

_FLAG = "--tf_xla_persistent_cache_directory"
_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_DIGEST = hashlib.sha256().digest_size  # bytes, at the end of each file
_LARGEST = 1 << 28  # bytes; the two programs of a training took 2 MB


def program_folders(checkpoints: Path | None, job: str) -> list[Path]:
    """Where a job's programs are kept: with its checkpoints, and in the folder that its environment names.

    A kept program is run as code, so an environment that names `none` keeps and reads none.

    Args:
        checkpoints: the job's checkpoints folder; None: it has none.
        job: its name.
    """
    shared = os.environ.get(FOLDER_VARIABLE)
    if shared == "none":
        return []
    return ([checkpoints / job / "programs"] if checkpoints else []) + ([Path(shared)] if shared else [])


class KeptPrograms:
    """Programs in folders that outlive the process. Make it before TensorFlow is imported, which reads a flag then.

    Args:
        folders: where they are kept, first the one that is read first; each gets all.

    Attributes:
        folders: where those of this hardware are kept, once `take` has been told of it.
    """

    def __init__(self, folders: Sequence[Path]):
        self._roots = folders
        self.folders: list[Path] = []
        self._kept: set[Path] = set()  # files that are whole, and those that could not be written
        self._refused = False
        self._own = Path(tempfile.mkdtemp(prefix="xla-"))
        atexit.register(shutil.rmtree, self._own, ignore_errors=True)
        if any(path for root in folders for path in root.glob("*/*.pb")) and os.environ.get(_LEVEL, "2") == "2":
            os.environ[_LEVEL] = "3"  # on reading a program TensorFlow logs errors that are none; real ones are raised
        os.environ["TF_XLA_FLAGS"] = f"{os.environ.get('TF_XLA_FLAGS', '')} {_FLAG}={self._own}".strip()

    def take(self, hardware: Mapping[str, str]) -> int:
        """Gives TensorFlow the programs that were kept on the same hardware; returns how many.

        Args:
            hardware: what a program depends on beside itself: card, driver, versions.
        """
        name = hashlib.sha256(json.dumps(dict(hardware), sort_keys=True).encode()).hexdigest()[:16]
        self.folders = [root / name for root in self._roots]
        taken = set()
        for path in (path for folder in self.folders for path in sorted(folder.glob("*.pb"))):
            if (program := _checked(path)) is not None:
                self._kept.add(path)
                if path.name not in taken:
                    (self._own / path.name).write_bytes(program)
                    taken.add(path.name)
        return len(taken)

    def keep(self) -> None:
        """Keeps in each folder what it has not; call it before a checkpoint is written, which needs it."""
        for path in self._own.glob("*.pb"):
            targets = [folder / path.name for folder in self.folders]
            for target in (target for target in targets if target not in self._kept):
                program = path.read_bytes()
                try:
                    write_whole(target, program + hashlib.sha256(program).digest())
                except OSError as error:  # no reason to end a training
                    if not self._refused:
                        say(f"COMPILED PROGRAMS cannot be kept, so a resume compiles again: {error}")
                    self._refused = True
                self._kept.add(target)


def _checked(path: Path) -> bytes | None:
    """A kept program; None where the file is damaged or cannot be read."""
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise OSError("it is no file of a program's size")
        content = path.read_bytes()
    except OSError as error:
        say(f"compiled program {path} cannot be read ({error}) and is compiled again")
        return None
    program, digest = content[:-_DIGEST], content[-_DIGEST:]
    if hashlib.sha256(program).digest() == digest:
        return program
    say(f"compiled program {path} is damaged and is compiled again")
    return None
