# fish completion for kobune: kobune completion fish | source
function __kobune_complete
    set -l words (commandline -opc)
    set -l found (kobune __complete -- $words[2..-1] (commandline -ct) 2>/dev/null)
    if test "$found[1]" = ":files"
        __fish_complete_path (commandline -ct)
    else
        printf '%s\n' $found
    end
end
complete -c kobune -f -a '(__kobune_complete)'
