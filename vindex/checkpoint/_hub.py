"""``org/name[@revision]`` on the Hugging Face hub: the local cache first, then a download."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vindex.checkpoint._base import Provenance
from vindex.checkpoint._directory import INDEX, has_weights
from vindex.errors import CheckpointError
from vindex.families._config import show
from vindex.files import CARRIED
from vindex.progress import Progress

PREFIX = "hf://"

_REF = re.compile(
    r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+?)(?:/(?P<file>[\w./-]+\.gguf))?(?:@(?P<revision>[\w./-]+))?",
    re.ASCII,
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubRef:
    """A model on the hub.

    Attributes:
        repo: ``org/name``.
        file: one GGUF file of the repository, or ``None`` for its safetensors.
        revision: branch, tag or commit; ``None`` for the default branch.
    """

    repo: str
    file: str | None = None
    revision: str | None = None

    @property
    def patterns(self) -> list[str]:
        """The files that are needed."""
        if self.file is not None:
            return [self.file]
        return [*CARRIED, INDEX, "model*.safetensors"]


def parse_hub_ref(ref: str) -> HubRef | None:
    """``org/name[/FILE.gguf][@revision]``, or ``None`` when ``ref`` is nothing like it."""
    match = _REF.fullmatch(ref.removeprefix(PREFIX))
    if match is None or ".." in ref:
        return None
    return HubRef(match["repo"], match["file"], match["revision"])


def fetch(ref: HubRef, progress: Progress) -> tuple[Path, Provenance]:
    """A directory with the model's files, from the cache or downloaded into it.

    Args:
        ref: the model.
        progress: told about downloaded bytes; may cancel.

    Returns:
        The snapshot directory of the cache, and where its files come from.

    Raises:
        CheckpointError: the hub has no such model, or it is neither cached nor reachable.
    """
    folder = _cached(ref)
    if folder is None:
        folder = _download(ref, progress)
    digests = {
        path.name: path.resolve().name
        for path in sorted(folder.iterdir())
        if _DIGEST.fullmatch(path.resolve().name)
    }
    return folder, Provenance(repo=ref.repo, revision=folder.name, sha256=digests)


def _cached(ref: HubRef) -> Path | None:
    """The snapshot, if the cache holds everything that opening it needs."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                ref.repo,
                revision=ref.revision,
                allow_patterns=ref.patterns,
                local_files_only=True,
            )
        )
    except LocalEntryNotFoundError:
        return None
    except ValueError as error:
        raise CheckpointError(f"{show(ref.repo)} is no hub id: {error}") from error
    complete = has_weights(folder) if ref.file is None else (folder / ref.file).is_file()
    return folder if complete else None


def _download(ref: HubRef, progress: Progress) -> Path:
    from huggingface_hub import snapshot_download

    stop: list[BaseException] = []
    try:
        progress.phase(f"download {ref.repo}", _size(ref))
        return Path(
            snapshot_download(
                ref.repo,
                revision=ref.revision,
                allow_patterns=ref.patterns,
                tqdm_class=_bar(progress, stop),
            )
        )
    except CheckpointError:
        raise
    except Exception as error:
        if stop:  # the caller cancelled from inside the progress bar
            raise stop[0] from None
        raise _explain(ref, error) from error


def _size(ref: HubRef) -> int:
    """Bytes to download; refuses a repository without anything readable before it starts."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    siblings = (
        HfApi().model_info(ref.repo, revision=ref.revision, files_metadata=True).siblings or []
    )
    sizes = {each.rfilename: each.size or 0 for each in siblings}
    wanted = set(filter_repo_objects(sizes, allow_patterns=ref.patterns))
    if not any(name.endswith((".safetensors", ".gguf")) for name in wanted):
        raise _nothing_readable(ref, sorted(sizes))
    return sum(sizes[name] for name in wanted)


def _nothing_readable(ref: HubRef, names: list[str]) -> CheckpointError:
    ggufs = [name for name in names if name.endswith(".gguf")]
    if ref.file is not None:
        what, hint = f"{ref.repo} has no file {show(ref.file)}", "check the file's name on the hub"
    elif ggufs:
        what = f"{ref.repo} holds GGUF files and no safetensors"
        hint = f'name one of them, e.g. "{ref.repo}/{ggufs[0]}"'
    elif any(name.endswith((".bin", ".pth", ".pt")) for name in names):
        what = f"{ref.repo} holds only pickles, and reading a pickle can run any code"
        hint = "convert it to safetensors with transformers' save_pretrained; use that directory"
    else:
        what, hint = f"{ref.repo} holds no weights in safetensors", None
    return CheckpointError(what, hint=hint, details=names)


def _explain(ref: HubRef, error: Exception) -> CheckpointError:
    from huggingface_hub import errors

    match error:
        case errors.GatedRepoError():
            what = f"access to {ref.repo} must be granted on the hub first"
            hint = f"accept its terms at https://huggingface.co/{ref.repo}, then run: hf auth login"
        case errors.RepositoryNotFoundError():
            what = f"the hub has no model {ref.repo}, or it is private"
            hint = "check the spelling; for a private model run: hf auth login"
        case errors.RevisionNotFoundError():
            what = f"{ref.repo} has no revision {show(ref.revision)}"
            hint = "check the branch, tag or commit on the hub"
        case errors.LocalEntryNotFoundError() | errors.OfflineModeIsEnabled() | ConnectionError():
            what = f"{ref.repo} is not in the local cache, and the hub cannot be reached"
            hint = (
                f"on a machine with access run: hf download {ref.repo} --local-dir DIR;"
                " then use DIR"
            )
        case _:
            reason = (str(error).splitlines() or [""])[0][:200]
            what = f"downloading {ref.repo} failed: {type(error).__name__}: {reason}"
            hint = "run the same command again: it continues where it stopped"
    return CheckpointError(what, hint=hint)


def _bar(progress: Progress, stop: list[BaseException]) -> Any:
    """A progress bar class for huggingface_hub that draws nothing and reports bytes written."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):  # type: ignore[misc]  # huggingface_hub is untyped here
        def __init__(self, *args: Any, **options: Any) -> None:
            # Two byte bars exist: of bytes received and, unnamed by a suffix, of bytes written.
            self._counts = options.get("name") == "huggingface_hub.snapshot_download"
            super().__init__(*args, **{**options, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self._counts and n:
                progress.advance(int(n))
            try:
                progress.check()
            except BaseException as error:
                stop.append(error)
                raise
            return None

    return Bar
