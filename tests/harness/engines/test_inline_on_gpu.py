"""The engine inline on a GPU: runs are in one process that is replaced. A stand-in takes the place of that process."""

from harness.engines import Inline, inline


class Recorder:
    """Takes the place of `Processes`."""

    made: tuple[object, ...] = ()
    ran: tuple[object, ...] = ()

    def __init__(self, *arguments):
        Recorder.made = arguments

    def run(self, *arguments):
        Recorder.ran = arguments


def test_runs_on_a_gpu_are_in_one_process_beside_the_driver(monkeypatch):
    """After some errors a process cannot use its GPU any more; `Processes` replaces it after each failure there."""
    from harness.running.settings import Settings

    monkeypatch.setattr(inline, "Processes", Recorder)
    settings = Settings(device="cuda:1")
    Inline(3).run("schedule", settings, "observer")
    assert Recorder.made == (1, 3, ["cuda:1"])
    assert Recorder.ran == ("schedule", settings, "observer")
