"""Files of methods of one's own that are wrong."""

from tests.harness.cli.bad_inputs.inputs import CHECK, Input, study

HEAD = "from methods import Method\n"
INIT = "    def __init__(self, make_net, recipe, *, {arguments}):\n        super().__init__(make_net, recipe)\n"


def method(arguments: str = "", body: str = "    pass\n", head: str = "") -> str:
    """Return the text of a plugin with one method, `mine`."""
    init = INIT.format(arguments=arguments) if arguments else ""
    return f"{HEAD}{head}\nclass Mine(Method):\n{body}{init}"


REFUSED: dict[str, tuple[str, str]] = {
    "no Python": ("this is\n", "plugin mine.py: SyntaxError"),
    "NUL": ("\0", "plugin mine.py: "),
    "nothing": ("", "plugin mine.py: expected one subclass of methods.Method, found 0"),
    "two classes": (method() + "class Other(Method):\n    pass\n", "found 2; name several in a dict METHODS"),
    "an error": ("1 / 0\n", "plugin mine.py: ZeroDivisionError"),
    "sys.exit": ("import sys\nsys.exit()\n", "plugin mine.py: SystemExit"),
    "sys.exit(0)": ("import sys\nsys.exit(0)\n", "plugin mine.py: SystemExit: 0"),
    "GeneratorExit": ("raise GeneratorExit\n", "plugin mine.py: GeneratorExit"),
    "an error of no class that is known": (
        "class Odd(BaseException):\n    def __str__(self):\n        return 3\n\nraise Odd\n",
        "plugin mine.py: Odd",
    ),
    "a __getattr__ that fails": (
        method() + "def __getattr__(name):\n    raise RuntimeError(name)\nMETHODS = {'mine': 3}\n",
        "'mine' is not a subclass of methods.Method",
    ),
    "a version of 5,000 digits": (
        method(body="    version = 10**5000\n"),
        "the version of mine is larger; it must be a whole number from 1 to 1,000,000",
    ),
    "exit with words": ("raise SystemExit('[red]bye[/red]')\n", "plugin mine.py: SystemExit: [red]bye[/red]"),
    "a module that is not there": ("import nowhere_at_all\n", "plugin mine.py: ModuleNotFoundError"),
    "METHODS of a list": (method() + "METHODS = [Mine]\n", "METHODS must be a dict"),
    "METHODS of numbers": (method() + "METHODS = {1: Mine}\n", "could not name a method 1"),
    "METHODS of None": (method() + "METHODS = {None: Mine}\n", "could not name a method None"),
    "METHODS with a hyphen": (method() + "METHODS = {'a-b': Mine}\n", "could not name a method 'a-b'"),
    "METHODS with a keyword": (method() + "METHODS = {'lambda': Mine}\n", "could not name a method 'lambda'"),
    "METHODS of no class": (method() + "METHODS = {'mine': 3}\n", "'mine' is not a subclass of methods.Method"),
    "METHODS of ours": (method() + "METHODS = {'sgd': Mine}\n", "there is a method named 'sgd' already"),
    "an unknown annotation": (
        method("a: 'Nowhere' = 1"),
        "mine: the type of a hyperparameter cannot be read (NameError",
    ),
    "an annotation that fails": (method("a: '1 / 0' = 1"), "mine: the type of a hyperparameter cannot be read"),
    "an annotation in brackets": (method("a: 'list[' = 1"), "mine: the type of a hyperparameter cannot be read"),
    "a tensor as a default": (
        method("a: float = torch.ones(3)", head="import torch\n"),
        "mine: the default of a is a Tensor: write plain values",
    ),
    "an array as a default": (
        method("a: float = numpy.ones(3)", head="import numpy\n"),
        "mine: the default of a is a ndarray: write plain values",
    ),
    "a version of text": (method(body="    version = 'x'\n"), "the version of mine is 'x'"),
    "a version of 0": (method(body="    version = 0\n"), "the version of mine is 0"),
    "about of text": (method(body="    about = 'x'\n"), "mine.about is 'x'"),
    "a space of a list": (method(body="    space = [1]\n"), "mine.space must be a dict of Optuna's distributions"),
    "a space of numbers": (
        method(body="    space = {'K': 3}\n"),
        "mine.space must be a dict of Optuna's distributions",
    ),
    "sys.exit when built": (
        method(body="    def __init__(self, make_net, recipe):\n        raise SystemExit(0)\n"),
        "mine on lenet5: SystemExit: 0",
    ),
    "an error when built": (
        method(body="    def __init__(self, make_net, recipe):\n        raise KeyError('[/red]')\n"),
        "mine on lenet5: KeyError: '[/red]'",
    ),
    "an argument too many": (
        method(body="    def __init__(self, make_net, recipe, other):\n        pass\n"),
        "mine on lenet5: TypeError",
    ),
    "needs that fail": (method(body="    def needs(self):\n        return 1 / 0\n"), "ZeroDivisionError"),
    "needs that exit": (method(body="    def needs(self):\n        raise SystemExit(0)\n"), "SystemExit"),
    "a rate that fails": (method(body="    def lr(self, epoch):\n        return 1 / 0\n"), "ZeroDivisionError"),
}

FILES = {"s.yaml": study()}

PLUGINS = [
    *(
        Input(f"a plugin with {name}", says, (*CHECK, "--plugin", "mine.py"), {**FILES, "mine.py": text})
        for name, (text, says) in REFUSED.items()
    ),
    *(
        Input(
            f"a list of a plugin with {name}",
            REFUSED[name][1],
            ("list", "methods", "--plugin", "mine.py"),
            {"mine.py": REFUSED[name][0]},
        )
        for name in (
            "sys.exit",
            "METHODS of numbers",
            "an unknown annotation",
            "a tensor as a default",
            "about of text",
        )
    ),
    Input(
        "a check of a plugin with sys.exit",
        "plugin mine.py: SystemExit",
        ("check-method", "mine.py"),
        {"mine.py": "exit()"},
    ),
    Input("a plugin that is not there", "plugin no.py: no such file", (*CHECK, "--plugin", "no.py"), FILES),
    Input(
        "a plugin that is a folder", "plugin x.py: no such file", (*CHECK, "--plugin", "x.py"), {**FILES, "x.py/y": ""}
    ),
    Input("a plugin that is no .py", "plugin x.txt: ", (*CHECK, "--plugin", "x.txt"), {**FILES, "x.txt": method()}),
    Input(
        "a plugin with a hyphen",
        "call the file like my_method.py",
        (*CHECK, "--plugin", "a-b.py"),
        {**FILES, "a-b.py": method()},
    ),
    Input("a plugin called by a long name", "plugin ", (*CHECK, "--plugin", "a" * 5000 + ".py"), FILES),
    Input(
        "a value for a type that no study can write",
        "a study cannot write a Module; leave it out",
        CHECK,
        {
            "s.yaml": study(methods="['mine(a=1)']", plugins="[mine.py]"),
            "mine.py": method("a: nn.Module = None", head="from torch import nn\n"),
        },
    ),
    Input(
        "a plugin with a type that no study can write",
        "study s: 2 runs",
        (*CHECK, "--plugin", "mine.py"),
        {**FILES, "mine.py": method("a: nn.Module = None", head="from torch import nn\n")},
        code=0,
    ),
    Input("a plugin", "study s: 2 runs", (*CHECK, "--plugin", "mine.py"), {**FILES, "mine.py": method()}, code=0),
]
