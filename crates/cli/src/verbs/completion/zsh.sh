#compdef kobune
# zsh completion for kobune: source <(kobune completion zsh)
_kobune() {
    local line value about
    local -a found
    for line in "${(@f)$(kobune __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        [[ -z $line ]] && continue
        if [[ $line == ":files" ]]; then
            _files
            return
        fi
        value=${line%%$'\t'*}
        about=
        [[ $line == *$'\t'* ]] && about=${line#*$'\t'}
        found+=("${value//:/\\:}${about:+:$about}")
    done
    _describe 'kobune' found
}
if [ "$funcstack[1]" = "_kobune" ]; then
    _kobune "$@"
else
    compdef _kobune kobune
fi
