"""What this machine has, and what is wrong with it: `lookhear doctor`."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Verdict = Literal["ok", "note", "problem"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's report. `advice` says what to do where the verdict is not ok."""

    name: str
    value: str
    verdict: Verdict = "ok"
    advice: str = ""


def examine(folder: Path = Path()) -> list[Finding]:
    """Looks at this machine and at `folder`, where results would be written.

    A check that itself fails becomes a finding with verdict "problem"; nothing is raised.
    """
    checks: list[Callable[[], list[Finding]]] = [
        _system,
        _versions,
        _compute,
        _codecs,
        lambda: [
            _disk("free space here", folder),
            _disk("free space for temporary files", Path(tempfile.gettempdir())),
        ],
    ]
    findings = []
    for check in checks:
        try:
            findings += check()
        except Exception as error:  # the doctor must finish its round whatever is broken
            name = getattr(check, "__name__", "disk").lstrip("_")
            findings.append(
                Finding(
                    name=name,
                    value=f"{type(error).__name__}: {error}",
                    verdict="problem",
                    advice="please report this",
                )
            )
    return findings


def _system() -> list[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    python = platform.python_version()
    old = sys.version_info < (3, 11)
    return [
        Finding(name="system", value=f"{platform.system()} {platform.release()} {platform.machine()}"),
        Finding(
            name="python",
            value=python,
            verdict="problem" if old else "ok",
            advice="use 3.11 or newer" if old else "",
        ),
        Finding(name="cores", value=str(cores)),
        _memory(),
    ]


def _memory() -> Finding:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return Finding(name="memory", value="unknown on this system")
    gigabytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    small = gigabytes < 4
    advice = "the demo wants about 4 GB; use fewer workers" if small else ""
    return Finding(name="memory", value=f"{gigabytes:.1f} GB", verdict="note" if small else "ok", advice=advice)


def _versions() -> list[Finding]:
    findings = []
    for package, module in [
        ("lookhear", "lookhear"),
        ("torch", "torch"),
        ("av", "av"),
        ("lancedb", "lancedb"),
        ("huggingface_hub", "huggingface_hub"),
        ("safetensors", "safetensors"),
        ("tyro", "tyro"),
        ("rich", "rich"),
        ("numpy", "numpy"),
        ("pillow", "PIL"),
        ("scikit-learn", "sklearn"),
        ("matplotlib", "matplotlib"),
    ]:
        try:
            importlib.import_module(module)
            findings.append(Finding(name=package, value=importlib.metadata.version(package)))
        except Exception as error:  # a broken binary wheel raises OSError, not ImportError
            findings.append(
                Finding(
                    name=package,
                    value=f"does not load: {error}",
                    verdict="problem",
                    advice=f"python -m pip install --force-reinstall {package}",
                )
            )
    return findings


def _compute() -> list[Finding]:
    import torch

    from lookhear.device import pick_device, pick_dtype

    device = pick_device("auto")
    dtype = pick_dtype("auto", device)
    findings = [Finding(name="torch threads", value=str(torch.get_num_threads()))]
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(i)
            findings.append(
                Finding(name=f"gpu {i}", value=f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
            )
    else:
        findings.append(Finding(name="gpu", value="none", verdict="note", advice="everything works on the CPU, slower"))
    bf16 = dtype == torch.bfloat16
    findings.append(
        Finding(
            name="bfloat16",
            value="used" if bf16 else f"not used on this {device.type}",
            verdict="ok" if bf16 else "note",
            advice="" if bf16 else "training runs in float32, about three times slower than on a CPU with AMX",
        )
    )
    return findings


def _codecs() -> list[Finding]:
    from lookhear.media.encode import missing_codecs

    missing = missing_codecs()
    return [
        Finding(
            name="codecs",
            value="missing: " + ", ".join(missing) if missing else "all that lookhear is tested with",
            verdict="problem" if missing else "ok",
            advice="install PyAV from its wheel (python -m pip install --only-binary :all: av)" if missing else "",
        )
    ]


def _disk(name: str, folder: Path) -> Finding:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    gigabytes = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        return Finding(name=name, value=f"{existing} is read-only", verdict="problem", advice="run in another folder")
    little = gigabytes < 1
    advice = "the demo needs about 0.3 GB, a store about 0.3 GB for 1,000 clips" if little else ""
    return Finding(
        name=name,
        value=f"{gigabytes:.1f} GB in {existing}",
        verdict="problem" if little else "ok",
        advice=advice,
    )
