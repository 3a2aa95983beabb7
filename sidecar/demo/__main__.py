"""How does one run the demo backend alone? `python -m sidecar.demo --port 8081`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

from sidecar.demo.backend import DEFAULT_MS_PER_TOKEN, DEFAULT_TOKENS, start_demo
from sidecar.demo.faults import DESCRIPTIONS


async def _serve(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM."""
    demo = await start_demo(
        options.host, options.port, tokens=options.tokens, ms_per_token=options.ms_per_token
    )
    print(f"demo backend on {demo.url}", flush=True)
    asked_to_end = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_end.set)
    await asked_to_end.wait()
    await demo.stop()


def _parser() -> argparse.ArgumentParser:
    faults = "\n".join(f"  {fault:16} {text}" for fault, text in DESCRIPTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m sidecar.demo",
        description="A small OpenAI-compatible backend that streams, with faults to order.",
        epilog=f"faults (POST /demo/fault):\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1")
    parser.add_argument(
        "--port", type=_port, default=8081, help="default: 8081; 0: the system chooses"
    )
    parser.add_argument(
        "--tokens", type=_tokens, default=DEFAULT_TOKENS, help="tokens per answer, default: 20"
    )
    parser.add_argument(
        "--ms-per-token",
        type=_milliseconds,
        default=DEFAULT_MS_PER_TOKEN,
        help="milliseconds per token, default: 50",
    )
    return parser


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535)")
    return value


def _tokens(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not 1 or more")
    return value


def _milliseconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def main() -> int:
    """Read the command line and serve; the exit status."""
    options = _parser().parse_args()
    try:
        asyncio.run(_serve(options))
    except OSError as error:
        print(f"cannot listen on {options.host}:{options.port}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
