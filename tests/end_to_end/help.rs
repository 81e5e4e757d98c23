//! What the programs say about themselves: help, completions, man pages, and suggestions for mistyped arguments.

use crate::support::{ADMIN_CLI, Ended, Home, SUPERVISOR};

const PROGRAMS: [(&str, &str); 2] = [("supervisor", SUPERVISOR), ("admin-cli", ADMIN_CLI)];

fn run(home: &Home, program: &str, arguments: &[&str]) -> Ended {
    let mut command = home.program(program);
    // These tests are not about colours that are wanted even in pipes.
    command.args(arguments).env_remove("CLICOLOR_FORCE");
    home.run(command)
}

#[test]
fn what_was_probably_meant_is_named() {
    let home = Home::new();
    for (program, arguments, meant) in [
        (SUPERVISOR, &["htpp"][..], "'http'"),
        (SUPERVISOR, &["echo", "--graec", "5"], "'--grace'"),
        (SUPERVISOR, &["http", "--restart", "alwys"], "'always'"),
        (SUPERVISOR, &["completions", "bsh"], "'bash'"),
        (ADMIN_CLI, &["stpo"], "'stop'"),
        (ADMIN_CLI, &["stop", "--no-wiat"], "'--no-wait'"),
        (ADMIN_CLI, &["check", "web.json", "--for", "htpp"], "'http'"),
    ] {
        let ended = run(&home, program, arguments).expect(2);
        assert!(ended.err.contains("similar") && ended.err.contains(meant), "{arguments:?}: {ended}");
    }
}

#[test]
fn commands_of_other_programs_are_answered_with_ours() {
    let home = Home::new();
    for (program, command, hint) in [
        (ADMIN_CLI, "start", "supervisor exec PROGRAM"),
        (ADMIN_CLI, "logs", "events --follow"),
        (ADMIN_CLI, "reload", "`restart`"),
        (ADMIN_CLI, "kill", "stop --now"),
        (SUPERVISOR, "start", "supervisor exec PROGRAM"),
        (SUPERVISOR, "stop", "admin-cli stop"),
        (SUPERVISOR, "logs", "admin-cli events"),
        (SUPERVISOR, "python3", "supervisor exec python3 ..."),
    ] {
        let ended = run(&home, program, &[command]).expect(2);
        assert!(ended.err.contains(hint) && !ended.err.contains("similar"), "{command}: {ended}");
    }
}

#[test]
fn a_time_is_taken_as_people_write_it_and_else_the_answer_says_how() {
    let home = Home::new();
    for time in ["5", "1.5", "90s", "2m", "1h", "500ms", "1m30s", "2d", "infinity"] {
        // The time is accepted, and then no supervisor is found.
        let name = home.name();
        run(&home, ADMIN_CLI, &["--name", name, "stop", "--grace", time, "--timeout", time]).expect(3);
    }
    for (program, arguments) in [
        (SUPERVISOR, &["echo", "--grace", "soon"][..]),
        (SUPERVISOR, &["echo", "--period", "5M"]),
        (ADMIN_CLI, &["restart", "--grace=-5s"]),
        (ADMIN_CLI, &["stop", "--timeout", "1h30"]),
    ] {
        run(&home, program, arguments).expect(2).says("TIME").says("500ms, 90s, 2m, 1h, 1m30s");
    }
}

#[test]
fn into_a_pipe_nothing_has_a_colour() {
    let home = Home::new();
    let instance = home.start(&["echo", "--verbose"]);
    instance.client().greet();
    let name = instance.name.as_str();
    let lines: [(&str, &[&str]); 8] = [
        (SUPERVISOR, &["--help"]),
        (SUPERVISOR, &["echo", "--help"]),
        (SUPERVISOR, &["echo", "--dance"]),
        (ADMIN_CLI, &["stop", "--help"]),
        (ADMIN_CLI, &["dance"]),
        (ADMIN_CLI, &["list"]),
        (ADMIN_CLI, &["--name", name, "status"]),
        (ADMIN_CLI, &["--name", name, "stop"]),
    ];
    for (program, arguments) in lines {
        let ended = run(&home, program, arguments);
        assert!(!ended.out.is_empty() || !ended.err.is_empty(), "{arguments:?} says nothing");
        assert!(!ended.out.contains('\x1b') && !ended.err.contains('\x1b'), "{arguments:?}: {ended:?}");
    }
    assert_eq!(instance.wait(), 0);
    assert!(!instance.log().contains('\x1b'), "{:?}", instance.log());
}

#[test]
fn there_are_completions_for_every_shell_that_is_named() {
    let home = Home::new();
    for (name, program) in PROGRAMS {
        for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
            let script = run(&home, program, &["completions", shell]).expect(0).out;
            assert!(script.contains(name) && script.contains("completions"), "{shell}: {script}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_there_are_colours_unless_no_color_is_set() {
    use crate::pty::Pty;
    use crate::support::eventually;

    let home = Home::new();
    for (_, program) in PROGRAMS {
        for (arguments, end) in [("--help", "Examples:"), ("dance", "try '--help'")] {
            for (no_color, is_coloured) in [(None, true), (Some("1"), false)] {
                let (pty, terminal) = Pty::open();
                let mut command = home.program(program);
                command
                    .arg(arguments)
                    .env("TERM", "xterm")
                    .env_remove("CLICOLOR")
                    .envs(no_color.map(|no| ("NO_COLOR", no)));
                command.stdout(terminal.try_clone().unwrap()).stderr(terminal);
                home.spawn(command).wait();
                let shown = || pty.screen().replace("\x1b[1m", "").replace("\x1b[0m", "");
                eventually("everything is on the screen", || shown().contains(end));
                assert_eq!(pty.screen().contains('\x1b'), is_coloured, "{program} {arguments}: {:?}", pty.screen());
            }
        }
    }
}

#[cfg(unix)]
mod generated {
    use std::fs;

    use super::{PROGRAMS, run};
    use crate::support::{ADMIN_CLI, Ended, Home, SUPERVISOR, is_installed};

    /// Runs a script with the path of a program as its first argument, followed by these.
    fn script(home: &Home, shell: &[&str], program: &str, arguments: &[&str]) -> Ended {
        let mut command = home.program(shell[0]);
        command.args(&shell[1..]).arg(program).args(arguments).env("HOME", home.directory());
        home.run(command)
    }

    /// What bash offers for the last of these words.
    fn bash_offers(program: &str, words: &[&str]) -> Vec<String> {
        // As bash does when Tab is pressed: it calls the function with the program, the word and the one before.
        let complete = r#"
            source <("$1" completions bash); shift
            [[ $(complete -p "$1") =~ -F\ ([^ ]+) ]] || exit 1
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            "${BASH_REMATCH[1]}" "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let offered = script(&Home::new(), &["bash", "-c", complete, "-"], program, words).expect(0);
        assert!(offered.err.is_empty(), "{offered}");
        offered.out.lines().map(str::to_owned).collect()
    }

    #[test]
    fn bash_completes_commands_options_and_values() {
        assert_eq!(bash_offers(SUPERVISOR, &["supervisor", "ht"]), ["http"]);
        assert_eq!(bash_offers(SUPERVISOR, &["supervisor", "http", "--max-"]), ["--max-connections", "--max-restarts"]);
        assert_eq!(
            bash_offers(SUPERVISOR, &["supervisor", "echo", "--restart", ""]),
            ["always", "on-failure", "never"]
        );
        assert_eq!(bash_offers(ADMIN_CLI, &["admin-cli", "st"]), ["status", "stop"]);
        assert_eq!(bash_offers(ADMIN_CLI, &["admin-cli", "--name", "web", "rest"]), ["restart"]);
        assert_eq!(bash_offers(ADMIN_CLI, &["admin-cli", "--json", "stop", "--no"]), ["--now", "--no-wait"]);
        assert_eq!(bash_offers(ADMIN_CLI, &["admin-cli", "check", "web.json", "--for", "e"]), ["echo", "exec"]);
    }

    #[test]
    fn fish_completes_commands_options_and_values() {
        if !is_installed("fish") {
            return;
        }
        let offers = |program: &str, line: &str| -> Vec<String> {
            let complete = "$argv[1] completions fish | source; complete --do-complete $argv[2]";
            let offered = script(&Home::new(), &["fish", "-c", complete], program, &[line]).expect(0);
            // Each offer is followed by a tab and its meaning.
            let mut offers: Vec<_> =
                offered.out.lines().map(|line| line.split('\t').next().unwrap().to_owned()).collect();
            offers.sort();
            offers
        };
        assert_eq!(offers(SUPERVISOR, "supervisor ht"), ["http"]);
        assert_eq!(offers(SUPERVISOR, "supervisor echo --restart "), ["always", "never", "on-failure"]);
        assert_eq!(offers(ADMIN_CLI, "admin-cli --name web rest"), ["restart"]);
        assert_eq!(offers(ADMIN_CLI, "admin-cli stop --no"), ["--no-wait", "--now"]);
    }

    /// The shell finds the program by its name.
    #[test]
    fn names_ports_and_connections_of_what_runs_are_completed() {
        let home = Home::new();
        let instance = home.start(&["echo"]);
        let mut client = instance.client();
        client.greet();
        let programs = home.directory().join("programs");
        fs::create_dir(&programs).unwrap();
        std::os::unix::fs::symlink(ADMIN_CLI, programs.join("admin-cli")).unwrap();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let bash = r#"source <(admin-cli completions bash)
            [[ $(complete -p "$1") =~ -F\ ([^ ]+) ]] || exit 1
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            "${BASH_REMATCH[1]}" "$1" "${!#}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}""#;
        let fish = "admin-cli completions fish | source; complete --do-complete \"$argv\"";
        let port = instance.address.port().to_string();
        for (words, offered) in [
            (["--name", ""], home.name()),
            (["--port", ""], port.as_str()),
            (["port", ""], &port),
            (["free", ""], &port),
            (["close", ""], "1"),
        ] {
            let offers = |shell: &[&str]| {
                let mut command = home.program(shell[0]);
                command.args(&shell[1..]).arg("admin-cli").args(words).env("PATH", &path);
                let ended = home.run(command).expect(0);
                assert_eq!(ended.err, "", "{words:?}");
                ended.out
            };
            assert_eq!(offers(&["bash", "-c", bash, "-"]).lines().collect::<Vec<_>>(), [offered], "{words:?}");
            if is_installed("fish") {
                let offers = offers(&["fish", "-c", fish]);
                assert!(offers.lines().any(|line| line.split('\t').next() == Some(offered)), "{words:?}: {offers}");
            }
        }
        let zsh = run(&home, ADMIN_CLI, &["completions", "zsh"]).expect(0).out;
        for what in ["names", "ports", "connections"] {
            assert!(zsh.contains(&format!(":{{_admin_cli_running {what}}}")), "{what}: {zsh}");
        }
    }

    #[test]
    fn zsh_takes_the_completions() {
        if !is_installed("zsh") {
            return;
        }
        for (name, program) in PROGRAMS {
            let load =
                r#"autoload -U compinit && compinit -u -D && source <("$1" completions zsh) && print $_comps[$2]"#;
            let loaded = script(&Home::new(), &["zsh", "-fc", load, "-"], program, &[name]).expect(0);
            assert_eq!((loaded.out.trim_end(), loaded.err.as_str()), (format!("_{name}").as_str(), ""));
        }
    }

    #[test]
    fn man_takes_every_page() {
        let home = Home::new();
        let directory = home.directory().join("share").join("man1");
        for (_, program) in PROGRAMS {
            run(&home, program, &["manual", directory.to_str().unwrap()]).expect(0);
        }
        let pages: Vec<_> = fs::read_dir(&directory).unwrap().map(|page| page.unwrap().path()).collect();
        for name in
            ["supervisor", "supervisor-http", "supervisor-exec", "admin-cli", "admin-cli-stop", "admin-cli-check"]
        {
            let page = directory.join(format!("{name}.1"));
            let text = fs::read_to_string(&page).unwrap_or_else(|error| panic!("{name}: {error}: {pages:?}"));
            for part in [".SH NAME", ".SH OPTIONS", ".SH EXAMPLES"] {
                assert!(text.contains(part), "{name} has no {part}");
            }
        }
        let checks = [
            &["groff", "-man", "-ww", "-z", "-Tutf8"][..],
            &["mandoc", "-T", "lint", "-W", "error"],
            &["man", "--warnings", "--encoding=UTF-8", "--local-file"],
        ];
        for check in checks.into_iter().filter(|check| is_installed(check[0])) {
            for page in &pages {
                let mut command = home.program(check[0]);
                command.args(&check[1..]).arg(page).env("LC_ALL", "C.UTF-8").env("MANPAGER", "cat");
                let checked = home.run(command).expect(0);
                assert!(checked.err.is_empty(), "{page:?}: {check:?}: {checked}");
            }
        }
    }

    #[test]
    fn what_cannot_be_written_is_told_in_one_line() {
        let home = Home::new();
        for (_, program) in PROGRAMS {
            let ended = run(&home, program, &["manual", "/dev/null/man1"]).expect(1);
            ended.says("cannot write the man pages into /dev/null/man1: Not a directory");
            assert_eq!(ended.err.lines().count(), 1, "{ended}");
            if cfg!(target_os = "linux") {
                let full = script(&home, &["sh", "-c", "exec \"$1\" completions bash > /dev/full", "-"], program, &[]);
                full.expect(1).says("cannot write the completions: No space left on device");
            }
        }
        run(&home, ADMIN_CLI, &["--name", "web", "completions", "bash"]).expect(2).says("it takes no target");
    }
}
