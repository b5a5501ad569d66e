"""Models on the Hugging Face Hub: ``hf://owner/name@revision`` becomes a directory of the library's own cache.

Only what a growth reads is fetched: the weights of one format, ``config.json``, and the files that go with a model.
The library is asked for by name when the first such source is met; nothing else needs it.
"""

from __future__ import annotations

import glob
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ligo_spec.errors import InputError, LigoError, OutputError, PlanError, Problem, printable
from ligo_spec.hub_files import chosen

SCHEME = "hf://"

_NAME = r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?"
_REVISION = r"[A-Za-z0-9_](?:[A-Za-z0-9._/+-]{0,253}[A-Za-z0-9_+-])?"
PATTERN = rf"hf://(?!.*(?:\.\.|//))(?![^@]*(?:--|\.git(?:@|$)))({_NAME})/({_NAME})(?:@({_REVISION}))?"
"""What names a model: the Hub's alphabet for owner and name, git's for a branch, tag or commit, and no way upwards."""


@dataclass(frozen=True)
class Reference:
    """A model on the Hub, as it is named: its repository, and a branch, tag or commit."""

    repository: str
    revision: str

    def __str__(self) -> str:
        """As it is written in a plan."""
        return f"{SCHEME}{self.repository}@{self.revision}"


@dataclass(frozen=True)
class Snapshot:
    """What was fetched of a model at one commit.

    Args:
        path: The directory that holds it.
        source: ``hf://owner/name@commit``, which names it for good.
        files: The files that were fetched, below ``path``.
    """

    path: Path
    source: str
    files: tuple[str, ...]


def on_hub(source: str | Path) -> bool:
    """Whether a source names a model on the Hub; a ``Path`` never does."""
    return isinstance(source, str) and source.startswith(SCHEME)


def parse_reference(source: str) -> Reference:
    """The model that ``hf://owner/name@revision`` names; the revision is ``main`` where it is left out.

    Raises:
        InputError: It has another form, or holds characters that no such name has.
    """
    match = re.fullmatch(PATTERN, source)
    if match is None:
        raise InputError(
            f"{printable(source)}: a model on the Hub is named hf://owner/name or hf://owner/name@revision"
        )
    return Reference(f"{match[1]}/{match[2]}", match[3] or "main")


def located(source: str | Path) -> Path:
    """Where a source lies on this machine; what is on the Hub is fetched first, if it is not there yet.

    Raises:
        InputError: It is not on the Hub, may not be read, or cannot be reached.
        OutputError: There is no room for it.
        PlanError: ``huggingface_hub`` is not installed.
    """
    return fetch(str(source)).path if on_hub(source) else Path(source)


def fetch(source: str, *, weights: bool = True, also: Sequence[str] = ()) -> Snapshot:
    """Fetch a model, or find it in the cache: files that are there already are not fetched again.

    With ``HF_HUB_OFFLINE`` the Hub is not asked, and the cache alone has to do.

    Args:
        source: ``hf://owner/name@revision``.
        weights: Whether more than ``config.json`` is needed.
        also: Further files that are needed, where the model has them.

    Raises:
        InputError: It is not on the Hub, may not be read, or cannot be reached; or there are no weights in it.
        OutputError: There is no room for it.
        PlanError: ``huggingface_hub`` is not installed.
    """
    reference = parse_reference(source)
    hub = _library()
    with _bars(hub), _told(hub, reference):
        commit, files, where = _listed(hub, reference)
        if weights:
            names = chosen(files, where, lambda name: _download(hub, reference, commit, name))
            names += [name for name in also if name in files]
        else:
            names = [name for name in ("config.json",) if name in files]
        path = _snapshot(hub, reference, names)
    if path.name != commit:
        raise _refusal(reference, f"moved from {commit} to {path.name} while it was fetched; run again")
    lacking = [name for name in names if not os.path.exists(path / name)]
    if lacking:  # some versions of the library take what there is where the connection fails in between
        some = printable(lacking[0], 60)
        raise _refusal(reference, f"came without {len(lacking)} of its {len(names)} files ({some}); run again")
    return Snapshot(path, f"{SCHEME}{reference.repository}@{commit}", tuple(sorted(names)))


# --- the library ------------------------------------------------------------------------------------------------------


def _library() -> Any:
    try:
        hub = import_module("huggingface_hub")
        for part in ("errors", "utils"):
            import_module(f"huggingface_hub.{part}")
    except ImportError as error:
        raise PlanError(
            "hf:// sources need huggingface_hub, which is not installed; pip install 'ligo-spec[hub]'"
        ) from error
    return hub


def _listed(hub: Any, reference: Reference) -> tuple[str, frozenset[str], str]:
    """The commit that a revision is, every path in it, and what this is the list of; offline, by the cache."""
    try:
        info = hub.HfApi(**_who()).model_info(reference.repository, revision=reference.revision)
    except hub.errors.OfflineModeIsEnabled:
        return _cached(hub, reference)
    except (KeyError, TypeError, AttributeError) as error:  # JSON of another kind than the library thinks
        raise _refusal(reference, "what answers is not the Hub; see HF_ENDPOINT") from error
    if not isinstance(info.sha, str) or not re.fullmatch("[0-9a-f]{40,64}", info.sha):  # it becomes a directory
        raise _refusal(reference, "what answers does not say which commit this is; see HF_ENDPOINT")
    return info.sha, frozenset(str(sibling.rfilename) for sibling in info.siblings or ()), str(reference)


def _cached(hub: Any, reference: Reference) -> tuple[str, frozenset[str], str]:
    path = _snapshot(hub, reference, ["config.json"])
    if hasattr(hub, "get_cached_repo_tree"):
        try:
            tree = hub.get_cached_repo_tree(reference.repository, revision=path.name)
            return path.name, frozenset(str(file.path) for file in tree), str(reference)
        except hub.errors.CachedRepoTreeNotFoundError:
            pass  # other programs fetch file by file, and older libraries keep no list: then what is there is all
    found = (Path(folder, name) for folder, _, names in os.walk(path) for name in names)
    files = frozenset(file.relative_to(path).as_posix() for file in found)
    return path.name, files, f"{reference} (HF_HUB_OFFLINE is set, and this is all that the cache has)"


def _download(hub: Any, reference: Reference, commit: str, name: str) -> Path:
    options = {"revision": commit, **_who()}
    return Path(hub.hf_hub_download(reference.repository, name, **options))


def _snapshot(hub: Any, reference: Reference, names: Sequence[str]) -> Path:
    # By the revision as it is named: so the cache learns which commit it is, and an offline run can find it.
    patterns = [glob.escape(name) for name in names]
    options = {"revision": reference.revision, "allow_patterns": patterns, **_who()}
    return Path(hub.snapshot_download(reference.repository, **options))


def _who() -> dict[str, str]:
    return {"library_name": "ligo-spec", "library_version": version("ligo-spec")}


@contextmanager
def _bars(hub: Any) -> Iterator[None]:
    """The library's own progress bars, on a terminal only."""
    silent = not sys.stderr.isatty() and not hub.utils.are_progress_bars_disabled()
    if silent:
        hub.utils.disable_progress_bars()
    try:
        yield
    finally:
        if silent:
            hub.utils.enable_progress_bars()


@contextmanager
def _told(hub: Any, reference: Reference) -> Iterator[None]:
    """Every way in which the library fails, as one line with a remedy."""
    try:
        yield
    except LigoError:
        raise
    except (OSError, ValueError, hub.errors.HTTPError, *_xet(hub)) as error:
        raise _failure(hub.errors, reference, error) from error


def _xet(hub: Any) -> list[type[Exception]]:
    """The error of the library's other way to fetch, where its version has one."""
    return [hub.errors.XetDownloadError] if hasattr(hub.errors, "XetDownloadError") else []


def _failure(errors: Any, reference: Reference, error: Exception) -> LigoError:
    log_in = "log in (hf auth login, or HF_TOKEN)"
    if isinstance(error, errors.GatedRepoError):
        page = f"huggingface.co/{reference.repository}"
        return _refusal(reference, f"is gated: accept its terms on {page}, then {log_in}")
    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else None
    if isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        return _refusal(reference, f"no such model on the Hub, or it is private; check the name, or {log_in}")
    if isinstance(error, errors.RevisionNotFoundError):
        return _refusal(
            reference, f"the model has no revision {reference.revision!r}; name a branch, tag or commit of it"
        )
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return _unreached(errors, reference, error)
    if status is not None:
        return _refusal(reference, f"the Hub answered {status}; {log_in if status == 403 else 'try again later'}")
    if isinstance(error, errors.HTTPError):
        return _unreached(errors, reference, error)
    if isinstance(error, OSError) and error.errno is not None:
        return OutputError(Problem(str(reference), f"cannot be stored in the cache: {error.strerror}; see HF_HOME"))
    return _refusal(reference, f"cannot be fetched: {printable(error)}")


def _unreached(errors: Any, reference: Reference, error: Exception) -> InputError:
    chain: BaseException | None = error
    while chain is not None:
        if isinstance(chain, errors.OfflineModeIsEnabled):
            return _refusal(
                reference, "is not, or not whole, in the cache, and HF_HUB_OFFLINE is set; fetch it online once"
            )
        chain = chain.__cause__
    reason = str(error).split("\n")[0]
    message = (
        f"the connection to the Hub failed ({printable(reason)}); try again, or set HF_HUB_OFFLINE=1 to use the cache"
    )
    return _refusal(reference, message)


def _refusal(reference: Reference, message: str) -> InputError:
    return InputError(Problem(str(reference), message))
