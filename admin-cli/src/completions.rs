//! Completions for what is running: names, ports and connections. The scripts of `clap_complete` know only the
//! definition of the command line; these lines are added to them and ask `admin-cli offer`.

use mastercontrol::cli::generate::Shell;

const BASH: &str = r#"
# Names, ports and connections of what runs now.
_admin_cli_running() {
    _admin__cli "$@"
    local what
    case "$3" in
        --name|-n) what=names ;;
        --port|-p|port|free) what=ports ;;
        close) what=connections ;;
        *) return ;;
    esac
    [[ $2 == -* ]] || COMPREPLY=($(compgen -W "$("$1" offer "$what" 2>/dev/null)" -- "$2"))
}
complete -F _admin_cli_running -o bashdefault -o default admin-cli
"#;

const FISH: &str = r#"
# Names, ports and connections of what runs now.
complete -c admin-cli -s n -l name -x -a "(admin-cli offer names 2>/dev/null)"
complete -c admin-cli -s p -l port -x -a "(admin-cli offer ports 2>/dev/null)"
complete -c admin-cli -n "__fish_seen_subcommand_from port free" -f -a "(admin-cli offer ports 2>/dev/null)"
complete -c admin-cli -n "__fish_seen_subcommand_from close" -f -a "(admin-cli offer connections 2>/dev/null)"
"#;

const ZSH: &str = r#"
# Names, ports and connections of what runs now.
_admin_cli_running() {
    local -a found
    found=(${(f)"$(admin-cli offer $1 2>/dev/null)"})
    compadd -a found
}
"#;

/// The script with these added. In other shells only the definition is completed.
pub(crate) fn with_running(shell: Shell, script: String) -> String {
    match shell {
        Shell::Bash => script + BASH,
        Shell::Fish => script + FISH,
        Shell::Zsh => {
            let script = script
                .replace(":NAME:_default", ":NAME:{_admin_cli_running names}")
                .replace(":PORT:_default", ":PORT:{_admin_cli_running ports}");
            let lines = script.lines().map(|line| {
                let what = [("ports --", "ports"), ("id --", "connections")];
                match what.iter().find(|(argument, _)| line.contains(argument) && line.contains(":_default")) {
                    Some((_, what)) => line.replace(":_default", &format!(":{{_admin_cli_running {what}}}")),
                    None => line.to_owned(),
                }
            });
            let lines: Vec<_> = lines.collect();
            // The first line makes the script a completion, so it must stay first.
            match lines.split_first() {
                Some((first, rest)) => format!("{first}\n{ZSH}{}\n", rest.join("\n")),
                None => String::new(),
            }
        }
        _ => script,
    }
}
