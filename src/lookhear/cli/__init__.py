"""The command line: each verb parses its arguments, calls one function, and prints what it returns.

Results go to stdout, as tab-separated lines or as JSON with `--json`; talk and progress go to stderr. Exit codes: 0
done, 1 failed or refused, 2 wrong usage, 130 interrupted, 143 stopped by SIGTERM after saving. Nothing heavy is
imported before a verb runs.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from lookhear import __version__
from lookhear.cli.bench import Bench
from lookhear.cli.classify import Classify
from lookhear.cli.data import Prepare, Scenes
from lookhear.cli.embed import Embed
from lookhear.cli.evaluate import Evaluate
from lookhear.cli.machine import Demo, Doctor
from lookhear.cli.media import Inpaint, Localize
from lookhear.cli.models import Models
from lookhear.cli.search import Forget, IndexFolders, Label, Search, Status
from lookhear.cli.serve import Mcp, Serve
from lookhear.cli.study import Study
from lookhear.cli.train import Finetune, Pretrain, Report
from lookhear.console import finish, out, prepare_streams, say
from lookhear.errors import UsageError, UserError

VERBS: dict[str, Callable[..., Any]] = {
    "scenes": Scenes,
    "prepare": Prepare,
    "pretrain": Pretrain,
    "finetune": Finetune,
    "report": Report,
    "evaluate": Evaluate,
    "embed": Embed,
    "index": IndexFolders,
    "label": Label,
    "forget": Forget,
    "search": Search,
    "classify": Classify,
    "localize": Localize,
    "inpaint": Inpaint,
    "status": Status,
    "serve": Serve,
    "mcp": Mcp,
    "models": Models,
    "bench": Bench,
    "study": Study,
    "doctor": Doctor,
    "demo": Demo,
}


def parse(words: Sequence[str]) -> Any:
    """The verb that `words` name, with its arguments; nothing is run. SystemExit 2 for wrong usage, 0 for --help."""
    return tyro.extras.subcommand_cli_from_dict(
        VERBS,
        prog="lookhear",
        description=_DESCRIPTION,
        args=words,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    prepare_streams()
    try:
        if words == ["--version"]:
            out(__version__)
            return finish()
        code = parse(words).run() or 0
        return finish() or code
    except UserError as error:
        if debug:
            raise
        say(f"lookhear: {error}")
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        if debug:
            raise
        say("lookhear: interrupted")
        return 130
    except BrokenPipeError:
        return finish()


_DESCRIPTION = """Learn from unlabelled video how sound and picture belong together, and find moments by a sound, \
a picture or a clip. Add --debug to any verb to see the traceback of an error."""


if __name__ == "__main__":
    sys.exit(main())
