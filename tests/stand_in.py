#!/usr/bin/env python3
"""A program that only notes how it was called and answers what a test has prepared.

Linked as gh, docker, kubectl … into a folder of PATH; STAND_IN names the folder with `replies.json`
(a list; the first whose `match` the command line has is the answer) and `calls.jsonl`. A reply may
give stdout (filtered by the real jq where --jq is asked), a code, and files to copy, whose targets
may lie in what the option --dir names. With `real` the program itself is called.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path


def option(arguments, name):
    """What stands behind an option on the command line; None where it is not given."""
    return arguments[arguments.index(name) + 1] if name in arguments else None


def read_file(arguments):
    """The text that is handed over in a file: --body-file, --filename, or --field body=@FILE."""
    field = (option(arguments, "--field") or "").partition("=@")[2]
    path = option(arguments, "--body-file") or option(arguments, "--filename") or field
    return Path(path).read_text(encoding="utf-8") if path else None


def answer(program, arguments):
    """Note the call and act on its reply; returns the exit code."""
    place = Path(os.environ["STAND_IN"])
    line = " ".join([program, *arguments])
    call = {"line": line, "arguments": arguments, "body": read_file(arguments)}
    with (place / "calls.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(call) + "\n")
    replies = json.loads((place / "replies.json").read_text(encoding="utf-8"))
    reply = next((one for one in replies if one["match"] in line), {})
    if "real" in reply:
        return subprocess.call([reply["real"], *arguments])
    for source, target in reply.get("files", {}).items():
        path = Path(target.format(dir=option(arguments, "--dir")))
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, path)
    text = reply.get("stdout", "")
    if query := option(arguments, "--jq"):
        command = ["jq", "--raw-output", query]
        text = subprocess.run(
            command, input=text or "[]", capture_output=True, text=True, check=True
        )
        text = text.stdout
    sys.stdout.write(text)
    return reply.get("code", 0)


if __name__ == "__main__":
    sys.exit(answer(Path(sys.argv[0]).name, sys.argv[1:]))
