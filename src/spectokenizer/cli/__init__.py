"""`spectok`: one module per group of commands, imported when the command is used, so that --help answers at once."""

from __future__ import annotations

from importlib import import_module

import click

from .. import __version__
from ..disk import printable
from ..errors import SpecTokenizerError

COMMANDS = {  # command: (module, one line of help)
    "encode": ("codec", "Audio to a .stk file."),
    "decode": ("codec", "A .stk file to audio."),
    "roundtrip": ("codec", "Audio through the codec and back, with what it cost."),
    "info": ("codec", "What a model, or a .stk file, is and costs."),
    "repair": ("codec", "An end for a .stk file that a crash cut off."),
    "stream": ("stream", "Live: microphone, pipes or RTP to packets, or back."),
    "serve": ("serve", "A WebSocket server that carries many calls."),
    "demo": ("demo", "The codec in a browser tab."),
    "tokenize": ("corpus", "A corpus to tokens, in shards."),
    "detokenize": ("corpus", "Tokens of a corpus back to audio."),
    "train": ("research", "Train a model."),
    "experiment": ("experiment", "Variants trained with one budget, compared."),
    "export": ("huggingface", "A trained model to ONNX graphs, or for Hugging Face."),
    "tables": ("tables", "Entropy tables for a model, from speech."),
    "evaluate": ("evaluate", "Quality against bitrate on a folder of speech."),
    "compare": ("compare", "The same beside Opus, Codec2, Lyra and other codecs."),
    "loss": ("loss", "Quality when packets are lost, beside Opus."),
}


class Lazy(click.Group):
    """A group whose commands are imported when run; every named error ends as one line and exit code 1."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = getattr(import_module(f".{COMMANDS[name][0]}", __name__), name)
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SpecTokenizerError as error:
            raise click.ClickException(printable(str(error))) from error
        except BrokenPipeError:
            ctx.exit(1)
        except OSError as error:
            raise click.ClickException(f"{printable(str(error.filename or 'input/output'))}: {error.strerror}") from error


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="spectok")
def main() -> None:
    """SpecTokenizer: a streaming neural speech codec, 0.5 to 6 kbps, 30 ms latency, on one weak core.

    "-" stands for standard input or output.
    """
