//! What README.md shows works as it is shown, and so does examples/restart.sh.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::{ADMIN_CLI, Ended, HUGE, Home, SUPERVISOR, free_port, is_installed, write_script};

/// The project's directory.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A shell command in the project's directory, in which `supervisor`, `admin-cli` and `cargo` are found. A supervisor
/// that is given no address takes a free one, and Enter from stdin; `cargo run` runs the program, and `cargo test` and
/// `cargo install` only see whether there is something to test or install.
pub fn shell(home: &Home, script: &str) -> Command {
    let bin = home.directory().join("bin");
    fs::create_dir_all(&bin).unwrap();
    write_script(
        &bin.join("supervisor"),
        &format!(
            "#!/bin/bash\n[[ $* == *--listen* || $1 == exec ]] || set -- \"$@\" --listen 127.0.0.1:0 --console stdin\n\
             exec {SUPERVISOR} \"$@\"\n"
        ),
    );
    let _ = symlink(ADMIN_CLI, bin.join("admin-cli"));
    write_script(
        &bin.join("cargo"),
        "#!/bin/bash\ncase \"$*\" in\n\
         \"run --release -p mastercontrol -- \"*) shift 5; exec supervisor \"$@\" ;;\n\
         \"test --workspace\") grep -q members Cargo.toml ;;\n\
         \"install --locked --path \"*) grep -q \"name = \\\"$4\\\"\" \"$4/Cargo.toml\" ;;\n\
         *) echo \"cargo $*: unknown here\" >&2; exit 2 ;;\nesac\n",
    );
    let mut command = home.program("bash");
    let path =
        std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())));
    command.args(["-ec", script]).env("PATH", path.unwrap()).current_dir(project());
    command
}

/// The README's shell commands, one text a block.
fn blocks() -> Vec<String> {
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    readme.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// What is no supervisor of ours, for which `admin-cli wait` waits, is given the time that a person takes to type the next
/// command. And what is on port 8888 is on a free one.
fn at_typing_speed(block: &str, log: &Path) -> String {
    let log = log.display();
    let lines = block.lines().map(|line| match line.strip_suffix(" &") {
        Some(line) if line.starts_with("python3 ") => {
            format!("{line} 2> {log} &\nuntil admin-cli port 8888 > /dev/null 2>&1; do sleep 0.02; done\n")
        }
        Some(line) => format!("{line} 2> {log} &\n"),
        None => format!("{line}\n"),
    });
    lines.collect::<String>().replace("8888", &free_port().to_string())
}

fn run(home: &Home, script: &str) -> Ended {
    let mut command = shell(home, script);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let process = home.spawn(command);
    process.write("\n"); // Enter, for what reads it.
    process.end()
}

#[test]
fn every_command_of_the_readme_does_what_it_says() {
    let blocks = blocks();
    assert!(blocks.len() >= 5, "the README has only {} blocks of commands", blocks.len());
    for block in blocks {
        if block.contains("nc ") && !is_installed("nc") {
            continue;
        }
        let home = Home::new();
        let ended = run(&home, &at_typing_speed(&block, &home.directory().join("log")));
        assert_eq!(ended.code, 0, "{block}\n{ended}");
        assert!(
            home.sockets().read_dir().map_or(true, |mut directory| directory.next().is_none()),
            "{block} left something"
        );
    }
}

#[test]
fn the_readme_names_every_option() {
    let home = Home::new();
    let readme = fs::read_to_string(project().join("README.md")).unwrap();
    let commands = ["stop", "events", "check", "free"].map(|command| (ADMIN_CLI, [command, "--help"]));
    for (program, arguments) in [(SUPERVISOR, ["http", "--help"])].into_iter().chain(commands) {
        let mut command = home.program(program);
        command.args(arguments);
        let help = home.run(command).expect(0).out;
        let options = help.split_whitespace().filter(|word| word.starts_with("--"));
        for option in options.map(|word| word.trim_end_matches([',', '.'])).filter(|&word| word != "--help") {
            assert!(readme.contains(option), "the README says nothing about {option}");
        }
    }
}

#[test]
fn the_restart_script_replaces_one_that_runs_and_starts_one_that_does_not() {
    let home = Home::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let name = home.name().to_owned();
    // Its stdout and stderr stay with the supervisor, which outlives the script: nobody waits for their end.
    let restart = |what: &str| {
        let mut command =
            shell(&home, &format!("examples/restart.sh {name} supervisor {what} --name {name} --listen {listen}"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        home.spawn(command).wait()
    };
    let pid = || home.admin(&["--name", &name, "status", "--json"]).json()["pid"].clone();
    assert_eq!(restart("echo"), 0);
    let first = pid();
    assert_eq!(restart("echo"), 0);
    assert_ne!(pid(), first, "the same one is still running");
    assert_ne!(restart("http /there/is/no/such/directory"), 0);
    home.admin(&["--name", &name, "ping"]).expect(3);
    assert_eq!(restart("command"), 0);
    home.admin(&["--name", &name, "stop", "--grace", HUGE]).expect(0);
}
