# PowerShell completion for kobune: kobune completion powershell | Out-String | Invoke-Expression
Register-ArgumentCompleter -Native -CommandName kobune -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements | Select-Object -Skip 1 | ForEach-Object { "$_" })
    if ($wordToComplete -eq '') { $words += '""' }
    kobune __complete '--' @words 2>$null | Where-Object { $_ -ne ':files' } | ForEach-Object {
        $value, $about = $_ -split "`t", 2
        if (-not $about) { $about = $value }
        [System.Management.Automation.CompletionResult]::new($value, $value, 'ParameterValue', $about)
    }
}
