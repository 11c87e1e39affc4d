"""scripts/random_kills.py in short, and that it says what is wrong."""

import json
import re

import pytest
import random_kills

from sscd_jax.weights import runs


@pytest.mark.slow
def test_kills_among_steps_and_in_the_middle_of_a_save(tmp_path, capsys):
    out = tmp_path / "out"
    random_kills.main(["--kills", "3", "--steps", "30", "--moments", "save", "steps", "--out", str(out)])
    printed = capsys.readouterr().out
    rows = {row[0]: row[1:] for row in re.findall(r"^(\S+) +(\d+) +(\d+) +(\d+) +(\d+)$", printed, re.MULTILINE)}
    assert rows["all"][0] == "3"
    assert int(rows["save"][1]) >= 1, "a save was under way"
    assert "ended bit for bit" in printed

    # What it must notice.
    assert random_kills.differences(out / "whole", out / "killed") == []
    lines = (out / "killed" / "metrics.jsonl").read_text().splitlines()
    changed = json.loads(lines[4]) | {"loss": 0.0}
    (out / "killed" / "metrics.jsonl").write_text("\n".join([*lines[:4], json.dumps(changed), *lines[5:], lines[-1]]))
    wrong = random_kills.differences(out / "whole", out / "killed")
    assert [line[:7] for line in wrong] == ["the ste", "metrics"]
    step = min(runs.saved_on_disk(out / "killed"))
    (out / "killed" / "checkpoints" / str(step) / "state" / "_METADATA").unlink()
    assert any(f"checkpoint {step} of" in line for line in random_kills.differences(out / "whole", out / "killed"))


def test_a_folder_that_is_not_empty_is_refused(tmp_path, capsys):
    (tmp_path / "there").touch()
    with pytest.raises(SystemExit):
        random_kills.main(["--out", str(tmp_path)])
    assert "is not empty" in capsys.readouterr().err
