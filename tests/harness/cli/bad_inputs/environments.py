"""Terminals, folders and environment variables that are unusual."""

from tests.harness.cli.bad_inputs.inputs import CHECK, Input, study

LABELS = study(methods="[{'η → 漢字 🙂': sgd}]")
FILES: dict[str, str | bytes] = {"s.yaml": LABELS}
TRAIN = ("run", "s.yaml", "--engine", "processes")

ENVIRONMENTS = [
    *(
        Input(f"a terminal in {encoding}", says, CHECK, FILES, code=0, encoding=encoding)
        for encoding, says in (
            ("ascii", "? ? ?? ?"),
            ("latin-1", "? ? ?? ?"),
            ("cp1252", "? ? ?? ?"),
            ("utf-8", "η → 漢字 🙂"),
        )
    ),
    *(
        Input(f"a list of {what} in ASCII", says, ("list", what), code=0, encoding="ascii", seconds=30.0)
        for what, says in (("methods", "swa(METHOD)"), ("models", "lenet5"), ("datasets", "digits"))
    ),
    *(
        Input(f"{command} --help in ASCII", "Usage: ", (command, "--help"), code=0, encoding="ascii")
        for command in ("run", "tune", "plot", "check-method")
    ),
    Input("an error in ASCII", "unknown study '??'", ("run", "ηθ"), encoding="ascii"),
    Input(
        "a wrong option in ASCII", "Invalid value for '--engine'", (*CHECK, "--engine", "η"), FILES, encoding="ascii"
    ),
    *(
        Input(f"{width} columns", "", ("status", "s.yaml"), FILES, {"COLUMNS": width}, 0)
        for width in ("20", "5", "1", "0", "-3", "many", "1000000")
    ),
    *(
        Input(f"a list of {what} in {width} columns", "", ("list", what), {}, {"COLUMNS": width}, 0, seconds=30.0)
        for what in ("methods", "models")
        for width in ("20", "3", "1")
    ),
    *(Input(f"help in {width} columns", "", ("run", "--help"), {}, {"COLUMNS": width}, 0) for width in ("20", "1")),
    *(
        Input(f"${name}={value}", f"${name} is {value!r}: it must be a number from 1 on", TRAIN, FILES, {name: value})
        for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK")
        for value in ("0", "-1", "many", "1.5", "9" * 30, "²")
    ),
    Input(
        "$MLFLOW_TRACKING_URI with a password",
        "u:***@h/d",
        ("leaderboard", "s.yaml"),
        FILES,
        {"MLFLOW_TRACKING_URI": "postgresql://u:pw@h/d"},
    ),
    Input(
        "$MLFLOW_TRACKING_URI of nothing",
        "no tracked runs",
        ("leaderboard", "s.yaml"),
        FILES,
        {"MLFLOW_TRACKING_URI": ""},
    ),
    Input("$ECON_CACHE that is a file", "study s: 1 runs", CHECK, FILES, {"ECON_CACHE": "s.yaml"}, 0),
    Input("$NO_COLOR and $TERM", "study s: 1 runs", CHECK, FILES, {"NO_COLOR": "1", "TERM": "dumb"}, 0),
    *(
        Input(
            f"a folder called {name!r}",
            "study s: 1 runs",
            ("run", f"{name}/s.yaml", "--dry-run"),
            {f"{name}/s.yaml": study()},
            code=0,
        )
        for name in ("a%20b", "a%2Fb", "a?b", "a#b", "a b", "[red]", ":bomb:", "ηθ", "a&b=c;d")
    ),
]
