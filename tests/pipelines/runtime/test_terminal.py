import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import logging, os, sys, warnings
from pathlib import Path
from pipelines.runtime.terminal import foreign_output, last_log, out, own_log, say
with foreign_output(Path(sys.argv[1])):
    say("ours")
    print("result", file=out())
    print("foreign print")
    warnings.warn("foreign warning")
    logging.getLogger("any").error("foreign record")
    os.write(2, b"foreign C++\\n")
    os.system("echo foreign child")
    say(own_log().partition(" on node ")[0])
    if sys.argv[2] == "lost":
        os.unlink(sys.argv[1])
os.write(1, b"foreign end\\n")
print(last_log())
"""


@pytest.mark.parametrize("fate", ["kept", "lost"])
def test_what_is_not_ours_goes_to_the_log(tmp_path: Path, fate: str) -> None:
    """A log that is lost is not named."""
    log = tmp_path / "a.log"
    done = subprocess.run([sys.executable, "-c", CODE, str(log), fate], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"result\n{log if fate == 'kept' else None}\n", f"ours\n{log}\n")
    if fate == "kept":
        written = log.read_text()
        assert all(f"foreign {what}" in written for what in ("print", "warning", "record", "C++", "child", "end"))
