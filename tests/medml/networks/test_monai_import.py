"""MONAI without its extras, each time in a process of its own."""

import subprocess
import sys


def _said_by(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_monai_comes_without_its_extras_which_others_can_still_import():
    said = _said_by(
        "import sys\n"
        "from medml.networks.monai_import import MONAI_EXTRAS, import_monai\n"
        "import_monai()\n"
        "print('monai' in sys.modules, any(name in sys.modules for name in MONAI_EXTRAS))\n"
        "import mlflow, pandas, matplotlib.pyplot\n"
        "from monai.networks.nets import DynUNet, SwinUNETR\n"
        "print(pandas.DataFrame({'a': [1]}).shape == (1, 1), bool(mlflow.__version__))\n"
    )
    assert said == ["True", "False", "True", "True"]


def test_extras_that_are_there_already_stay():
    said = _said_by(
        "import sys, pandas\n"
        "from medml.networks.monai_import import import_monai\n"
        "import_monai()\n"
        "print(sys.modules['pandas'] is pandas, 'mlflow' in sys.modules)\n"
    )
    assert said == ["True", "False"]
