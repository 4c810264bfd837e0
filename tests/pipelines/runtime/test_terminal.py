import subprocess
import sys
from pathlib import Path

CODE = """
import logging, os, sys, warnings
from pathlib import Path
from pipelines.runtime.terminal import foreign_output, last_log, out, say
with foreign_output(Path(sys.argv[1])):
    say("ours")
    print("result", file=out())
    print("foreign print")
    warnings.warn("foreign warning")
    logging.getLogger("any").error("foreign record")
    os.write(2, b"foreign C++\\n")
    os.system("echo foreign child")
os.write(1, b"foreign end\\n")
print(last_log())
"""


def test_what_is_not_ours_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    done = subprocess.run([sys.executable, "-c", CODE, str(log)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"result\n{log}\n", "ours\n")
    written = log.read_text()
    assert all(f"foreign {what}" in written for what in ("print", "warning", "record", "C++", "child", "end"))
