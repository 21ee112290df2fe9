# SPDX-License-Identifier: MIT
"""Gets and builds all that a run needs, once, below build/.

Every step leaves a stamp that holds what it was made from; a step whose stamp
is current does nothing. Debian's archive is asked only when a stamp is missing.
"""

import os
import re
import subprocess
from pathlib import Path

from . import guest_image, linux
from .base import BUILD, TOP, HarnessError, Phase, command, run_group
from .steps import PACKAGES, fresh, locked, stamp, unpack

KERNELS = {
    "6.1": re.compile(r"linux-image-6\.1\.0-\d+-amd64"),
    "6.12": re.compile(r"linux-image-6\.12\.\d+\+deb12-amd64"),
}
QEMU_CONFIGURE = (
    "--target-list=x86_64-softmmu",
    "--without-default-features",
    "--enable-tcg",
    "--enable-kvm",
    "--enable-modules",
    "--enable-plugins",
    "--enable-fdt=system",
    "--disable-docs",
    "--disable-werror",
    "--with-git-submodules=ignore",
)
RUN_TARGETS = ("pvdirty-qemu", "pvdirty-cli")
E2E_TARGETS = ("pvdirty-abi", "pvdirty-kvm-state")  # what migrations in tests need too
VFIO_TARGETS = ("vfio-tests",)  # needs the source of a kernel of linux.VFIO


def install_packages() -> None:
    """Installs missing Debian packages, or names the command that does."""
    # Its messages are for the user as they stand. dpkg is not to be cut short.
    if run_group([PACKAGES, "install"], grace=60):
        raise HarnessError("")


def _apt_cache(*args: str) -> str:
    done = subprocess.run(
        [PACKAGES, "apt-cache", *args], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise HarnessError(f"apt-cache {' '.join(args)} failed")
    return done.stdout


def _newest_kernel(version: str) -> str:
    """Release of the newest signed amd64 image of a series, like 6.1.0-41-amd64."""
    names = [
        name
        for name in _apt_cache("pkgnames", "linux-image-" + version).split()
        if KERNELS[version].fullmatch(name)
    ]
    if not names:
        raise HarnessError(f"Debian's archive offers no linux-image for {version}")
    newest = max(names, key=lambda n: [int(x) for x in re.findall(r"\d+", n)])
    return newest.removeprefix("linux-image-")


def _kernel(version: str) -> None:
    """build/kernels/<version>: vmlinuz, lib/modules; build/headers/<version>: kdir."""
    image = BUILD / "kernels" / version
    headers = BUILD / "headers" / version
    if stamp(image) and stamp(image) == stamp(headers):
        return
    with Phase(f"getting Debian's {version} kernel and its headers"):
        release = _newest_kernel(version)
        unpack([f"linux-image-{release}"], fresh(image), f"kernel-{version}.log")
        (image / "vmlinuz").symlink_to(f"boot/vmlinuz-{release}")
        depends = _apt_cache("show", "--no-all-versions", f"linux-headers-{release}")
        parts = re.findall(r"\blinux-(?:headers-[\w.+-]+-common|kbuild-[\w.+-]+)", depends)
        unpack(
            [f"linux-headers-{release}", *sorted(set(parts))],
            fresh(headers),
            f"headers-{version}.log",
        )
        _relocate_headers(headers, release)
        (image / ".stamp").write_text(release)
        (headers / ".stamp").write_text(release)


def _relocate_headers(headers: Path, release: str) -> None:
    """Debian's header packages name each other by absolute paths: turn them here."""
    source = headers / "usr" / "src"
    kdir = source / f"linux-headers-{release}"
    for makefile in [*kdir.glob("Makefile"), *kdir.glob(".kernelvariables")]:
        text = makefile.read_text()
        makefile.write_text(re.sub(r"(?<![\w/])/usr/(?=src/|lib/)", f"{headers}/usr/", text))
    for link in [p for d in source.iterdir() for p in d.iterdir() if p.is_symlink()]:
        target = os.readlink(link)
        if target.startswith("/"):
            link.unlink()
            link.symlink_to(headers / target.lstrip("/"))
    (headers / "kdir").write_text(f"{kdir}\n")


def _uapi_headers() -> None:
    """build/uapi: Linux's headers for user space, newer than those of Debian 12 itself.

    <linux/iommufd.h> with dirty tracking came with 6.7, VFIO's PRE_COPY with 6.2.
    """
    package = "linux-libc-dev/bookworm-backports"
    headers = BUILD / "uapi"
    if stamp(headers) == package:
        return
    with Phase("getting the headers of a newer Linux"):
        unpack([package], fresh(headers), "uapi.log")
        (headers / ".stamp").write_text(package)


def _qemu_headers() -> None:
    """build/qemu/src and gen: source of the installed QEMU, its generated headers."""
    query = ["dpkg-query", "-W", "-f", "${source:Version}", "qemu-system-x86"]
    version = subprocess.run(query, stdout=subprocess.PIPE, text=True, check=True).stdout
    qemu = BUILD / "qemu"
    if stamp(qemu) == version:
        return
    with Phase(f"getting the source of QEMU {version}"):
        fresh(qemu)
        command(
            f"downloading the source of the installed qemu-system-x86 ({version})",
            [PACKAGES, "apt-get", "-q", "source", "--download-only", f"qemu={version}"],
            "qemu-source.log",
            cwd=qemu,
        )
        dsc = next(qemu.glob("*.dsc"))
        unpack = ["dpkg-source", "--no-check", "-x", dsc, qemu / "src"]
        command("unpacking QEMU", unpack, "qemu-unpack.log")
        for archive in [p for p in qemu.iterdir() if p.is_file()]:
            archive.unlink()
    with Phase("generating QEMU's headers"):
        gen = fresh(qemu / "gen")
        configure = [qemu / "src" / "configure", *QEMU_CONFIGURE]
        command("configuring QEMU", configure, "qemu-configure.log", cwd=gen)
        query = ["ninja", "-t", "targets", "all"]
        targets = subprocess.run(
            query, cwd=gen, stdout=subprocess.PIPE, text=True, check=True
        ).stdout
        made = re.findall(r"^([^\s:]+\.h): CUSTOM_COMMAND", targets, re.MULTILINE)
        command("generating QEMU's headers", ["ninja", *made], "qemu-headers.log", cwd=gen)
    (qemu / ".stamp").write_text(version)


def _host(targets: tuple[str, ...]) -> None:
    """build/host: library, plug-in, command line, tests; or only some targets."""
    host = BUILD / "host"
    if not (host / "build.ninja").exists():
        command(
            "configuring the host part",
            ["cmake", "-G", "Ninja", "-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-S", TOP, "-B", host],
            "host-configure.log",
        )
    pending = subprocess.run(
        ["ninja", "-C", host, "-n", *targets], stdout=subprocess.PIPE, text=True, check=False
    )
    if "no work to do" in pending.stdout:
        return
    with Phase("building the host part"):
        command("building the host part", ["ninja", "-C", host, *targets], "host-build.log")


def _guest_module(version: str) -> None:
    """build/guest/<version>/pvdirty.ko; make itself knows what is current."""
    out = BUILD / "guest" / version
    kdir = _kdir(version)
    module = out / "pvdirty.ko"
    sources = [p for d in ("guest", "shared") for p in (TOP / d).rglob("*") if p.is_file()]
    newest = max(p.stat().st_mtime for p in sources)
    if module.exists() and module.stat().st_mtime > newest:
        return
    with Phase(f"building the guest module for {version}"):
        out.mkdir(parents=True, exist_ok=True)
        command(
            f"building the guest module for {version}",
            ["make", "-C", TOP / "guest", f"KDIR={kdir}", f"O={out}"],
            f"guest-{version}.log",
        )


def _kdir(version: str) -> str:
    """What a module for this kernel is built against."""
    if version in linux.OURS | linux.VFIO:
        return str(linux.out_of(version))
    return (BUILD / "headers" / version / "kdir").read_text().strip()


def _test_module(version: str, name: str) -> None:
    """build/guest/<version>/<name>: a module for tests; kbuild writes beside what it reads."""
    module = guest_image.test_module(version, name)
    out = module.parent
    kdir = _kdir(version)
    sources = list(guest_image.TEST_MODULES[name].iterdir())
    newest = max(p.stat().st_mtime for p in (*sources, Path(kdir) / "Module.symvers"))
    if module.exists() and module.stat().st_mtime > newest:
        return
    with Phase(f"building the test module {name} for {version}"):
        out.mkdir(parents=True, exist_ok=True)
        for source in sources:
            link = out / source.name
            link.unlink(missing_ok=True)
            link.symlink_to(source)
        command(
            f"building the test module for {version}",
            ["make", "-C", kdir, f"M={out}", "modules"],
            f"test-module-{name}-{version}.log",
        )


def provision(kernels: list[str], tests: bool, more: tuple[str, ...] = ()) -> None:
    """Everything for runs with these kernels (of KERNELS, linux.OURS or linux.VFIO).

    tests: the tests' own programs too; they take far longer to compile.
    more: or some of them.
    """
    with locked():
        install_packages()
        for version in kernels:
            if version in KERNELS:
                _kernel(version)
            else:
                linux.build(version)
        _uapi_headers()
        _qemu_headers()
        _host(() if tests else RUN_TARGETS + more)
        if linux.VFIO.keys() & kernels:
            _host(VFIO_TARGETS)
        for version in kernels:
            if version in KERNELS:
                _guest_module(version)
            for name in (*guest_image.test_modules(version), *guest_image.outer_modules(version)):
                _test_module(version, name)
            if version not in linux.VFIO:  # there is no guest with that
                guest_image.build(version)
