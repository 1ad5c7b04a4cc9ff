"""The CPUs that a process may use: SLURM's, a container's quota by both versions of cgroups, or all."""

import os

import pytest

from data.files.usable_cpus import cpu_quota, threads_asked_for, usable_cpus

V2, V1 = "0::{path}\n", "5:memory:{path}\n4:cpu,cpuacct:{path}\n0::/\n"


@pytest.fixture(autouse=True)
def sixty_four_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def write(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": V2.format(path="/")}, None),
        ({"proc/self/cgroup": V2.format(path="/"), "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2.0),
        ({"proc/self/cgroup": V2.format(path="/"), "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": V2.format(path="/a/b"), "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": V2.format(path="/a/b"),
                "sys/fs/cgroup/a/cpu.max": "800000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
            },
            3.0,
        ),
        (
            {
                "proc/self/cgroup": V1.format(path="/docker/0123"),  # as seen from outside of the container
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": V1.format(path="/job"),
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "nonsense\n0:\n"}, None),
        ({"proc/self/cgroup": V2.format(path="/"), "sys/fs/cgroup/cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, quota):
    assert cpu_quota(write(tmp_path, files)) == quota


def test_two_of_64_cores_are_two(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": V2.format(path="/"), "sys/fs/cgroup/cpu.max": "200000 100000\n"})
    assert usable_cpus({}, root) == (2, "the container's CPU quota")
    assert str(usable_cpus({}, root)) == "2 (the container's CPU quota)"
    assert usable_cpus({}, tmp_path / "nowhere") == (64, "cores")


def test_less_than_a_core_is_one(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": V2.format(path="/"), "sys/fs/cgroup/cpu.max": "50000 100000\n"})
    assert usable_cpus({}, root).number == 1


def test_slurm_comes_before_the_quota_and_never_gives_more_than_there_are(tmp_path):
    root = write(tmp_path, {"proc/self/cgroup": V2.format(path="/"), "sys/fs/cgroup/cpu.max": "200000 100000\n"})
    assert usable_cpus({"SLURM_CPUS_PER_TASK": "8"}, root) == (8, "SLURM_CPUS_PER_TASK")
    assert usable_cpus({"SLURM_CPUS_PER_TASK": "128"}, root) == (64, "cores")
    assert usable_cpus({"SLURM_CPUS_PER_TASK": ""}, root).number == 2


@pytest.mark.parametrize(("text", "count"), [("4", 4), (" 4 ", 4), ("4,2", 4), ("", None), (None, None)])
def test_threads_that_openmp_is_to_use(text, count):
    assert threads_asked_for({} if text is None else {"OMP_NUM_THREADS": text}) == count


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5", "9" * 30, "²", ",4"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"^\$OMP_NUM_THREADS is .*: it must be a number from 1 on"):
        threads_asked_for({"OMP_NUM_THREADS": text})
