"""What is installed: the wheel, in an environment of its own, beside libraries that are kept for all runs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.servers import ROOT

UV = (sys.executable, "-m", "uv", "--quiet")


def copy_sources(names: Iterable[str], folder: Path) -> Path:
    """Copy files and folders of the checkout, without what was made from them."""
    for name in names:
        here = ROOT / name
        if here.is_dir():
            shutil.copytree(here, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(here, folder / name)
    return folder


def build_wheel(folder: Path) -> Path:
    """Build the wheel as the images do."""
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(folder), str(ROOT)], check=True)
    (built,) = folder.glob("*.whl")
    return built


def environment_with(wheel: Path, folder: Path, *environments: Path) -> Path:
    """Install a wheel into a new environment that has the libraries of others too, and return its folder of programs.

    :param environments: whose libraries they are; the first wins.
    """
    subprocess.run([*UV, "venv", "--python", sys.executable, str(folder)], check=True)
    python = folder / "bin" / "python"
    subprocess.run([*UV, "pip", "install", "--no-deps", "--offline", "--python", str(python), str(wheel)], check=True)
    libraries = [str(path) for each in environments for path in each.glob("lib/*/site-packages")]
    (ours,) = folder.glob("lib/*/site-packages")
    (ours / "libraries.pth").write_text("\n".join(libraries))
    return python.parent


def broken_requirements(programs: Path) -> str:
    """Return what ``pip check`` says of an environment, in which no pip has to be; empty when all fits."""
    check = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
