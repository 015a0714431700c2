"""What each shell offers when someone presses Tab: the real shells, with the completions as they are installed."""

from __future__ import annotations

import asyncio
import os
import pty
import sys
from pathlib import Path

from tests.parts.cli.run import DEADLINE_S, ROOT, environment

_BASH = """\
source /usr/share/bash-completion/bash_completion
source {share}/bash-completion/completions/slotctl
COMP_LINE=$1 COMP_POINT=${{#1}} COMP_TYPE=9 COMP_KEY=9
read -ra COMP_WORDS <<<"$1"
[[ $1 == *' ' ]] && COMP_WORDS+=('')
COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_slotctl slotctl
printf '%s\\n' "${{COMPREPLY[@]}}"
"""

# What is offered goes into a file, as the terminal shows it in columns, and not at all if it is one.
_ZSH = """\
PS1=''
fpath=({share}/zsh/vendor-completions $fpath)
autoload -Uz compinit && compinit -u -D
setopt no_beep no_auto_list
compadd() {{
    if [[ ${{@[1,(i)(-|--)]}} == *-(O|A|D)\\ * ]]; then
        builtin compadd "$@"
        return
    fi
    local -a offered
    builtin compadd -A offered "$@"
    print -rl -- $offered >>{out}
    builtin compadd "$@"
}}
ended() {{ print -n 'LIST''ED' }}
_main_complete_and_tell() {{ _main_complete "$@"; ended }}
zle -C told-completion .complete-word _main_complete_and_tell
bindkey '^I' told-completion
print READY''NOW
"""


class Shells:
    """The completions written below `directory`, and a `slotctl` of this tree for them to ask."""

    def __init__(self, directory: Path, address: str) -> None:
        self.share = directory / "share"
        self.config = directory / "config"
        self._directory = directory
        self._address = address
        (self.config / "apps.d").mkdir(parents=True)
        program = directory / "bin" / "slotctl"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m slotd.cli.main "$@"\n')
        program.chmod(0o755)

    async def write(self) -> None:
        await self._run(ROOT / "packaging" / "completion", self.share)

    def _environment(self) -> dict[str, str]:
        base = environment(self._address, HOME=str(self._directory), CONFIGURATION_DIRECTORY=str(self.config))
        return base | {"PATH": f"{self._directory}/bin:{base['PATH']}", "TERM": "dumb"}

    async def _run(self, *argv: str | Path) -> str:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*argv, stdout=pipe, stderr=pipe, env=self._environment())
        out, err = await asyncio.wait_for(process.communicate(), DEADLINE_S)
        assert err == b"", err.decode()
        return out.decode()

    async def offers(self, shell: str, line: str) -> set[str]:
        """The words that `shell` offers at the end of `line`, without their descriptions."""
        offered = await {"bash": self._bash, "zsh": self._zsh, "fish": self._fish}[shell](line)
        return {each for each in offered.splitlines() if each}

    async def _bash(self, line: str) -> str:
        return await self._run("bash", "--norc", "-c", _BASH.format(share=self.share), "bash", line)

    async def _fish(self, line: str) -> str:
        script = f"source {self.share}/fish/vendor_completions.d/slotctl.fish; complete -C $argv[1]"
        out = await self._run("fish", "--no-config", "-c", script, line)
        return "\n".join(each.partition("\t")[0] for each in out.splitlines())

    async def _zsh(self, line: str) -> str:
        out, setup = self._directory / "offered", self._directory / "setup.zsh"
        out.write_text("")
        setup.write_text(_ZSH.format(share=self.share, out=out))
        end, terminal = pty.openpty()
        process = await asyncio.create_subprocess_exec(
            "zsh", "-f", "-i", stdin=terminal, stdout=terminal, stderr=terminal, env=self._environment()
        )
        os.close(terminal)
        try:
            os.write(end, f"source {setup}\n".encode())
            await _until(end, b"READYNOW")
            os.write(end, f"{line}\t".encode())
            await _until(end, b"LISTED")
        finally:
            process.kill()
            await process.wait()
            os.close(end)
        return out.read_text()


async def _until(end: int, mark: bytes) -> None:
    """Read a terminal until `mark` is on it."""
    seen = b""
    while mark not in seen:
        seen += await asyncio.wait_for(asyncio.to_thread(os.read, end, 65536), DEADLINE_S)
