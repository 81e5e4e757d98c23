//! What pages and files to copy show of the programs, apart from the blocks that `readme.rs` runs: command lines that
//! the programs accept, settings that are valid, and commands that need another machine, each with the file that runs
//! it there.

use std::ffi::OsString;
use std::fs;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use mastercontrol::cli::{Asked, KINDS, check};

use crate::readme::{Block, blocks, guides, pages, project};
use crate::support::Home;

/// The command line of `admin-cli`, which has no library.
#[path = "../../admin-cli/src/args.rs"]
#[allow(dead_code)]
mod admin_cli;

/// What runs a command that cannot be in a page's script, because it needs root, another system, a network or a whole
/// checkout.
enum By {
    /// This file contains it in this form.
    File(&'static str, &'static str),
    /// Nothing does.
    Nothing(&'static str),
}

use By::{File, Nothing};

/// Commands of `console` blocks, and those of other programs in prose and in the comments of files to copy.
const ELSEWHERE: &[(&str, By)] = &[
    ("apt install ./mastercontrol_*_amd64.deb", File(".ci/packages", "dpkg --install /srv/shared/*.deb")),
    (
        "tar -xzf mastercontrol-*-x86_64-linux.tar.gz -C /usr/local --strip-components=1",
        File(".ci/packages", "tar -xzf \"$files\"/mastercontrol-*-linux.tar.gz"),
    ),
    ("systemctl enable --now mastercontrol@shop", File(".ci/packages", "inside systemctl enable --now $unit")),
    ("systemctl reload mastercontrol@shop", File(".ci/packages", "inside systemctl reload $unit")),
    (
        "systemctl enable --now mastercontrol-http.socket",
        File(".ci/real-systemd", "inside systemctl start mastercontrol-http.socket"),
    ),
    ("systemctl enable --now mastercontrol@shop.socket", File(".ci/real-systemd", "inside systemctl start $socket")),
    ("systemctl edit mastercontrol@shop", Nothing("it opens an editor")),
    ("systemctl edit mastercontrol@shop.socket", Nothing("it opens an editor")),
    (
        "podman build -f deploy/Containerfile -t mastercontrol-http .",
        File(".ci/podman", "-f deploy/Containerfile -t $image"),
    ),
    (
        "podman run --rm -p 8000:8000 -v ./public:/srv/www:ro mastercontrol-http",
        File(".ci/podman", "-v \"$directory/www:/srv/www:ro\" $image"),
    ),
    ("podman run --stop-timeout", Nothing("a part of a command")),
    ("podman run --stop-timeout 35 … --grace 30", Nothing("a part of a command")),
    (
        "podman exec CONTAINER admin-cli status",
        File(".ci/podman", "podman --runtime $runtime exec $container admin-cli --name http"),
    ),
    (
        "kubectl apply -f kubernetes.yaml",
        Nothing("there is no cluster; `manager.rs` runs what the file gives the program"),
    ),
    ("sc.exe query files", Nothing("Wine has no such program; `service.rs` asks the service manager itself")),
    ("sc.exe config files obj= ACCOUNT", Nothing("Wine has no such program")),
    (VERIFIED_STOP, File("tests/end_to_end/haproxy.rs", "VERIFIED_STOP")),
    ("cargo fmt --all -- --check", File(".ci/run", "cargo fmt --all -- --check")),
    (
        "cargo clippy --workspace --all-targets --all-features -- -D warnings",
        File(".ci/run", "cargo clippy --workspace --all-targets --all-features --locked -- -D warnings"),
    ),
    ("cargo test --workspace", File(".ci/run", "cargo test --workspace --locked")),
    ("cargo test -p examples", File(".ci/run", "cargo test --workspace --locked")),
    ("cargo run -p examples --example 1-notified-client", File("examples/Cargo.toml", "1-notified-client")),
    (
        "RUSTFLAGS=\"--cfg loom\" cargo test -p mastercontrol-worker --lib --release --target-dir target/loom model",
        File(".ci/run", "cargo test -p mastercontrol-worker --lib --release --locked --target-dir target/loom model"),
    ),
    (
        "WRITE_REFERENCE=1 cargo test -p mastercontrol-e2e --test end-to-end reference",
        File("tests/end_to_end/reference.rs", "WRITE_REFERENCE"),
    ),
    (
        "cargo package --workspace --exclude examples --exclude mastercontrol-e2e",
        File(".ci/run", "cargo package --workspace --exclude examples --exclude mastercontrol-e2e --locked"),
    ),
    ("cargo publish -p …", Nothing("it cannot be taken back")),
    ("cargo install --locked mastercontrol mastercontrol-cli", Nothing("it needs a published version")),
    ("cargo add --path …/supervisor --no-default-features", File(".ci/run", "-p mastercontrol --no-default-features")),
    ("cargo bench -p mastercontrol-e2e", Nothing("it takes hours; `.ci/full` runs a part")),
    ("cargo bench -p mastercontrol-e2e -- comparison", File("tests/benches/compare/main.rs", "(\"comparison\", ")),
    (
        "cargo bench -p mastercontrol-e2e -- relay relay-idle relay-ports",
        File(".ci/full", "cargo bench --locked -p mastercontrol-e2e --bench compare -- relay-idle relay-ports"),
    ),
    ("mdbook build docs", File(".ci/run", "mdbook build docs")),
    ("mdbook serve docs", File(".ci/run", "mdbook build docs")),
    ("setpriv --reuid www", File("tests/end_to_end/users.rs", "[\"setpriv\", \"--reuid\"")),
];

/// Third-party programs that pages have their readers run, at the beginning of a command.
const OTHERS: &[&str] = &[
    "apt",
    "cargo",
    "docker",
    "kubectl",
    "mdbook",
    "podman",
    "sc.exe",
    "setpriv",
    "systemctl",
    "tar",
    "RUSTFLAGS=\"--cfg",
    "WRITE_REFERENCE=1",
];

/// It needs a load balancer.
pub const VERIFIED_STOP: &str = "admin-cli --name web1 stop --delay 5 --verify http://balancer.example/";

#[test]
fn every_block_with_commands_is_run_by_a_test_or_names_what_runs_it() {
    let mut used = Vec::new();
    let mut problems = Vec::new();
    for page in guides() {
        // Help texts, whose examples are parsed where they are defined.
        let is_generated = page.starts_with(project().join("docs/src/reference"));
        for Block { language, line, text } in blocks(&fs::read_to_string(&page).unwrap()) {
            let mut problem = |what: &str| problems.push(format!("{}:{line}: {what}", page.display()));
            match language.as_str() {
                // `readme.rs` runs it.
                "sh" => {}
                "bat" if page.ends_with("docs/src/windows.md") => {
                    let suite = fs::read_to_string(project().join("tests/end_to_end/service.rs")).unwrap();
                    assert!(suite.contains("fn the_commands_of_its_page_do_what_they_say"));
                }
                "console" => {
                    for command in text.lines() {
                        let command = command.strip_prefix("$ ").or_else(|| command.strip_prefix("# "));
                        match command.and_then(|command| ELSEWHERE.iter().find(|(other, _)| *other == command)) {
                            Some((command, _)) => used.push(*command),
                            None => problem("no test runs this: make it a `sh` block, or say in ELSEWHERE what does"),
                        }
                    }
                }
                "text" if is_generated => {}
                "text" => {
                    if text.lines().any(is_a_command) {
                        problem("a `text` block is output alone: commands are in `sh` blocks, which are run");
                    }
                }
                "rust" | "rust,no_run" | "rust,ignore" | "js" | "json" | "yaml" | "toml" | "ini" | "dockerfile" => {}
                _ => problem("what is in this block? Give it a language"),
            }
        }
    }
    for Quoted { at, line, .. } in quoted() {
        let words: Vec<_> = line.split_whitespace().collect();
        // Two words are the name of a command.
        if words.len() < 3 || !OTHERS.contains(&words[0]) {
            continue;
        }
        match ELSEWHERE.iter().find(|(other, _)| *other == line) {
            Some((command, _)) => used.push(*command),
            None => problems.push(format!("{at}: no test runs {line:?}: say in ELSEWHERE what does")),
        }
    }
    for (command, by) in ELSEWHERE {
        assert!(used.contains(command), "no page has it any more: {command}");
        match by {
            File(file, how) => {
                let text = fs::read_to_string(project().join(file)).unwrap();
                assert!(text.contains(how), "{file} does not run it any more: {command}");
            }
            Nothing(why) => assert!(!why.is_empty()),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Whether a line looks like a command.
fn is_a_command(line: &str) -> bool {
    const PROGRAMS: &[&str] =
        &["$", "#", "supervisor", "admin-cli", "cargo", "curl", "sudo", "systemctl", "podman", "docker", "kubectl"];
    let word = line.split_whitespace().next().unwrap_or_default();
    PROGRAMS.contains(&word) || word.starts_with("./") || word.ends_with(".sh") || line.trim_end().ends_with(" &")
}

/// A command line of one of the two programs, as quoted somewhere.
#[derive(Debug)]
struct Quoted {
    at: String,
    line: String,
    /// Whether it is complete. A page may write `admin-cli close` and mean the command.
    is_whole: bool,
}

/// The text between backticks outside of blocks, with the line in which its paragraph begins.
fn codes(page: &str) -> Vec<(usize, String)> {
    let mut paragraphs: Vec<(usize, String)> = Vec::new();
    let (mut in_block, mut continues) = (false, false);
    for (number, line) in page.lines().enumerate() {
        let is_fence = line.trim_start().strip_prefix("```").is_some_and(|rest| !rest.contains('`'));
        in_block ^= is_fence;
        if in_block || is_fence || line.is_empty() {
            continues = false;
            continue;
        }
        match paragraphs.last_mut() {
            Some((_, paragraph)) if continues => *paragraph += &format!(" {line}"),
            _ => paragraphs.push((number + 1, line.to_owned())),
        }
        continues = true;
    }
    // Some are about backticks themselves.
    paragraphs.retain(|(_, paragraph)| !paragraph.contains("````"));
    let codes = paragraphs
        .iter()
        .flat_map(|(number, paragraph)| paragraph.split('`').skip(1).step_by(2).map(|code| (*number, code.to_owned())));
    codes.collect()
}

/// The command lines in the prose of the pages, and in the files to copy.
fn quoted() -> Vec<Quoted> {
    let mut all = Vec::new();
    for page in guides() {
        let text = fs::read_to_string(&page).unwrap();
        for (number, code) in codes(&text) {
            all.push(Quoted { at: format!("{}:{number}", page.display()), line: code, is_whole: false });
        }
        for Block { language, line, text } in blocks(&text) {
            let at = format!("{}:{line}", page.display());
            match language.as_str() {
                "console" => all.extend(text.lines().filter_map(|line| line.get(2..)).map(|line| Quoted {
                    at: at.clone(),
                    line: line.to_owned(),
                    is_whole: true,
                })),
                "yaml" => {
                    all.extend(lists(&text).into_iter().map(|line| Quoted { at: at.clone(), line, is_whole: true }));
                }
                _ => {}
            }
        }
    }
    for directory in ["deploy", "examples", "examples/haproxy", "examples/relay"] {
        for entry in fs::read_dir(project().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if !path.is_file() {
                continue;
            }
            let text = fs::read_to_string(&path).unwrap().replace("\\\n", " ");
            let at = path.display().to_string();
            let comments: Vec<_> = text.lines().filter_map(|line| line.trim_start().strip_prefix('#')).collect();
            for (_, code) in codes(&comments.join("\n")) {
                all.push(Quoted { at: at.clone(), line: code, is_whole: false });
            }
            for line in text.lines() {
                let line = line.trim_start();
                let started = ["ExecStart=/usr/local/bin/", "ExecReload=/usr/local/bin/"];
                let started = started.iter().find_map(|before| line.strip_prefix(before));
                // Text about a command in a comment follows it after some spaces.
                let typed = ["#   ", "//   "].iter().find_map(|before| line.strip_prefix(before));
                let typed = typed.and_then(|line| line.split("    ").next());
                let line = started.or(typed).map(str::to_owned);
                all.extend(line.map(|line| Quoted { at: at.clone(), line, is_whole: true }));
            }
            all.extend(lists(&text).into_iter().map(|line| Quoted { at: at.clone(), line, is_whole: true }));
        }
    }
    all
}

/// The commands that a container's files have as lists of words. An image's arguments follow its entry point.
fn lists(text: &str) -> Vec<String> {
    let (mut commands, mut entry_point) = (Vec::new(), String::new());
    for line in text.lines() {
        let list = line.find('[').and_then(|begin| serde_json::from_str::<Vec<String>>(&line[begin..]).ok());
        let Some(words) = list.map(|words| words.join(" ")) else { continue };
        match line.split_whitespace().next() {
            Some("ENTRYPOINT") => entry_point = words,
            Some("CMD") => commands.push(format!("{entry_point} {words}")),
            Some("command:" | "args:") => commands.push(format!("supervisor http {words}")),
            _ => commands.push(words.trim_start_matches("CMD ").to_owned()),
        }
    }
    commands
}

/// The words of one of our command lines, with a value in each place that the reader fills in. None: it belongs to
/// another program, or does not say which command it is.
fn words_of(line: &str) -> Option<Vec<OsString>> {
    let line = line.split(['|', '\\', '&']).next().unwrap();
    let line = line.split(" # ").next().unwrap();
    let begin = ["supervisor ", "admin-cli "].iter().filter_map(|program| line.find(program)).min()?;
    // `podman exec CONTAINER admin-cli status`, `restart.sh web supervisor http …`; otherwise it is a sentence.
    if begin > 0 && !line.starts_with("podman exec ") && !line.starts_with("restart.sh ") {
        return None;
    }
    let words = line[begin..].split_whitespace().map(|word| match word {
        "…" => "http",
        "URL" => "http://127.0.0.1/",
        "TIME" | "N" => "5",
        "%i" => "shop",
        word => word.trim_matches(['[', ']']),
    });
    Some(words.map(OsString::from).collect())
}

#[test]
fn every_command_line_that_is_quoted_is_one_that_the_programs_accept() {
    let mut tried = 0;
    let mut problems = Vec::new();
    for Quoted { at, line, is_whole } in quoted() {
        let Some(words) = words_of(&line) else { continue };
        tried += 1;
        let parse = |words: Vec<OsString>| match words[0].to_str() {
            Some("supervisor") => Asked::parse(words).map(drop),
            _ => admin_cli::Cli::try_parse_from(words).map(drop),
        };
        // Only on Windows, where its own test parses it.
        if words.get(1).is_some_and(|word| word == "service") {
            continue;
        }
        let Err(error) = parse(words.clone()) else { continue };
        let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
        let lacks_the_rest = matches!(
            error.kind(),
            ErrorKind::MissingRequiredArgument
                | ErrorKind::MissingSubcommand
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        );
        // `supervisor exec --listen`
        let lacks_a_value = words.last().is_some_and(|word| word.to_string_lossy().starts_with("--")) && {
            let value = words.iter().cloned().chain(["8080".into(), "program".into()]);
            parse(value.collect()).is_ok()
        };
        if !(is_help || !is_whole && (lacks_the_rest || lacks_a_value)) {
            problems.push(format!("{at}: {line}\n  {}", error.to_string().lines().next().unwrap_or_default()));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(tried > 80, "only {tried} command lines were found");
}

/// Options of other programs that pages mention.
const OPTIONS_OF_OTHERS: &[&str] = &["--preload", "--protocol", "--bind"];

#[test]
fn every_option_that_a_page_names_exists() {
    let mut known = vec!["--help".to_owned(), "--version".to_owned()];
    let mut add = |command: &clap::Command| {
        let commands = std::iter::once(command).chain(command.get_subcommands());
        let arguments = commands.flat_map(clap::Command::get_arguments);
        known.extend(arguments.filter_map(|argument| Some(format!("--{}", argument.get_long()?))));
    };
    add(&mastercontrol::cli::command());
    add(&admin_cli::Cli::command());
    let mut problems = Vec::new();
    for page in guides() {
        for (number, code) in codes(&fs::read_to_string(&page).unwrap()) {
            let option = code.split([' ', '=', '…']).next().unwrap();
            let is_known = known.iter().any(|known| known == option) || OPTIONS_OF_OTHERS.contains(&option);
            if option.starts_with("--") && option.len() > 2 && !is_known {
                problems.push(format!("{}:{number}: {code}", page.display()));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn every_file_of_the_project_that_a_page_names_exists() {
    const DIRECTORIES: &[&str] =
        &[".ci/", "admin-cli/", "deploy/", "docs/", "examples/", "supervisor/", "tests/", "worker/"];
    let mut tried = 0;
    for page in pages() {
        for (number, code) in codes(&fs::read_to_string(&page).unwrap()) {
            let name = code.split(' ').next().unwrap();
            if DIRECTORIES.iter().any(|directory| name.starts_with(directory)) && !name.contains(['{', '*', ':']) {
                assert!(project().join(name).exists(), "{}:{number}: there is no {name}", page.display());
                tried += 1;
            }
        }
    }
    assert!(tried > 20, "only {tried} names");
}

#[test]
fn every_example_is_in_the_list_of_examples() {
    let list = fs::read_to_string(project().join("examples/README.md")).unwrap();
    for entry in fs::read_dir(project().join("examples")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let row = if entry.path().is_dir() { format!("| `{name}/` |") } else { format!("| `{name}` |") };
        assert!(["Cargo.toml", "README.md"].contains(&&*name) || list.contains(&row), "{name} is not in the list");
    }
}

#[test]
fn every_settings_file_that_a_page_shows_is_valid() {
    let home = Home::new();
    let file = home.directory().join("settings.json");
    let mut tried = 0;
    for page in guides() {
        for Block { language, line, text } in blocks(&fs::read_to_string(&page).unwrap()) {
            if language == "json" {
                fs::write(&file, text).unwrap();
                let is_valid = KINDS.iter().any(|kind| check(Path::new(&file), kind).is_ok());
                assert!(is_valid, "{}:{line}: {:?}", page.display(), check(&file, "exec").map(drop));
                tried += 1;
            }
        }
    }
    assert!(tried >= 2, "only {tried} files");
}
