"""Makes a folder of libtorch 2.9.0 out of PyTorch's wheels, for builds with `--features libtorch`.

  python3 scripts/setup_libtorch.py [cpu|cuda]     make it, where it is not there yet, and say how to use it
  python3 scripts/setup_libtorch.py [cpu|cuda] --path     print its path alone; exit code 1 where it is not there

The folder lies in sharelora's own cache (SHARELORA_CACHE, else ~/.cache/sharelora). Wheels come through pip, so that its index
settings hold. Only headers and libraries are kept: 0.6 GB for `cpu`, 6 GB for `cuda`, which has a CPU too. A run that was
stopped goes on where it was. Needs Linux on x86-64, pip, and nothing else; this Python's version must be one that PyTorch 2.9.0
has a wheel for, 3.10 to 3.14.
"""

import argparse
import fcntl
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

VERSION = "2.9.0"
# What libtorch_cpu of a wheel with CUDA is linked with.
CPU_NEEDS = ("nvidia-cuda-cupti", "nvidia-cuda-runtime")
# Bytes of disk that the work takes at most: a wheel and what came out of it.
ROOM = {"cpu": 3 << 30, "cuda": 9 << 30}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", nargs="?", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--path", action="store_true", help="print the folder's path alone")
    args = parser.parse_args()

    folder = cache() / (f"libtorch-{VERSION}" + ("-cuda" if args.kind == "cuda" else ""))
    # The root of a wheel, in which the libraries find each other by relative paths.
    libtorch = folder / "torch"
    there = (libtorch / "build-version").is_file()
    if args.path:
        if not there:
            sys.exit(f"{folder} is not there; next: just setup-libtorch {args.kind}")
        print(libtorch)
        return
    if not there:
        make(args.kind, folder)
    print(f"libtorch {VERSION} ({args.kind}) is in {folder}\n")
    print(f"Next: just build-libtorch {args.kind}\nor, for cargo and programs of your own:\n")
    print(f'export LIBTORCH="{libtorch}"\nexport LD_LIBRARY_PATH="{libtorch}/lib"')


def cache():
    """The program's rule: an empty variable counts as none."""
    own = os.environ.get("SHARELORA_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own).absolute() if own else Path(caches).absolute() / "sharelora"


def make(kind, folder):
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        sys.exit("only for Linux on x86-64; elsewhere get libtorch 2.9.0 and name its folder in LIBTORCH")
    if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode:
        sys.exit(f"{sys.executable} has no pip; next: {sys.executable} -m ensurepip, or set SHARELORA_PYTHON")
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True, exist_ok=True)
    lock = open(part / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"another process is making {folder}")
    free = shutil.disk_usage(part).free
    if free < ROOM[kind]:
        sys.exit(f"{part.parent} has {free >> 20} MiB free, {ROOM[kind] >> 20} are needed; SHARELORA_CACHE names another place")

    tree = part / "tree"
    unpack(part, f"torch=={VERSION}", lambda name: torch_member(name, kind))
    libraries = tree / "torch" / "lib"
    with_cuda = any("cu12" in need for need in needs(tree))
    if kind == "cuda" and not with_cuda:
        sys.exit("pip's index gave a PyTorch without CUDA; next: check `pip config list`")
    for need in needs(tree):
        if kind == "cuda" or need.startswith(CPU_NEEDS):
            unpack(part, need, lambda name: re.search(r"/lib/[^/]*\.so[^/]*$", name))
    if kind == "cpu" and with_cuda:
        # The wheel's own libtorch.so wants CUDA; to the linker this stands for the CPU's part.
        (libraries / "libtorch.so").write_text("INPUT(-ltorch_cpu)\n")
    (tree / "torch" / "build-version").write_text(VERSION + "\n")
    os.sync()
    tree.rename(folder)
    shutil.rmtree(part, ignore_errors=True)


def torch_member(name, kind):
    """Headers, and the libraries that a program without Python needs."""
    library = re.fullmatch(r"torch/lib/(lib[^/]*\.so[^/]*)", name)
    if not library:
        return name.startswith("torch/include/")
    if kind == "cpu":
        return library[1].startswith(("libtorch_cpu.", "libc10.", "libgomp"))
    return not library[1].startswith(("libtorch_python", "libshm"))


def needs(tree):
    """The exact versions of NVIDIA's wheels that the unpacked PyTorch asks for."""
    text = (tree / f"torch-{VERSION}.dist-info" / "METADATA").read_text(encoding="utf-8")
    return re.findall(r"^Requires-Dist: (nvidia-[\w-]+==[\w.]+)", text, re.MULTILINE)


def unpack(part, requirement, wanted):
    """Downloads a wheel, unless an earlier run did all of this, and keeps its wanted members and its licences."""
    done = part / f"{requirement}.done"
    if done.exists():
        return
    wheels = part / "wheels"
    print(f"-- {requirement}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d", str(wheels), requirement]
    if subprocess.run(command, stdout=sys.stderr).returncode:
        hint = "PyTorch has wheels for Python 3.10 to 3.14; SHARELORA_PYTHON names another one"
        sys.exit(f"pip could not download {requirement} ({hint}). What was downloaded is kept: the same command goes on.")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if wanted(name) or ".dist-info/" in name]
            archive.extractall(part / "tree", members)
    done.touch()
    shutil.rmtree(wheels)


if __name__ == "__main__":
    main()
