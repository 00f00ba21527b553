"""Which build of torch setup takes, on machines that differ in what is there and within reach."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "setup_venv.py"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


setup_venv = load(SCRIPT)


def never_asked() -> bool:
    raise AssertionError("this costs network and is not needed here")


def machine(**differences):
    usual = {
        "installed": "",
        "pinned": "2.13.0",
        "is_linux": True,
        "has_accelerator": False,
        "index_has_cpu_build": never_asked,
        "cpu_index_answers": never_asked,
    }
    return setup_venv.Machine(**{**usual, **differences})


def test_torch_that_fits_stays_and_nothing_is_asked():
    choice = setup_venv.choose_torch("auto", machine(installed="2.7.1+cu128"))
    assert choice.pip_args == ()


@pytest.mark.parametrize("installed", ["", "1.13.1", "2.6.0+cpu", "broken"])
def test_torch_that_is_too_old_or_half_installed_is_replaced(installed):
    here = machine(installed=installed, index_has_cpu_build=lambda: True)
    assert setup_venv.choose_torch("auto", here).pip_args == ("torch==2.13.0+cpu",)


def test_an_accelerator_takes_what_pip_takes_and_hears_its_size():
    choice = setup_venv.choose_torch("auto", machine(has_accelerator=True))
    assert choice.pip_args == ("torch==2.13.0",)
    assert "GB" in choice.reason


def test_without_accelerator_the_cpu_index_is_used_when_it_answers():
    here = machine(index_has_cpu_build=lambda: False, cpu_index_answers=lambda: True)
    choice = setup_venv.choose_torch("auto", here)
    assert choice.pip_args == ("torch==2.13.0+cpu", "--index-url", setup_venv.CPU_INDEX)


def test_without_any_cpu_build_pips_own_choice_is_taken_and_its_size_said():
    here = machine(index_has_cpu_build=lambda: False, cpu_index_answers=lambda: False)
    choice = setup_venv.choose_torch("auto", here)
    assert choice.pip_args == ("torch==2.13.0",)
    assert "GB" in choice.reason


def test_outside_linux_no_cpu_build_is_looked_for():
    choice = setup_venv.choose_torch("auto", machine(is_linux=False))
    assert choice.pip_args == ("torch==2.13.0",)


def test_torch_cpu_asked_for_is_taken_on_a_machine_with_an_accelerator():
    here = machine(has_accelerator=True, index_has_cpu_build=lambda: True)
    assert setup_venv.choose_torch("cpu", here).pip_args == ("torch==2.13.0+cpu",)


def test_torch_cpu_asked_for_replaces_another_build_and_keeps_its_own():
    here = machine(installed="2.13.0+cu130", index_has_cpu_build=lambda: True)
    assert setup_venv.choose_torch("cpu", here).pip_args == ("torch==2.13.0+cpu",)
    assert setup_venv.choose_torch("cpu", machine(installed="2.13.0+cpu")).pip_args == ()


def test_torch_cpu_asked_for_and_nowhere_to_be_had_is_an_error_with_the_fix():
    here = machine(index_has_cpu_build=lambda: False, cpu_index_answers=lambda: False)
    with pytest.raises(setup_venv.SetupError, match="TORCH=default"):
        setup_venv.choose_torch("cpu", here)


def test_a_requirement_asked_for_is_taken_as_it_is():
    choice = setup_venv.choose_torch("torch==2.12.1", machine(installed="2.13.0"))
    assert choice.pip_args == ("torch==2.12.1",)


def test_pins_follow_the_torch_that_is_there_and_leave_the_sites_own_alone():
    constraints = "# why\naiohttp==3.14.5\nprometheus_client==0.26.0\ntorch==2.13.0\n"
    pins = setup_venv.pins_for(constraints, "2.11.0+cu130", frozenset({"prometheus-client"}))
    assert pins == "aiohttp==3.14.5\ntorch==2.11.0+cu130\n"


def test_constraints_pin_torch():
    constraints = (SCRIPT.parent.parent / "constraints.txt").read_text(encoding="utf-8")
    assert setup_venv.version_fits(setup_venv.pinned_version(constraints, "torch"))
    with pytest.raises(setup_venv.SetupError, match="nothing-of-the-kind"):
        setup_venv.pinned_version(constraints, "nothing-of-the-kind")
