"""What answers for a model: `<model root>/<model>/release.json`, changed in one step, with everything that led to it.

champion   answers, but for the share of keys that
canary     answers
shadow     is scored and logged beside, and never answers
previous   is what a roll-back goes back to
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import xxhash

from feature_repo.records import contract
from infra import files

RELEASE = "release.json"
log = logging.getLogger(__name__)
KEPT = 200
"""Steps of its history a release file keeps."""


class ReleaseError(ValueError):
    """A step that makes no sense from here; the message says what is live and what can be done."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """`at` is ISO 8601, UTC."""

    at: str
    what: str
    why: str = ""


class Release(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Attributes:
        share: of keys that the canary answers, 0 to 1.
        history: oldest first.
        contracts: version → SHA-256 of its `contract.json` when it got its role, which holds the hashes of all its other files. Releases
            older than this field have none.
    """

    champion: int
    previous: int | None = None
    canary: int | None = None
    share: float = 0.0
    shadow: int | None = None
    history: tuple[Step, ...] = ()
    contracts: dict[int, str] = {}

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"the canary's share is {self.share}, not within 0 and 1")

    @property
    def versions(self) -> dict[int, str]:
        """Role by version, of those that serve or stand ready."""
        roles = [(self.previous, "previous"), (self.shadow, "shadow"), (self.canary, "canary"), (self.champion, "champion")]
        return {version: role for version, role in roles if version is not None}

    def answers(self, key: bytes) -> int:
        """The version that answers for a key. A key always gets the same version, and one that the canary answers stays the canary's when the share
        grows.
        """
        if self.canary is None or not self.share:
            return self.champion
        place = xxhash.xxh64_intdigest(key, seed=self.canary) / 2**64
        return self.canary if place < self.share else self.champion


def read(root: Path, model: str) -> Release | None:
    """The model's release; None where no version was ever promoted.

    Raises:
        ReleaseError: the file is none.
    """
    try:
        return files.read_json(root / model / RELEASE, Release)
    except FileNotFoundError:
        return None
    except files.FileError as error:
        raise ReleaseError(f"{error}; promote a version again") from None


def load(root: Path, model: str, version: int, released: Release | None) -> contract.Contract:
    """A version's contract, verified: every file by the contract, the contract by the release where that holds its hash.

    Raises:
        ContractError: there is no such version, its folder does not verify, or it holds another version's contract.
    """
    folder = root / model / str(version)
    if not folder.is_dir():
        known = sorted(int(p.name) for p in (root / model).glob("[0-9]*") if p.name.isdigit())
        if not known:
            raise contract.ContractError(_unknown(root, model))
        raise contract.ContractError(f"there is no version {version} of {model}; there is: {', '.join(map(str, known))}")
    found = contract.load(folder, released.contracts.get(version) if released else None)
    if (found.model, found.version) != (model, version):
        raise contract.ContractError(f"{folder} holds the contract of {found.model} version {found.version}")
    return found


def verified(root: Path, model: str, version: int) -> contract.Contract:
    """As `load`, by the release as it stands now.

    Raises:
        ContractError: its folder does not verify, or the release, which may hold its hash, cannot be read.
    """
    try:
        released = read(root, model)
    except ReleaseError as error:
        raise contract.ContractError(f"version {version} of {model} cannot be verified: {error}") from None
    return load(root, model, version, released)


def champion_if_any(root: Path, model: str) -> int | None:
    """The live version of a model; None where there is none, or where the release cannot be read, which is then said in the log."""
    try:
        return champion(root, model)
    except ReleaseError as error:
        log.warning("model %s: %s", model, error)
        return None


def champion(root: Path, model: str) -> int | None:
    """The live version of a model, or None."""
    found = read(root, model)
    return found.champion if found else None


def live(root: Path, model: str) -> int:
    """The live version of a model, where a command cannot do without.

    Raises:
        ReleaseError: there is none.
    """
    found = champion(root, model)
    if found is None:
        raise ReleaseError(f"no version of {model} is live: run `headrace train`, or `headrace promote {model} VERSION`")
    return found


def promote(root: Path, model: str, version: int, why: str = "") -> Release:
    """Make a version the champion. A canary or shadow of that version ends with it.

    Raises:
        ContractError: its folder does not verify.
    """
    load(root, model, version, None)

    def step(now: Release | None) -> dict[str, Any]:
        load(root, model, version, now)
        if now is None:
            return {"champion": version}
        if now.champion == version:
            return {}
        return {"champion": version, "previous": now.champion} | _ended(now, version)

    return _change(root, model, f"version {version} promoted", why, step, anew=True)


def roll_back(root: Path, model: str, why: str = "") -> Release:
    """Make the version before the champion the champion again; canary and shadow end.

    Raises:
        ReleaseError: there is none before.
    """

    def step(now: Release | None) -> dict[str, Any]:
        if now is None or now.previous is None:
            raise ReleaseError(f"there is no version of {model} to go back to" + (f" before {now.champion}" if now else ""))
        return {"champion": now.previous, "previous": None, "canary": None, "share": 0.0, "shadow": None}

    return _change(root, model, "rolled back", why, step)


def canary(root: Path, model: str, version: int | None, share: float = 0.0, why: str = "") -> Release:
    """Let a version answer for a share of keys; None ends that.

    Raises:
        ContractError: its folder does not verify.
        ReleaseError: it is the champion, or the share is none.
    """
    if version is not None:
        load(root, model, version, None)
        if not 0 < share <= 1:
            raise ReleaseError(f"the share is {share}: give more than 0 and at most 1 (0.1 is ten in a hundred)")

    def step(now: Release | None) -> dict[str, Any]:
        champion = _other(now, model, version)
        if version is not None:
            load(root, model, version, now)
        return {"canary": version, "share": share if version is not None else 0.0, "champion": champion}

    return _change(root, model, f"version {version} answers {share:.0%} of keys" if version is not None else "canary ended", why, step)


def shadow(root: Path, model: str, version: int | None, why: str = "") -> Release:
    """Score and log a version beside the champion; None ends that.

    Raises:
        ContractError: its folder does not verify.
        ReleaseError: it is the champion.
    """
    if version is not None:
        load(root, model, version, None)

    def step(now: Release | None) -> dict[str, Any]:
        champion = _other(now, model, version)
        if version is not None:
            load(root, model, version, now)
        return {"shadow": version, "champion": champion}

    return _change(root, model, f"version {version} in shadow" if version is not None else "shadow ended", why, step)


def _other(now: Release | None, model: str, version: int | None) -> int:
    if now is None:
        raise ReleaseError(f"{model} has no champion yet: promote a version first")
    if version == now.champion:
        raise ReleaseError(f"version {version} of {model} is the champion already")
    return now.champion


def _ended(now: Release, version: int) -> dict[str, Any]:
    ended: dict[str, Any] = {}
    if now.canary == version:
        ended |= {"canary": None, "share": 0.0}
    if now.shadow == version:
        ended |= {"shadow": None}
    return ended


def _change(root: Path, model: str, what: str, why: str, step: Callable[[Release | None], dict[str, Any]], anew: bool = False) -> Release:
    """Make a step, alone. With `anew` a release that cannot be read is put aside, and the step begins a new one."""
    folder = root / model
    if not folder.is_dir():
        raise ReleaseError(_unknown(root, model))
    with files.alone(folder / ".release.lock"):
        try:
            now = read(root, model)
        except ReleaseError as error:
            if not anew:
                raise
            changes, now = step(None), None
            files.put_aside(folder / RELEASE, error)
        else:
            changes = step(now)
        if not changes and now is not None:
            return now
        kept = now.history if now else ()
        history = (*kept, Step(datetime.now(UTC).isoformat(timespec="seconds"), what, why))[-KEPT:]
        made = msgspec.structs.replace(now or Release(**changes), **changes, history=history)
        made = msgspec.structs.replace(made, contracts=_hashes(folder, made))
        files.replace(folder / RELEASE, msgspec.json.format(msgspec.json.encode(made), indent=1))
        return made


def _unknown(root: Path, model: str) -> str:
    others = sorted(p.name for p in root.iterdir() if p.is_dir() and p.name != model) if root.is_dir() else []
    if others:
        return f"there is no model {model!r}; there is: {', '.join(others)}"
    return f"no version of {model!r} is registered yet: run `headrace train`"


def _hashes(folder: Path, made: Release) -> dict[int, str]:
    """The contract's SHA-256 of every version with a role: the one that was noted when it got the role. Releases of before hashes were kept
    have none; there, the one that the file has now.
    """
    found = {}
    for version in made.versions:
        known = made.contracts.get(version)
        with contextlib.suppress(OSError):
            found[version] = known or contract.sha256(folder / str(version) / contract.CONTRACT)
    return found
