"""For bash with bash-completion: /usr/share/bash-completion/completions/slotctl."""

from __future__ import annotations

from completions.tree import Command, Value

_FRAME = """\
# Completion of slotctl for bash. Written by packaging/completion; do not edit.

_slotctl_ask() {{
    # What is offered are names from elsewhere: never words for the shell to expand, as `compgen -W` does.
    local value
    while IFS= read -r value; do
        [[ $value == "$cur"* ]] && COMPREPLY+=("$(printf %q "$value")")
    done < <(slotctl _complete "$1" "${{words[@]:1}}" 2>/dev/null | cut -f1)
}}

_slotctl_words() {{
    COMPREPLY+=($(compgen -W "$1" -- "$cur"))
}}

_slotctl() {{
    local cur prev words cword split i
    _init_completion -s || return
    # Which command it is, and how many of its arguments are there.
    local command='' count=0
    for ((i = 1; i < cword; i++)); do
        case "$command ${{words[i]}}" in
{skips}
            *' -'*) ;;
            *)
                case $command in
                    {groups}) command="${{command:+$command }}${{words[i]}}" ;;
                    *) count=$((count + 1)) ;;
                esac
                ;;
        esac
    done
    case "$command $prev" in
{values}
    esac
    if [[ $cur == -* ]]; then
        case $command in
{options}
        esac
        return
    fi
    case "$command $count" in
{arguments}
    esac
}}

complete -F _slotctl slotctl
"""


def script(root: Command) -> str:
    commands = list(root.walk())
    groups = "|".join(f"'{each.name}'" for each in commands if each.below)
    skips, values, options, arguments = [], [], [], []
    for each in commands:
        for option in each.options:
            for name in option.names if option.value else ():
                skips.append(f"            '{each.name} {name}') i=$((i + 1)) ;;")
                values.append(f"        '{each.name} {name}') {_offer(option.value)}; return ;;")
        written = " ".join(name for option in each.options for name in option.names)
        options.append(f"            '{each.name}') _slotctl_words '{written}' ;;")
        if each.below:
            offered = " ".join(below.path[-1] for below in each.below)
            arguments.append(f"        '{each.name} '*) _slotctl_words '{offered}' ;;")
        for number, value in enumerate(each.arguments):
            last = each.rest and number == len(each.arguments) - 1
            arguments.append(f"        '{each.name} '{'*' if last else number}) {_offer(value)} ;;")
    return _FRAME.format(
        groups=groups,
        skips="\n".join(skips),
        values="\n".join(values),
        options="\n".join(options),
        arguments="\n".join(arguments),
    )


def _offer(value: Value | None) -> str:
    acts = []
    if value is not None and value.choices:
        acts.append(f"_slotctl_words '{' '.join(value.choices)}'")
    if value is not None and value.asked:
        acts.append(f"_slotctl_ask {value.asked}")
    if value is not None and value.files:
        acts.append("_filedir")
    return "; ".join(acts) or ":"
