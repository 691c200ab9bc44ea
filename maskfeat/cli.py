"""The commands: `lightning fit|validate|test|predict`, and `maskfeat` with some of its own.

Imports are lazy: the help of maskfeat's own commands need not wait for torch.
"""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from maskfeat import __version__
from maskfeat.console import raise_at_ctrl_c
from maskfeat.quick_imports import QuickImports
from maskfeat.running.failures import in_one_sentence, is_debugging

_LIGHTNINGS = ("fit", "validate", "test", "predict")
# Command -> its module, and the parameters that its bare words are for: one after the other, or
# one that takes all, as "images...".
_ON_FILES = {
    "segment": ("maskfeat.app.segment_command", "images..."),
    "annotate": ("maskfeat.app.annotate_command", "images..."),
    "tune": ("maskfeat.app.tune_command", "masks..."),
    "convert": ("maskfeat.app.convert_command", "masks..."),
    "serve": ("maskfeat.integrations.serve_command", "tool"),
    "export": ("maskfeat.app.export_command", "checkpoint [out]"),
    "configs": ("maskfeat.packaged", "folder"),
}

# Commands that take a list of words without an option, and the parameter these are for.
_LISTS = {
    "index": "shards...",
    "convert": "sources...",
    "segment": "sources...",
    "verify": "folder",
    "stats": "shards...",
}


def main(args: Sequence[str] | None = None) -> None:
    """Run a command, see `maskfeat.console`.

    Args:
        args: The words after the command's name; None takes them from the command line.
    """
    _log_to_terminal()
    if not faulthandler.is_enabled():
        # A library that crashes, hours into a run, leaves a trace of where, not just "SIGSEGV".
        faulthandler.enable()
    try:
        _run_words(list(sys.argv[1:] if args is None else args), is_typed=args is None)
    except KeyboardInterrupt:
        sys.exit(130)  # as shells count: 128 + the number of the signal


def _run_words(words: list[str], is_typed: bool) -> None:
    """Run the command that the first words name; the program's own words need not be handed on."""
    if words[:1] == ["--version"]:
        print(f"maskfeat {__version__}")
        return
    if words and words[0] in ("-h", "--help"):
        from maskfeat.help_text import COMMANDS

        print(COMMANDS)
        return
    if words[:1] == ["shards"] and words[1:2] and words[1] in _LISTS:
        function = _shard_commands()[words[1]]
        _on_bare_words(_LISTS[words[1]], f"shards {words[1]}", function, words[2:])
        return
    if words[:1] == ["shards"]:
        _run("shards", _shard_commands(), words[1:], as_positional=False)
        return
    if words and words[0] in _ON_FILES:
        module, parameters = _ON_FILES[words[0]]
        function = getattr(importlib.import_module(module), words[0])
        _on_bare_words(parameters, words[0], function, words[1:])
        return
    if not words or not (words[0].startswith("-") or words[0] in _LIGHTNINGS):
        # Lightning would name its own commands only.
        known = ", ".join([*_LIGHTNINGS, *_ON_FILES, "shards"])
        got = f"got '{words[0]}'" if words else "got none"
        text = f"error: expected one of the commands {known}, {got}; see maskfeat --help"
        print(text, file=sys.stderr)
        sys.exit(2)
    quiet_libraries()
    # So that configs can name classes of modules in the working folder, as `python -m` lets them.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: no file in it hides a library
    with QuickImports():
        from maskfeat.lightning_cli import MaskfeatCLI

    raise_at_ctrl_c()
    with in_one_sentence():
        # None, or Lightning warns that arguments came both ways.
        MaskfeatCLI(None if is_typed else words)


def _shard_commands() -> dict[str, Any]:
    from maskfeat.app import segment_shards
    from maskfeat.data import commands

    names = ("synth", "index", "convert", "verify", "stats")
    found = {name: getattr(commands, name) for name in names}
    return {**found, "segment": segment_shards.segment}


def _run(name: str, functions: Any, words: Sequence[str], **settings: Any) -> None:  # noqa: ANN401
    """Give a typed, documented function, or several by name, to the command line."""
    import jsonargparse

    from maskfeat.parser_errors import OneLineErrors

    settings = {"prog": f"maskfeat {name}", "parser_class": OneLineErrors, **settings}
    raise_at_ctrl_c()
    with in_one_sentence():
        jsonargparse.auto_cli(functions, args=list(words), **settings)


def _on_bare_words(
    parameters: str, name: str, function: Callable[..., None], words: Sequence[str]
) -> None:
    """A command whose bare words are for parameters, see `_ON_FILES`; its help is its docstring."""
    from maskfeat.help_text import AsItStands

    rest, bare, is_value = list[str](), list[str](), False
    for word in _spelled_out(function, words):
        is_option = word.startswith("-") and not is_value
        (rest if is_option or is_value else bare).append(word)
        is_value = is_option and "=" not in word and word not in ("-h", "--help", "--print_config")
    if parameters.endswith("..."):
        options = [f"--{parameters[:-3]}={json.dumps(bare)}"] if bare else []
    else:
        wanted = parameters.replace("[", "").replace("]", "").split()
        options = [f"--{one}={word}" for one, word in zip(wanted, bare, strict=False)]
        rest += bare[len(wanted) :]  # too many, which jsonargparse refuses
    _run(
        name,
        function,
        [*options, *rest],
        as_positional=False,
        usage=f"maskfeat {name} {parameters.upper()} [options]",
        description=(inspect.getdoc(function) or "").partition("\n\nArgs:")[0],
        formatter_class=AsItStands,
    )


def _spelled_out(function: Callable[..., None], words: Sequence[str]) -> list[str]:
    """Options as jsonargparse wants them: underscores for dashes, and switches with a value."""
    parameters = inspect.signature(function).parameters.values()
    switches = {f"--{p.name}" for p in parameters if p.default is False}
    spelled = []
    for word, after in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        name = "--" + name[2:].replace("-", "_") if name.startswith("--") else name
        is_bare = name in switches and not equals and after not in ("true", "false")
        spelled.append(name + ("=true" if is_bare else equals + value))
    return spelled


def _log_to_terminal() -> None:
    """Send what maskfeat logs to the terminal, and leave the libraries' loggers alone."""
    logger = logging.getLogger("maskfeat")
    handler = _TerminalHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger.handlers = [handler]  # not one more with each call from Python
    logger.propagate = False
    if not is_debugging():  # what a caller from Python has set for tracebacks stays
        logger.setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files need not be UTF-8


class _TerminalHandler(logging.Handler):
    """Writes to what stderr is at the time: a progress bar replaces it to keep its own line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr)


def quiet_libraries() -> None:
    """Filter messages of libraries that no user of maskfeat can act on."""
    advertising = ("litlogger", "litmodels", "💡")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch"):
        logging.getLogger(name).addFilter(
            lambda record: not any(word in record.getMessage() for word in advertising)
        )
    # Workers are chosen by measurement (experiments/step_speed), two cores want one or two.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # The averaged weights are in eval mode throughout, and are meant to be.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
    # Images are predicted on by one process, and the length is but for the progress bar.
    warnings.filterwarnings("ignore", message="Your `IterableDataset` has `__len__` defined.*")
    # maskfeat logs it, with the folder.
    warnings.filterwarnings("ignore", message=".*there is no last checkpoint available.*")
    # Words that did not come from the command line, as those of `tune`.
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter is intended.*")
    # Calls within Lightning.
    warnings.filterwarnings("ignore", message=".*was deprecated in v4.*")
    warnings.filterwarnings("ignore", message=".*JsonargparseDeprecationWarning.*")
    warnings.filterwarnings("ignore", message=".*skip_none parameter was deprecated.*")
    warnings.filterwarnings("ignore", message=".*Couldn't infer the batch indices.*")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*is deprecated.*")


if __name__ == "__main__":
    main()
