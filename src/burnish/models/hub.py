"""Models from the Hugging Face hub: downloaded once into its own cache, found there again without a network."""

from __future__ import annotations

import errno
from pathlib import Path

from burnish.errors import ModelError
from burnish.models.directory import refuse_pickles

_WANTED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
# Folders hold other formats of the same weights (onnx/, original/), as do Mistral's consolidated files.
_UNWANTED = ["*/*", "consolidated*"]
_TIMEOUT_S = 10.0


def fetch_from_hub(repo: str, revision: str | None = None) -> Path:
    """The local directory of a hub model, downloaded if need be.

    Without a network a model that was downloaded before is used as it is.

    Raises:
        ModelError: no such model or revision, no access, hub not reachable and model not in the local cache, pickle
            weights only, or a full disk.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(repo, revision=revision, timeout=_TIMEOUT_S)
        names = [file.rfilename for file in info.siblings or []]
        if not any(name.endswith(".safetensors") and "/" not in name for name in names):
            refuse_pickles((name for name in names if "/" not in name), f"hub model {repo}")
        return Path(snapshot_download(repo, revision=info.sha, allow_patterns=_WANTED, ignore_patterns=_UNWANTED))
    except GatedRepoError:
        raise ModelError(
            f"the hub model {repo} is gated: its publisher asks you to accept terms first",
            fix=f"accept them at https://huggingface.co/{repo}, then log in with `hf auth login`",
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"the hub model {repo} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise ModelError(
            f"the hub has no model {repo}, or it is private",
            fix="check the name at https://huggingface.co/models; for a private one log in with `hf auth login`",
        ) from None
    except HFValidationError as error:
        raise ModelError(f"{repo!r} is not a hub id: {error}", fix="a hub id has the form owner/name") from None
    except HfHubHTTPError as error:
        return _from_local_cache(repo, revision, error)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ModelError(
                f"the disk is full: {repo} could not be downloaded",
                where=str(error.filename or "the hub's cache"),
                fix="free some space, or set HF_HOME to a directory on a larger disk",
            ) from error
        return _from_local_cache(repo, revision, error)
    except ModelError:
        raise
    except Exception as error:  # the HTTP client's own errors share no base with OSError
        return _from_local_cache(repo, revision, error)


def _from_local_cache(repo: str, revision: str | None, reason: Exception) -> Path:
    """The snapshot of an earlier download, or the error that says why there is none."""
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=_WANTED,
                ignore_patterns=_UNWANTED,
                local_files_only=True,
            )
        )
    except Exception:
        why = (str(reason).strip() or type(reason).__name__).splitlines()[0]
        raise ModelError(
            f"the hub can't be reached, and {repo} was not downloaded before ({why})",
            where=f"hub model {repo}",
            fix="check the network (HF_HUB_OFFLINE, proxy), or give a local directory or a model of the catalog",
        ) from reason
