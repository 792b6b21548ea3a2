"""How a process of ours starts and ends, each seen from outside."""

import subprocess
import sys

from fresh_process import said_by


def test_a_process_looks_for_garbage_rarely_and_not_at_its_end():
    said = said_by(
        "import gc, weakref\n"
        "from medml.interpreter import run_quickly\n"
        "class Ring: pass\n"
        "def ring():\n"
        "    one = Ring(); one.itself = one\n"
        "    return weakref.ref(one)\n"
        "def main():\n"
        "    seen = ring()\n"
        "    [[] for _ in range(5_000)]\n"
        "    print(seen() is not None)\n"
        "    kept = [[] for _ in range(20_000)]\n"
        "    print(seen() is None)\n"
        "    return 3\n"
        "print(run_quickly(main), gc.get_freeze_count() > 1_000)\n"
    )
    assert said == ["True", "True", "3", "True"]


def test_an_exit_passes_through_run_quickly():
    code = "import sys; from medml.interpreter import run_quickly; run_quickly(lambda: sys.exit(7))"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7


def test_garbage_is_sought_again_after_imports_but_not_among_them():
    said = said_by(
        "import gc\n"
        "from medml.interpreter import imported_for_good\n"
        "try:\n"
        "    with imported_for_good():\n"
        "        print(gc.isenabled())\n"
        "        kept = [[] for _ in range(1_000)]\n"
        "        import medml.nothing\n"
        "except ImportError:\n"
        "    print(gc.isenabled(), gc.get_freeze_count() > 1_000)\n"
    )
    assert said == ["False", "True", "True"]
