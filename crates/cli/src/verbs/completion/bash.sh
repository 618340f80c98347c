# bash completion for kobune: source <(kobune completion bash)
_kobune() {
    local IFS=$'\n' line
    COMPREPLY=()
    for line in $(kobune __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null); do
        if [[ $line == ":files" ]]; then
            compopt -o default 2>/dev/null
            return
        fi
        COMPREPLY+=("${line%%$'\t'*}")
    done
    # A colon ends a word for bash, but not for a name such as system:node.
    if declare -F __ltrim_colon_completions >/dev/null; then
        __ltrim_colon_completions "${COMP_WORDS[COMP_CWORD]}"
    fi
}
complete -F _kobune kobune
