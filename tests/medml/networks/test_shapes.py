"""Networks on shapes alone, each time in a process of its own: what torch imports for them is imported for good."""

from fresh_process import said_by

START = "import sys, torch\nfrom medml.networks.shapes import ALGEBRA, COMPILER, SYMBOLS, shapes_only\n"


def test_a_network_yields_shapes_without_memory_the_compiler_and_sympy():
    said = said_by(
        START + "from torch import nn\n"
        "with shapes_only():\n"
        "    network = nn.Sequential(nn.Conv3d(1, 4, 3), nn.InstanceNorm3d(4), nn.LeakyReLU(), nn.Linear(6, 10**7))\n"
        "    out = network(torch.empty(2, 1, 8, 8, 8))\n"
        "    both = torch.cat([out, out], 1)\n"
        "print(both.device.type, *both.shape, *(name in sys.modules for name in (COMPILER, SYMBOLS, ALGEBRA)))\n"
    )
    assert said == ["meta", "2", "8", "6", "6", str(10**7), "False", "False", "False"]


def test_shapes_that_do_not_fit_are_refused_in_the_words_of_torch():
    said = said_by(
        START + "from contextlib import nullcontext\n"
        "from torch import nn\n"
        "def refusal(network, place):\n"
        "    with place:\n"
        "        try:\n"
        "            network.to('meta')(torch.empty(2, 1, 8, 8, 8, device='meta'))\n"
        "        except RuntimeError as error:\n"
        "            return str(error)\n"
        "pairs = [nn.Conv3d(2, 4, 3), nn.Conv3d(1, 4, 9), nn.Linear(7, 2)]\n"
        "ours = [refusal(network, shapes_only()) for network in pairs]\n"
        "print(ALGEBRA in sys.modules, ours == [refusal(network, nullcontext()) for network in pairs], None in ours)\n"
    )
    assert said == ["False", "True", "False"]


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


def test_answers_about_numbers_are_those_of_torch_and_symbols_are_asked_of_it():
    said = said_by(
        START + "from itertools import product\n"
        "asked = {name: 1 for name in ('expect_true', 'guard_or_false', 'guard_or_true', 'guard_size_oblivious',\n"
        "    'statically_known_true', 'guarding_hint_or_throw', 'has_guarding_hint', 'is_nested_int')}\n"
        "asked |= {'sym_and': 3, 'sym_or': 3, 'sym_eq': 2}\n"
        "with shapes_only():\n"
        "    mine = {name: getattr(sys.modules[SYMBOLS], name) for name in asked}\n"
        "    said = {(name, values): mine[name](*values) for name, count in asked.items()\n"
        "        for values in product((True, False), repeat=count)}\n"
        "    same = mine['sym_eq']([1, 2], (1, 2)), mine['sym_eq']([1, 2], [1, 3]), mine['sym_eq'](3, 3)\n"
        "    print(ALGEBRA in sys.modules and hasattr(sys.modules[ALGEBRA], '__file__'))\n"
        "import torch.fx.experimental.symbolic_shapes as theirs\n"
        "print(all(getattr(theirs, name)(*values) is found for (name, values), found in said.items()), *same)\n"
        "size = theirs.ShapeEnv().create_unbacked_symint()\n"
        "print(mine['has_guarding_hint'](size), theirs.has_guarding_hint(size), mine['is_nested_int'](size))\n"
    )
    assert said == ["False", "True", "True", "False", "True", "False", "False", "False"]


def test_who_imports_sympy_meanwhile_gets_it():
    said = said_by(
        START + "with shapes_only():\n"
        "    import sympy\n"
        "    print(sympy.Symbol('x') + 0, isinstance(sympy.Symbol('x'), sympy.Basic))\n"
        "    print(*torch.cat([torch.empty(2, 3)] * 2).shape)\n"
        "print(isinstance(sympy.Symbol('x'), sympy.Basic), sys.modules[ALGEBRA].Symbol is sympy.Symbol)\n"
    )
    assert said == ["x", "True", "4", "3", "True", "True"]
