"""MONAI without its extras, each time in a process of its own."""

from fresh_process import said_by


def test_monai_comes_without_its_extras_which_others_can_still_import():
    said = said_by(
        "import sys\n"
        "from medml.networks.monai_import import MONAI_EXTRAS, import_monai\n"
        "import_monai()\n"
        "print('monai' in sys.modules, any(name in sys.modules for name in MONAI_EXTRAS))\n"
        "import mlflow, pandas, matplotlib.pyplot, scipy.optimize, skimage.measure, sklearn\n"
        "print(pandas.DataFrame({'a': [1]}).shape == (1, 1), bool(mlflow.__version__))\n"
    )
    assert said == ["True", "False", "True", "True"]


def test_extras_that_are_there_already_stay():
    said = said_by(
        "import sys, pandas\n"
        "from medml.networks.monai_import import import_monai\n"
        "import_monai()\n"
        "print(sys.modules['pandas'] is pandas, 'mlflow' in sys.modules)\n"
    )
    assert said == ["True", "False"]


def test_what_we_take_from_monai_works_without_its_extras():
    said = said_by(
        "from medml.networks.monai_import import MONAI_EXTRAS, import_monai\n"
        "import_monai()\n"
        "import sys, torch\n"
        "from monai.data.utils import compute_importance_map, dense_patch_slices\n"
        "from monai.networks.nets import SwinUNETR, ViT, resnet18\n"
        "from monai.transforms import Resize\n"
        "from monai.visualize import GradCAM, OcclusionSensitivity\n"
        "swin = SwinUNETR(1, 2, feature_size=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))\n"
        "print(*swin(torch.zeros(1, 1, 64, 64, 64)).shape)\n"
        "print(*ViT(1, (16, 16), (8, 8), 24, 48, 1, 2, classification=True, num_classes=3, spatial_dims=2)"
        "(torch.zeros(1, 1, 16, 16))[0].shape)\n"
        "print(*Resize((4, 6), mode='bilinear')(torch.zeros(1, 8, 8)).shape)\n"
        "print(*compute_importance_map((4, 4), mode='gaussian').shape)\n"
        "print(len(dense_patch_slices((4, 8), (4, 4), (4, 4))))\n"
        "net = resnet18(spatial_dims=2, n_input_channels=1, num_classes=2).eval()\n"
        "print(*GradCAM(net, 'layer4')(torch.rand(1, 1, 32, 32)).shape)\n"
        "print(OcclusionSensitivity(net, mask_size=8, n_batch=4, verbose=False)(torch.rand(1, 1, 32, 32))[0].ndim)\n"
        "print(any(name in sys.modules for name in MONAI_EXTRAS if name != 'scipy'))\n"
    )
    assert " ".join(said) == "1 2 64 64 64 1 3 1 4 6 4 4 2 1 1 32 32 4 False"
