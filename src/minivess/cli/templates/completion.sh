# Completion of minivess for SHELL_NAME: verbs, options, settings with values, aliases of models.
# Put into ~/.SHELL_NAMErc:  source <(minivess completion SHELL_NAME)
if [ SHELL_NAME = zsh ]; then autoload -U +X bashcompinit && bashcompinit; fi
_minivess() {
    local IFS=$'\n' line="${COMP_LINE:0:COMP_POINT}"
    COMPREPLY=($("${COMP_WORDS[0]}" completion words " $line" 2>/dev/null))
    # Bash takes what follows an equals sign for a word of its own.
    if [ SHELL_NAME = bash ] && [[ "${line##* }" == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#*=}"); fi
    [[ ${#COMPREPLY[@]} == 1 && "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o default -F _minivess minivess
