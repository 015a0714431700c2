"""For fish: /usr/share/fish/vendor_completions.d/slotctl.fish."""

from __future__ import annotations

from completions.tree import Command, Value

_FRAME = """\
# Completion of slotctl for fish. Written by packaging/completion; do not edit.

function __slotctl_ask
    slotctl _complete $argv (commandline -opc)[2..-1] 2>/dev/null
end

# Whether the command on the line is $argv[1], and if $argv[2] is given, so many of its arguments are there, or with a +
# so many or more.
function __slotctl_at
    set -l command ''
    set -l count 0
    set -l skip 0
    for word in (commandline -opc)[2..-1]
        if test $skip = 1
            set skip 0
        else if contains -- "$command $word" {skips}
            set skip 1
        else if string match -q -- '-*' $word
            continue
        else if contains -- "$command" {groups}
            set command (string trim -- "$command $word")
        else
            set count (math $count + 1)
        end
    end
    test "$command" = "$argv[1]"; or return 1
    switch "$argv[2]"
        case ''
            return 0
        case '*+'
            test $count -ge (string trim -r -c + -- $argv[2])
        case '*'
            test $count -eq $argv[2]
    end
end

complete -c slotctl -f
"""


def script(root: Command) -> str:
    commands = list(root.walk())
    skips = [
        _quoted(f"{each.name} {name}")
        for each in commands
        for option in each.options
        if option.value
        for name in option.names
    ]
    lines = [_FRAME.format(skips=" ".join(skips), groups=" ".join(_quoted(e.name) for e in commands if e.below))]
    for each in commands:
        for option in each.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            # fish takes "a value, no files" (-x) and "files" (-F) as contradictions.
            needs = "-r" if option.value and option.value.files else "-x"
            value = f" {needs}{_offer(option.value)}" if option.value else ""
            lines.append(_line(each, "", f"{names}{value} -d {_quoted(option.text)}"))
        for below in each.below:
            lines.append(_line(each, "0", f"-a {_quoted(below.path[-1])} -d {_quoted(below.text)}"))
        for number, argument in enumerate(each.arguments):
            last = each.rest and number == len(each.arguments) - 1
            if offered := _offer(argument):
                lines.append(_line(each, f"{number}{'+' * last}", offered.strip()))
    return "\n".join(lines) + "\n"


def _line(command: Command, count: str, what: str) -> str:
    at = f"__slotctl_at {_quoted(command.name)} {count}".rstrip()
    return f'complete -c slotctl -n "{at}" {what}'


def _offer(value: Value | None) -> str:
    if value is None:
        return ""
    if value.choices:
        return f" -a {_quoted(' '.join(value.choices))}"
    if value.asked:
        return f"{' -F' * value.files} -k -a '(__slotctl_ask {value.asked})'"
    return " -F" if value.files else ""


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
