"""For zsh: /usr/share/zsh/vendor-completions/_slotctl."""

from __future__ import annotations

from completions.tree import Command, Option, Value

_HEAD = """\
#compdef slotctl
# Completion of slotctl for zsh. Written by packaging/completion; do not edit.

_slotctl_ask() {
    local -a found
    # Before the words were cut down to those of the command, they were kept in slotctl_line.
    found=(${(f)"$(slotctl _complete $1 ${slotctl_line[2,-1]} 2>/dev/null)"})
    found=(${${found//:/\\\\:}/$'\\t'/:})
    _describe -t $1 $1 found
}
"""

_FOOT = """\
_slotctl() {
    local -a slotctl_line
    slotctl_line=("${words[@]}")
    _slotctl_in
}

_slotctl "$@"
"""


def script(root: Command) -> str:
    functions = [_function(each) for each in root.walk()]
    return "\n".join([_HEAD, *functions, _FOOT])


def _function(command: Command) -> str:
    name = "_".join(("_slotctl_in", *command.path))
    specs = [_option(option) for option in command.options]
    if not command.below:
        specs += [_argument(number, value, command) for number, value in enumerate(command.arguments, 1)]
        return f"{name}() {{\n    _arguments -S {_joined(specs)}\n}}\n"
    offered = "\n".join(f"        {_quoted(f'{below.path[-1]}:{below.text}')}" for below in command.below)
    cases = "\n".join(f"                {each.path[-1]}) {name}_{each.path[-1]} ;;" for each in command.below)
    specs += ["'1:command:->command'", "'*::argument:->argument'"]
    return f"""\
{name}() {{
    local curcontext="$curcontext" state state_descr line
    typeset -A opt_args
    local -a commands
    commands=(
{offered}
    )
    _arguments -C -S {_joined(specs)}
    case $state in
        command) _describe -t commands command commands ;;
        argument)
            case $words[1] in
{cases}
            esac
            ;;
    esac
}}
"""


def _joined(specs: list[str]) -> str:
    return " \\\n        ".join(["", *specs]).lstrip()


def _option(option: Option) -> str:
    text = option.text.replace("[", "(").replace("]", ")").replace(":", "\\:")
    every = " ".join(option.names)
    if option.value is None:
        return " ".join(_quoted(f"({every}){name}[{text}]") for name in option.names)
    after = f":{_plain(option.value.name)}:{_offer(option.value)}"
    return " ".join(_quoted(f"({every}){name}{'=' * name.startswith('--')}[{text}]{after}") for name in option.names)


def _argument(number: int, value: Value, command: Command) -> str:
    place = "*" if command.rest and number == len(command.arguments) else str(number)
    return _quoted(f"{place}:{_plain(value.name)}:{_offer(value)}")


def _offer(value: Value) -> str:
    if value.choices:
        return f"({' '.join(value.choices)})"
    acts = [f"slotctl_ask:{value.asked}:_slotctl_ask {value.asked}"] if value.asked else []
    if value.files and value.asked:
        return f"{{_alternative '{acts[0]}' 'files:file:_files'}}"
    return f"{{_slotctl_ask {value.asked}}}" if value.asked else "_files" if value.files else " "


def _plain(name: str) -> str:
    return name.lower().replace("|", " or ").replace(":", " ")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
