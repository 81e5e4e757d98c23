//! README.md, the book and examples/restart.sh work as shown.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use nix::unistd::{User, getuid};

use crate::support::{ADMIN_CLI, Ended, HUGE, Home, SUPERVISOR, free_port, is_installed, write_script};

/// The project's directory.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A shell command in the project's directory, in which `supervisor`, `admin-cli` and `cargo` are found. A supervisor
/// without an address takes a free one, and Enter from stdin; `cargo run` runs the program, and `cargo test` and `cargo
/// install` only check whether there is something to test or install.
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
        &format!(
            "#!/bin/bash\ncase \"$*\" in\n\
         \"run --release -p mastercontrol -- \"*) shift 5; exec supervisor \"$@\" ;;\n\
         \"test --workspace\") grep -q members {project}/Cargo.toml ;;\n\
         \"install --locked --path \"*) grep -q \"name = \\\"$4\\\"\" \"{project}/$4/Cargo.toml\" ;;\n\
         *) echo \"cargo $*: unknown here\" >&2; exit 2 ;;\nesac\n",
            project = project().display()
        ),
    );
    let mut command = home.program("bash");
    let path =
        std::env::join_paths(std::iter::once(bin).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())));
    command.args(["-ec", script]).env("PATH", path.unwrap()).current_dir(project());
    command
}

/// The pages that a user reads: the README of the project and of each package, the pages for contributors, and the
/// book.
pub fn pages() -> Vec<PathBuf> {
    fn add(directory: &Path, pages: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, pages);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let mut pages: Vec<_> = ["", "worker", "supervisor", "admin-cli", "examples"]
        .iter()
        .flat_map(|directory| fs::read_dir(project().join(directory)).unwrap().map(|entry| entry.unwrap().path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    add(&project().join("docs/src"), &mut pages);
    pages.sort();
    pages
}

/// The pages that say what to type. ARCHITECTURE.md describes the sources.
pub fn guides() -> impl Iterator<Item = PathBuf> {
    pages().into_iter().filter(|page| !page.ends_with("ARCHITECTURE.md"))
}

/// A block of code on a page.
pub struct Block {
    pub language: String,
    /// The line in which it begins.
    pub line: usize,
    pub text: String,
}

/// The blocks of code of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in page.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```").filter(|rest| !rest.contains('`'));
        match (fence, blocks.last_mut()) {
            (Some(language), _) if !inside => {
                blocks.push(Block { language: language.to_owned(), line: number + 1, text: String::new() });
                inside = true;
            }
            (Some(_), _) => inside = false,
            (None, Some(block)) if inside => block.text.push_str(&format!("{line}\n")),
            (None, _) => {}
        }
    }
    blocks
}

/// All shell commands of a page, in order, as one script that reports the line of the page in which it failed. None:
/// there are none.
fn script_of(page: &str) -> Option<String> {
    let mut script = "trap 'echo \"the block in line $LINE failed\" >&2' ERR\n".to_owned();
    let mut commands = blocks(page);
    commands.retain(|block| block.language == "sh");
    for Block { line, text, .. } in &commands {
        script.push_str(&format!("LINE={line}\n{text}"));
    }
    (!commands.is_empty()).then(|| on_free_ports(&script))
}

/// The ports of the pages, each replaced by a free one.
fn on_free_ports(script: &str) -> String {
    ["3000", "8000", "8080", "8888", "9100", "9999"]
        .iter()
        .fold(script.to_owned(), |script, port| script.replace(port, &free_port().to_string()))
}

fn run_in_a_directory_of_its_own(home: &Home, script: &str) -> Ended {
    let directory = home.directory().join("work");
    fs::create_dir(&directory).unwrap();
    // The reader's own programs.
    fs::copy(project().join("examples/server.js"), directory.join("server.js")).unwrap();
    fs::create_dir_all(directory.join("target/release")).unwrap();
    symlink(env!("CARGO_BIN_EXE_axum-server"), directory.join("target/release/app")).unwrap();
    // What the pages say about a checkout.
    symlink(project().join("examples"), directory.join("examples")).unwrap();
    let mut command = shell(home, script);
    // Enter, for programs that read it.
    let enter = home.directory().join("enter");
    fs::write(&enter, "\n").unwrap();
    let enter = File::open(enter).unwrap();
    command.current_dir(directory).stdin(enter).stdout(Stdio::piped()).stderr(Stdio::piped());
    home.spawn(command).end()
}

/// The output of a page's commands. None: something that they need is not installed.
fn run(page: &Path, text: &str) -> Option<String> {
    let Some(script) = script_of(text) else { return Some(String::new()) };
    let more = WITH_CLIENTS.iter().filter(|(with_clients, _)| page.ends_with(with_clients));
    let script = more.fold(script, |script, (_, more)| script + "LINE=0\n" + &on_free_ports(more));
    let missing = ["curl", "nc", "node", "python3"]
        .into_iter()
        .find(|tool| script.contains(&format!("{tool} ")) && !is_installed(tool));
    if let Some(tool) = missing {
        eprintln!("skipped: {}: {tool} is not installed", page.display());
        return None;
    }
    let home = Home::new();
    let ended = run_in_a_directory_of_its_own(&home, &script);
    assert_eq!(ended.code, 0, "{}\n{ended}", page.display());
    let left: Vec<_> = home.sockets().read_dir().map_or_else(|_| Vec::new(), Iterator::collect);
    assert!(left.is_empty(), "{} left {left:?}", page.display());
    Some(format!("{}{}", ended.out, ended.err))
}

/// The lines of output that a page shows and its commands do not print.
fn not_printed(page: &Path) -> Vec<String> {
    let text = fs::read_to_string(page).unwrap();
    let Some(printed) = run(page, &text) else { return Vec::new() };
    let masked_lines: Vec<_> = printed.lines().map(masked).collect();
    // Reference pages are generated.
    let is_reference = page.starts_with(project().join("docs/src/reference"));
    let mut unknown = Vec::new();
    for Block { line, text, .. } in blocks(&text).iter().filter(|block| block.language == "text" && !is_reference) {
        let shown = text.lines().filter(|shown| !shown.starts_with("{{#include "));
        let shown =
            shown.filter(|shown| !masked_lines.contains(&masked(shown)) && !DIFFERENT_EACH_TIME.contains(shown));
        unknown.extend(shown.map(|shown| format!("{}:{line}: {shown}", page.display())));
    }
    if !unknown.is_empty() {
        eprintln!("the commands of {} print this:\n{printed}", page.display());
    }
    unknown
}

#[test]
fn every_command_of_every_page_does_what_the_page_says_and_prints_what_it_shows() {
    let with_commands = guides().filter(|page| script_of(&fs::read_to_string(page).unwrap()).is_some());
    assert!(with_commands.count() >= 10);
    let unknown: Vec<_> = thread::scope(|scope| {
        let pages: Vec<_> = guides().map(|page| scope.spawn(move || not_printed(&page))).collect();
        pages.into_iter().flat_map(|page| page.join().unwrap()).collect()
    });
    assert!(unknown.is_empty(), "the commands of the page do not print this:\n{}", unknown.join("\n"));
    let sources = sources();
    for line in DIFFERENT_EACH_TIME {
        assert!(is_made_of(line, &sources), "no program prints this: {line}");
    }
}

/// Commands for pages that show more than their own commands print, because the reader brings the clients.
const WITH_CLIENTS: &[(&str, &str)] = &[
    ("docs/src/restart.md", TWO_CLIENTS),
    ("docs/src/stop-and-drain.md", TWO_CLIENTS),
    ("docs/src/stop-and-drain.md", UNREAD),
    ("docs/src/operate.md", TWO_CLIENTS),
    ("docs/src/operate.md", UNREAD),
];

/// Two clients that disconnect when they are notified of a restart, and two that do so at a stop.
const TWO_CLIENTS: &str = r#"
supervisor echo --listen 9999 &
admin-cli wait --ready
two_clients() {
    for _ in 1 2; do
        python3 -c "import socket; client = socket.create_connection(('127.0.0.1', 9999)); all(iter(lambda: client.recv(9), b''))" &
    done
    until admin-cli status --short | grep ' 2 connections'; do :; done
}
two_clients
admin-cli restart
two_clients
admin-cli events --follow > followed &
until grep listening followed; do :; done
admin-cli stop
wait
cat followed
"#;

/// A program that does not read what its client sends, and does not stop when it is asked to. It accepts no second
/// client.
const UNREAD: &str = r#"
cat > unread.py <<'END'
import signal, socket, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.create_server(("127.0.0.1", 8000))
client, _ = listener.accept()
client.setblocking(False)
try:
    while client.send(b"x" * 65536):
        pass
except BlockingIOError:
    time.sleep(600)
END
supervisor exec python3 unread.py &
admin-cli wait --ready
python3 -c "
import socket, time
clients = [socket.create_connection(('127.0.0.1', 8000)) for _ in range(2)]
clients[1].send(b'x' * 512)
try:
    while clients[1].recv(1): pass
except OSError: pass
" &
until admin-cli connections | grep 'waiting to be accepted'; do :; done
until admin-cli connections | grep established; do :; done
admin-cli connections
admin-cli stop --grace 2 || echo 'by force'
wait
"#;

/// Lines whose wording depends on which requests are lost.
const DIFFERENT_EACH_TIME: &[&str] = &[
    "not verified: 3 of 17950 requests lost: 2 reset, 1 empty",
    "  the first 0.31 s after the restart was requested, the last after 0.40 s",
];

/// A line of output without the parts that differ each time: numbers, units of time, paths, users and columns.
fn masked(line: &str) -> String {
    let user = User::from_uid(getuid()).unwrap().unwrap().name;
    let masked = |word: &str| {
        let word = word.strip_prefix('/').and_then(|path| path.rsplit('/').next()).unwrap_or(word);
        let mut masked = String::new();
        for letter in word.chars() {
            match letter {
                '0'..='9' if masked.ends_with('0') => {}
                '0'..='9' => masked.push('0'),
                '.' if masked.ends_with('0') => {}
                letter => masked.push(letter),
            }
        }
        match masked.as_str() {
            "ms" => "s".to_owned(),
            "ms:" => "s:".to_owned(),
            masked => masked.replace("alice", &user),
        }
    };
    line.replace("under 1 ms", "1 ms").split_whitespace().map(masked).collect::<Vec<_>>().join(" ")
}

/// Whether all words of a line occur in the programs.
fn is_made_of(line: &str, sources: &str) -> bool {
    line.split(|letter: char| !letter.is_alphabetic()).all(|word| sources.contains(word))
}

/// The sources of both programs. Text that continues on the next line of a source is one line for its reader.
fn sources() -> String {
    fn read(directory: &Path, sources: &mut String) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                read(&path, sources);
            } else {
                let text = fs::read_to_string(path).unwrap();
                let parts: Vec<_> = text.split("\\\n").map(str::trim_start).collect();
                sources.push_str(&parts.concat());
            }
        }
    }
    let mut sources = String::new();
    for package in ["supervisor", "admin-cli"] {
        read(&project().join(package).join("src"), &mut sources);
    }
    sources
}

/// The links of a page: the text in `](…)` outside of code, with the number of its line.
fn links(page: &str) -> Vec<(usize, String)> {
    let mut links = Vec::new();
    let mut in_code = false;
    for (number, line) in page.lines().enumerate() {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        if !in_code {
            let prose: String = line.split('`').step_by(2).collect::<Vec<_>>().join("x");
            let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
            links.extend(targets.map(|target| (number + 1, target.to_owned())));
        }
    }
    links
}

/// The anchors of a page's headings, as mdBook and others make them.
fn anchors(page: &str) -> Vec<String> {
    let mut in_code = false;
    let headings = page.lines().filter(|line| {
        if line.starts_with("```") {
            in_code = !in_code;
        }
        !in_code && line.starts_with('#')
    });
    let anchor = |heading: &str| {
        let text = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        text.chars().filter(|&letter| letter.is_alphanumeric() || "-_".contains(letter)).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn every_link_and_anchor_of_every_page_leads_somewhere() {
    let book = project().join("docs/src");
    let mut broken = Vec::new();
    for page in pages() {
        for (line, link) in links(&fs::read_to_string(&page).unwrap()) {
            if link.contains("://") {
                continue;
            }
            let (path, anchor) = link.split_once('#').map_or((&*link, None), |(path, anchor)| (path, Some(anchor)));
            let target = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            let text = fs::read_to_string(&target).unwrap_or_default();
            // The built book contains only its own pages.
            let outside = page.starts_with(&book) && !target.canonicalize().is_ok_and(|path| path.starts_with(&book));
            if !target.exists()
                || outside
                || anchor.is_some_and(|anchor| !anchors(&text).iter().any(|own| own == anchor))
            {
                broken.push(format!("{}:{line}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_table_of_contents_has_each_page_of_the_book_once() {
    let book = project().join("docs/src");
    let summary = fs::read_to_string(book.join("SUMMARY.md")).unwrap();
    let mut listed: Vec<_> = links(&summary).into_iter().map(|(_, link)| book.join(link)).collect();
    listed.sort();
    let mut there: Vec<_> = pages().into_iter().filter(|page| page.starts_with(&book)).collect();
    there.retain(|page| !page.ends_with("SUMMARY.md"));
    there.sort();
    assert_eq!(listed, there);
}

#[test]
fn each_readme_names_the_oldest_compiler_of_its_package() {
    for directory in [".", "worker", "supervisor", "admin-cli"] {
        let directory = project().join(directory);
        let manifest = fs::read_to_string(directory.join("Cargo.toml")).unwrap();
        let own =
            manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")).map(|own| own.trim_matches('"'));
        let named = format!("Rust {} or newer", own.unwrap_or(env!("CARGO_PKG_RUST_VERSION")));
        let readme = fs::read_to_string(directory.join("README.md")).unwrap();
        assert!(readme.contains(&named), "{}: it does not say \"{named}\"", directory.display());
    }
}

#[test]
fn every_message_that_is_explained_is_one_of_the_programs() {
    let sources = sources();
    let page = fs::read_to_string(project().join("docs/src/troubleshooting.md")).unwrap();
    let mut tried = 0;
    for heading in page.lines().filter(|line| line.starts_with("### ")) {
        for message in heading.split('`').skip(1).step_by(2) {
            let parts = message.split('…').map(|part| part.trim_matches([' ', '(', ')']));
            for part in parts.filter(|part| part.len() > 3) {
                assert!(sources.contains(part), "no program says {part:?}: {heading}");
                tried += 1;
            }
        }
    }
    assert!(tried > 30, "only {tried} parts of messages");
}

#[test]
fn the_restart_script_replaces_one_that_runs_and_starts_one_that_does_not() {
    let home = Home::new();
    let listen = format!("127.0.0.1:{}", free_port());
    let name = home.name().to_owned();
    // The supervisor keeps the script's stdout and stderr and outlives it, so their end is not awaited.
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

#[test]
fn the_restart_script_ends_when_a_program_that_binds_its_port_itself_is_ready() {
    let home = Home::new();
    let name = home.name();
    let script = format!("examples/restart.sh {name} supervisor exec --name {name} --ready 0 --log json sleep 600");
    for _ in 0..2 {
        let mut command = shell(&home, &script);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(home.spawn(command).wait(), 0);
    }
    home.admin(&["--name", name, "stop", "--grace", HUGE]).expect(0);
}
