"""What every runtime promises, tried on each of them with real containers."""

import os
import stat
from pathlib import Path
from subprocess import TimeoutExpired

import pytest

from tests.runtimes.machine import CONFINED, ROOT, Machine, processes_of
from tests.wait import wait_until
from worker.runtimes.base import Identity, ImageRequest
from worker.runtimes.commands import run_command
from worker.runtimes.errors import ImageNotFound, ImageUnusable, RuntimeMissing
from worker.runtimes.process import ProcessRuntime

ODD_ENV = {
    "QUOTES": """it's "so" `id` $(id) $HOME ${HOME}""",
    "LINES": "first\nsecond\n\n",
    "EQUAL": "a=b,c=d, e",
    "BLANK": "  both ends  ",
    "BACKSLASH": r"\n \\ \$",
    "UNICODE": "žluťoučký ☃",
    "FROM_IMAGE": "overridden",
}

root_only = pytest.mark.skipif(not ROOT, reason="slots have uids of their own only under root")


class RuntimeContract:
    """Subclassed once per runtime; `name` is its public name."""

    name: str
    missing_command_code: int

    def test_program_exits_with_code_gives_code(self, machine: Machine) -> None:
        assert machine.run(self.name, "sh", "-c", "exit 42").code == 42

    def test_program_killed_by_signal_gives_128_plus_signal(self, machine: Machine) -> None:
        assert machine.run(self.name, "sh", "-c", "kill -9 $$").code == 137

    def test_output_streams_stay_apart(self, machine: Machine) -> None:
        ended = machine.run(self.name, "sh", "-c", "echo out; echo err >&2")
        assert (ended.out, ended.err) == ("out\n", "err\n")

    def test_odd_environment_arrives_unchanged(self, machine: Machine) -> None:
        names = list(ODD_ENV)
        script = "; ".join(f'printf "%s\\0" "${name}"' for name in names)
        ended = machine.run(self.name, "sh", "-c", script, env=ODD_ENV)
        assert dict(zip(names, ended.out.split("\0"), strict=False)) == ODD_ENV

    def test_environment_is_not_in_argv(self, machine: Machine) -> None:
        request = machine.container(self.name, command=("true",), env={"TOKEN": "hush-hush"})
        launch = machine.runtimes[self.name].launch(request)
        assert "hush-hush" not in " ".join(launch.argv)

    def test_host_environment_does_not_leak(
        self, machine: Machine, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOST_SECRET", "leaked")
        ended = machine.run(self.name, "env", env={"WANTED": "1"})
        assert "WANTED=1" in ended.out.splitlines()
        assert "leaked" not in ended.out

    def test_unusable_names_do_not_harm_the_others(self, machine: Machine) -> None:
        env = {"a.b": "1", "BASH_FUNC_x%%": "() { :; }", "GOOD": "yes", "": "x"}
        assert "GOOD=yes" in machine.run(self.name, "env", env=env).out.splitlines()

    def test_path_of_request_wins(self, machine: Machine) -> None:
        ended = machine.run(
            self.name, "sh", "-c", "echo $PATH", env={"PATH": "/opt/x:/bin:/usr/bin"}
        )
        assert ended.out.startswith("/opt/x:/bin")

    @pytest.mark.contract("S29", "S31", "S32", "S118")
    def test_home_and_tmp_are_fixed(self, machine: Machine) -> None:
        ended = machine.run(
            self.name,
            *("sh", "-c", "echo $HOME $TMP $TEMP $TMPDIR $PWD $(pwd)"),
            env={"HOME": "/root", "TMP": "/x"},
        )
        assert ended.out.split() == self.expected_places(machine)

    @pytest.mark.contract("S34")
    def test_workdir_relative_is_below_home(self, machine: Machine) -> None:
        request = machine.container(self.name, command=("pwd",), workdir="a b/c")
        made = request.scratch / "a b" / "c"
        made.mkdir(parents=True)
        for path in (made, made.parent):
            os.chown(path, request.identity.uid, request.identity.gid)
        with machine.start(request) as process:
            out, _ = process.communicate(timeout=60)
        assert out.strip().endswith("/a b/c")

    def test_workdir_absolute_is_kept(self, machine: Machine) -> None:
        assert machine.run(self.name, "pwd", workdir="/etc").out == "/etc\n"

    def test_missing_workdir_fails_without_running(self, machine: Machine) -> None:
        request = machine.container(self.name, command=("echo", "ran"), workdir="/nonesuch")
        try:
            with machine.start(request) as process:
                out, _ = process.communicate(timeout=60)
        except FileNotFoundError:
            return
        assert (out, process.returncode) == ("", self.missing_command_code)

    def test_missing_command_gives_known_code(self, machine: Machine) -> None:
        ended = machine.run(self.name, "no-such-program")
        assert ended.code == self.missing_command_code
        assert "no-such-program" in ended.err

    def test_scratch_is_shared_with_host(self, machine: Machine) -> None:
        request = machine.container(self.name, command=("sh", "-c", "cat in; echo out >out"))
        (request.scratch / "in").write_text("given\n")
        with machine.start(request) as process:
            out, _ = process.communicate(timeout=60)
        written = request.scratch / "out"
        assert (out, written.read_text()) == ("given\n", "out\n")
        assert written.stat().st_uid == request.identity.uid

    def test_term_lets_program_end_itself(self, machine: Machine) -> None:
        script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
        request = machine.container(self.name, command=("sh", "-c", script))
        whole_group = machine.runtimes[self.name].launch(request).signal_group
        with machine.start(request) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            (os.killpg if whole_group else os.kill)(process.pid, 15)
            try:
                out, _ = process.communicate(timeout=20)
            except TimeoutExpired:
                process.kill()
                raise
        assert (out, process.returncode) == ("bye\n", 5)

    def expected_places(self, machine: Machine) -> list[str]:
        return ["/home/user", "/tmp", "/tmp", "/tmp", "/home/user", "/home/user"]

    def assert_nothing_left(self, identity: Identity) -> None:
        if ROOT:
            wait_until(lambda: not processes_of(identity.uid), timeout=10)


class ContainerContract(RuntimeContract):
    """What only runtimes with images and namespaces promise."""

    def test_background_process_does_not_outlive_program(self, machine: Machine) -> None:
        request = machine.container(self.name, command=("sh", "-c", "sleep 600 & exit 3"), slot=1)
        with machine.start(request) as process:
            process.wait(timeout=30)
        assert process.returncode == 3
        self.assert_nothing_left(request.identity)

    def test_top_process_killed_ends_whole_tree(self, machine: Machine) -> None:
        script = "sleep 600 & (setsid sleep 601 &); echo ready; sleep 602"
        request = machine.container(self.name, command=("sh", "-c", script), slot=1)
        with machine.start(request) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.kill()
        self.assert_nothing_left(request.identity)
        if ROOT:
            machine.runtimes[self.name].clean(request.identity)
            left = [path for path in Path("/tmp").iterdir() if "proot" in path.name]
            assert request.identity.uid not in {path.lstat().st_uid for path in left}

    @pytest.mark.contract("S8")
    def test_no_command_runs_entrypoint_with_image_command(self, machine: Machine) -> None:
        assert machine.run(self.name, image="test/entry").out == "<fixed>\n<default>\n"

    def test_args_without_command_replace_image_command(self, machine: Machine) -> None:
        args = ("a b", "$HOME", "it's", "*")
        ended = machine.run(self.name, image="test/entry", args=args)
        assert ended.out == "<fixed>\n<a b>\n<$HOME>\n<it's>\n<*>\n"

    def test_args_follow_command(self, machine: Machine) -> None:
        ended = machine.run(self.name, "/bin/show", "x", image="test/entry", args=("y z", "\n"))
        assert ended.out == "<x>\n<y z>\n<\n>\n"

    def test_image_without_entrypoint_runs_its_command(self, machine: Machine) -> None:
        assert machine.run(self.name).out == "default\n"

    def test_image_environment_is_there(self, machine: Machine) -> None:
        assert machine.run(self.name, "sh", "-c", "echo $FROM_IMAGE").out == "image\n"

    def test_empty_value_wins_over_image(self, machine: Machine) -> None:
        ended = machine.run(self.name, "sh", "-c", "echo [$FROM_IMAGE]", env={"FROM_IMAGE": ""})
        assert ended.out == "[]\n"

    def test_loader_variables_reach_the_program_alone(self, machine: Machine) -> None:
        env = {"LD_PRELOAD": "/none/such.so", "PROOT_NO_SECCOMP": "1", "LD_LIBRARY_PATH": "/my/lib"}
        script = "echo $LD_PRELOAD $PROOT_NO_SECCOMP $LD_LIBRARY_PATH"
        ended = machine.run(self.name, "sh", "-c", script, env=env)
        assert ended.out.startswith("/none/such.so 1 /my/lib")
        assert ended.err == ""

    @pytest.mark.contract("S28", "S30")
    def test_image_user_and_workdir_do_not_matter(self, machine: Machine) -> None:
        ended = machine.run(self.name, "sh", "-c", "id -u; pwd", image="test/entry")
        assert ended.out == f"{machine.slot(0).uid}\n/home/user\n"

    def test_user_has_an_account_inside(self, machine: Machine) -> None:
        ended = machine.run(self.name, "sh", "-c", "id -un && echo ~")
        assert ended.code == 0
        assert ended.out.endswith("/home/user\n")

    @pytest.mark.contract("S32")
    def test_tmp_is_private_and_writable(self, machine: Machine) -> None:
        request = machine.container(
            self.name, command=("sh", "-c", "ls -A /tmp; echo x >/tmp/mine")
        )
        with machine.start(request) as process:
            out, _ = process.communicate(timeout=60)
        assert (out, process.returncode) == ("", 0)
        assert (request.tmp / "mine").read_text() == "x\n"

    def test_shared_memory_is_private(self, machine: Machine) -> None:
        machine.run(self.name, "sh", "-c", f"echo x >/dev/shm/{machine.room.name}")
        assert not Path("/dev/shm", machine.room.name).exists()

    def test_other_processes_are_invisible(self, machine: Machine) -> None:
        ended = machine.run(self.name, "sh", "-c", f"cat /proc/{os.getpid()}/cmdline")
        assert ended.code != 0

    def test_unsupported_image_name_is_not_found(self, machine: Machine) -> None:
        with pytest.raises(ImageNotFound):
            machine.cache().acquire(self.name, machine.image("Not A Name!"))

    def test_absent_image_is_not_found(self, machine: Machine) -> None:
        with pytest.raises(ImageNotFound):
            machine.cache().acquire(self.name, machine.image("test/absent:1"))

    @root_only
    def test_other_slots_files_cannot_be_read(self, machine: Machine) -> None:
        other = machine.container(self.name, command=("true",), slot=2)
        (other.scratch / "secret").write_text("theirs")
        ended = machine.run(self.name, "cat", str(other.scratch / "secret"), slot=1)
        assert ended.code != 0
        assert "theirs" not in ended.out

    @root_only
    def test_image_on_host_has_no_setuid_and_no_writable_files(self, machine: Machine) -> None:
        request = machine.container(self.name, command=("true",))
        modes = [path.lstat() for path in request.image.path.rglob("*") if not path.is_symlink()]
        assert modes
        assert not any(mode.st_mode & (stat.S_ISUID | stat.S_ISGID | 0o022) for mode in modes)


class TestApptainer(ContainerContract):
    name = "singularity"
    missing_command_code = 255

    @pytest.mark.contract("S33")
    def test_container_file_system_is_read_only(self, machine: Machine) -> None:
        assert (
            machine.run(self.name, "sh", "-c", "touch /opt-x || touch /etc/x || exit 9").code == 9
        )

    def test_only_scratch_and_tmp_of_host_are_there(self, machine: Machine) -> None:
        ended = machine.run(self.name, "sh", "-c", f"ls /home; ls -A /root; ls -d {machine.room}")
        assert ended.out == "user\n"


class TestUdocker(ContainerContract):
    name = "udocker"
    missing_command_code = 127

    @pytest.mark.contract("S27")
    def test_container_file_system_is_writable(self, machine: Machine) -> None:
        script = "mkdir /opt && echo x >/opt/f && echo y >/var/f && cat /opt/f /var/f"
        assert machine.run(self.name, "sh", "-c", script).out == "x\ny\n"

    def test_writes_stay_in_one_container(self, machine: Machine) -> None:
        machine.run(self.name, "sh", "-c", "echo x >/var/mine")
        assert machine.run(self.name, "ls", "/var/mine").code != 0

    def test_not_executable_command_gives_126(self, machine: Machine) -> None:
        assert machine.run(self.name, "/etc/passwd").code == 126

    def test_singularity_image_is_refused(self, machine: Machine) -> None:
        path = machine.room / "image.sif"
        path.write_bytes(b"x")
        with pytest.raises(ImageUnusable):
            machine.cache().acquire(self.name, ImageRequest(image=str(path)))


class TestUdockerConfined(ContainerContract):
    name = CONFINED
    missing_command_code = 255

    @pytest.mark.contract("S27")
    def test_container_file_system_is_writable(self, machine: Machine) -> None:
        script = "mkdir /opt && echo x >/opt/f && echo y >/var/f && cat /opt/f /var/f"
        assert machine.run(self.name, "sh", "-c", script).out == "x\ny\n"

    def test_host_directories_are_out_of_reach(self, machine: Machine) -> None:
        assert machine.run(self.name, "ls", "-d", str(machine.room)).code != 0


class TestProcess(RuntimeContract):
    name = "process"
    missing_command_code = 127

    def expected_places(self, machine: Machine) -> list[str]:
        job = machine.room / f"job{machine.containers}"
        tmp, home = str(job / "tmp"), str(job / "scratch")
        return [home, tmp, tmp, tmp, home, home]

    def test_missing_command_gives_known_code(self, machine: Machine) -> None:
        with pytest.raises(FileNotFoundError):
            machine.run(self.name, "no-such-program")

    def test_program_killed_by_signal_gives_128_plus_signal(self, machine: Machine) -> None:
        assert machine.run(self.name, "sh", "-c", "kill -9 $$").code == -9

    def test_not_allowed_refuses(self, machine: Machine) -> None:
        request = machine.container(self.name, command=("true",))
        runtime = ProcessRuntime()
        assert runtime.version() is None
        with pytest.raises(RuntimeMissing):
            runtime.prepare(request, run=run_command)
