"""The packages with names and artwork: their versions, their licences, and how they come here."""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path


class PackageError(Exception):
    """A package that cannot be had or is not laid out as expected; the message names it and what to do."""


@dataclass(frozen=True)
class Package:
    """One version of an npm package; `licence` is that of what is taken from it, as the package itself says."""

    name: str
    version: str
    what: str
    licence: str


NAMES = Package("emojibase-data", "17.0.0", "names and keywords", "MIT")
GOOGLE = Package(
    "emoji-datasource-google", "16.0.0", "Noto Emoji by Google, for training", "Apache-2.0 (the package: MIT)"
)
TWITTER = Package(
    "emoji-datasource-twitter", "16.0.0", "Twemoji by Twitter, for training", "CC BY 4.0 (the package: MIT)"
)
OPENMOJI = Package("openmoji", "17.0.0", "OpenMoji by HfG Schwäbisch Gmünd, for testing", "CC BY-SA 4.0")
PACKAGES = (NAMES, GOOGLE, TWITTER, OPENMOJI)


def fetch(package: Package, folder: Path) -> Path:
    """The unpacked package below `folder`; fetched by npm unless it is there. Raises PackageError."""
    there = folder / f"{package.name}-{package.version}"
    if there.is_dir():
        return there
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        command = ["npm", "pack", f"{package.name}@{package.version}", "--silent", "--pack-destination", name]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except FileNotFoundError:
            raise PackageError("npm is not installed: apt-get install npm") from None
        except subprocess.CalledProcessError as error:
            reason = (error.stderr or error.stdout).strip()[-300:]
            raise PackageError(f"npm could not fetch {package.name}@{package.version}: {reason}") from None
        except subprocess.TimeoutExpired:
            raise PackageError(f"npm did not fetch {package.name}@{package.version} within 10 minutes") from None
        unpack(next(work.glob("*.tgz")), work / "unpacked")
        (work / "unpacked" / "package").rename(there)
    return there


def unpack(archive: Path, into: Path) -> None:
    """Unpack an npm tarball: all that is in it lies in `package`. Raises PackageError."""
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(into, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise PackageError(f"{archive.name} cannot be unpacked: {error}") from None
    if not (into / "package").is_dir():
        raise PackageError(f"{archive.name} is no npm package: there is no folder `package` in it")
