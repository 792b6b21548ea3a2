"""Networks on shapes alone, each time in a process of its own: torch's compiler is imported once and for all."""

from fresh_process import said_by

START = "import sys, torch\nfrom medml.networks.shapes import COMPILER, shapes_only\n"


def test_a_network_yields_shapes_without_memory_and_without_the_compiler():
    said = said_by(
        START + "from torch import nn\n"
        "with shapes_only():\n"
        "    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4), nn.LeakyReLU(), nn.Linear(6, 10**7))\n"
        "    out = network(torch.empty(2, 1, 8, 8, 8))\n"
        "    both = torch.cat([out, out], 1)\n"
        "print(both.device.type, *both.shape, COMPILER in sys.modules)\n"
    )
    assert said == ["meta", "2", "8", "6", "6", str(10**7), "False"]


def test_the_compiler_can_be_used_afterwards():
    said = said_by(
        START + "with shapes_only():\n"
        "    torch.cat([torch.empty(2, 3)] * 2)\n"
        "print(COMPILER in sys.modules)\n"
        "torch.cat([torch.empty(2, 3, device='meta')] * 2)\n"  # torch asks for it again: nothing was left behind
        "print(COMPILER in sys.modules, torch.compile(lambda x: x + 1, backend='eager')(torch.zeros(1)).item())\n"
    )
    assert said == ["False", "True", "1.0"]


def test_who_asks_for_more_of_the_compiler_gets_it():
    said = said_by(
        START + "with shapes_only():\n"
        "    torch.cat([torch.empty(2, 3)] * 2)\n"
        "    print(type(torch._dynamo.config.cache_size_limit).__name__)\n"
        "    print(*torch.cat([torch.empty(2, 3)] * 2).shape)\n"
        "print(sys.modules[COMPILER] is torch._dynamo, callable(torch._dynamo.optimize))\n"
    )
    assert said == ["int", "4", "3", "True", "True"]


def test_who_imports_a_part_of_the_compiler_gets_it():
    said = said_by(
        START + "with shapes_only():\n"
        "    import torch._dynamo.utils\n"
        "    print(*torch.cat([torch.empty(2, 3)] * 2).shape)\n"
        "print(sys.modules[COMPILER] is torch._dynamo, callable(torch._dynamo.utils.counters.clear))\n"
    )
    assert said == ["4", "3", "True", "True"]


def test_a_compiler_that_is_there_stays():
    said = said_by(
        START + "import torch._dynamo\n"
        "there = sys.modules[COMPILER]\n"
        "with shapes_only():\n"
        "    print(sys.modules[COMPILER] is there, *torch.cat([torch.empty(2, 3)] * 2).shape)\n"
        "print(sys.modules[COMPILER] is there)\n"
    )
    assert said == ["True", "4", "3", "True"]
