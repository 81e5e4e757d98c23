//! The pages of `docs/src/reference` that are generated from the definitions: the command lines, `exit.rs`,
//! `protocol.rs` and its files, `metrics.rs`, and the events that the supervisor's sources write. To regenerate them:
//!
//! ```text
//! WRITE_REFERENCE=1 cargo test -p mastercontrol-e2e --test end-to-end reference
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use mastercontrol::protocol::{MAX_CHANGES, MAX_NAMED};
use syn::visit::{self, Visit};

use crate::readme::project;
use crate::support::{ADMIN_CLI, Home, SUPERVISOR};

const MARK: &str = "<!-- Generated from the definitions by tests/end_to_end/reference.rs. -->";

/// What each event means. The levels come from the sources.
const EVENTS: &[(&str, &str)] = &[
    ("admin_socket_lost", "The admin socket was deleted and cannot be created again yet."),
    ("admin_socket_restored", "The admin socket had been deleted and exists again."),
    (
        "admin_socket_unwatched",
        "The system gives no inotify instance, so an admin socket that is deleted is restored after some seconds and not at once.",
    ),
    ("closing_connection", "A client was asked to disconnect, by `admin-cli close`."),
    ("connected", "A client connected (with `--verbose`)."),
    ("connection_closed", "The connection of `admin-cli close` has ended."),
    ("crashed", "The server ended with a failure, without being asked to."),
    ("deadline_moved", "The deadline of a drain was moved, by `admin-cli grace`."),
    ("delayed", "A stop was scheduled, by `--delay` of the supervisor or of `admin-cli stop`."),
    ("draining", "A drain is in progress."),
    (
        "ended",
        "The server ended without a failure and without being asked to. With `--verbose` also: a connection ended.",
    ),
    (
        "ending_program",
        "A program is asked to end that is not ready in time, or does not work. What is left of it is killed after `kill_ms`.",
    ),
    ("exhausted", "Descriptors or threads ran out; the server waits until there is room."),
    ("forced", "A connection was closed by force at the deadline."),
    (
        "gave_up",
        "The server ended and is not started again: it crashed too often, or `--restart` says so. The supervisor ends.",
    ),
    ("handler_panicked", "A handler panicked. Its connection was closed."),
    ("held_up", "A program had these clients at the last look of its drain."),
    ("health_lost", "The health endpoint has failed."),
    (
        "left_behind",
        "An old generation did not end after its deadline and is no longer waited for. The supervisor continues.",
    ),
    ("listener_closed", "The service manager had kept a listener that the settings do not name. It was closed."),
    ("listening", "The supervisor is ready for requests and clients."),
    ("log_lines_lost", "Lines of the log were dropped because its reader was too slow. The events have them."),
    ("no_admin_socket", "There is no admin socket (with `--admin try`)."),
    ("no_log", "A Windows service cannot write its log file."),
    ("no_restart", "Restarts that were waiting were cancelled, because the supervisor stops."),
    ("no_service_manager", "The service manager cannot be reached."),
    (
        "not_accepted",
        "Clients wait on a socket of `--listen`, and the program accepts none; or it tried to bind an address itself and \
         crashed.",
    ),
    ("not_asked", "Windows: the program could not be asked to stop, and is killed at the deadline."),
    ("not_http", "A client speaks TLS or HTTP/2 to `--relay http`. Logged once a generation."),
    (
        "not_kept",
        "The service manager keeps fewer listeners for the next supervisor than there are (`FileDescriptorStoreMax=`).",
    ),
    ("not_permitted", "A client of the admin socket belongs to another user."),
    ("not_ready", "No new clients may be sent here, by `admin-cli drain`."),
    ("not_ready_yet", "A program that is being started is not ready after five seconds, for the reason that is given."),
    ("not_started", "The supervisor could not start. It exits."),
    ("not_written", "Completions or man pages could not be written."),
    (
        "notify_ignored",
        "A message on `NOTIFY_SOCKET` came from a process that does not belong to the program. Logged once a generation.",
    ),
    ("old_failed", "A generation failed that was draining already."),
    ("out_of_control", "Master control hung or panicked. The supervisor exits."),
    ("outage", "The old program is stopped before the new one starts, so nothing serves meanwhile."),
    ("outage_over", "The new program is ready. `down_ms` is how long the outage lasted at most."),
    ("overlapping", "The new program serves beside the old one (`--overlap`)."),
    ("overrun", "A stop overran its deadline. The process exits."),
    ("panicked", "A thread of the supervisor panicked. If it served a client, `handler_panicked` follows."),
    ("paused", "Clients and requests wait, by `admin-cli pause`."),
    ("reader_let_go", "A client that followed the events read nothing, and was disconnected."),
    ("port_lost", "Another process took the private port of a program before the program could (with `--relay`)."),
    (
        "ready",
        "A new program is ready, as `evidence` shows; or new clients may be sent here again, by `admin-cli resume`.",
    ),
    ("refused", "A client was refused: too many connections (with `--verbose`)."),
    ("request", "An HTTP request was answered (with `--verbose`)."),
    ("restart_failed", "The new generation could not be built or was withdrawn."),
    ("restarting", "A restart has begun."),
    ("resumed", "A pause is over. `early` says why, if its holder did not end it."),
    ("retired", "An old generation has drained."),
    ("retiring", "An old generation drains."),
    ("service", "The supervisor runs as a Windows service."),
    ("serving", "A new generation serves."),
    ("signaled", "The program was sent a signal, by `admin-cli signal`."),
    ("signals_dropped", "Signals are not passed on to the program, because its guardian is held, as by a debugger."),
    ("stopped", "The server has stopped. The members count what became of its clients."),
    ("stopping", "A stop has begun."),
    ("suspended", "A process of the program is suspended."),
    ("unhealthy", "The checks of the program failed. It is replaced."),
    ("waiting", "The server crashed and is started again after `wait_ms`."),
];

/// Events whose names are chosen by an expression rather than written in the call.
const CHOSEN: &[(&str, &str)] = &[
    ("crashed", "error"),
    ("ended", "info"),
    ("log_lines_lost", "warning"),
    ("panicked", "error"),
    ("not_written", "error"),
    ("resumed", "info"),
    ("resumed", "warning"),
    ("retired", "info"),
    ("service", "error"),
    ("stopped", "info"),
];

fn help(home: &Home, program: &str, arguments: &[&str], columns: u32) -> String {
    let mut command = home.program(program);
    command.args(arguments).arg("--help").env("COLUMNS", columns.to_string());
    command.env_remove("CLICOLOR_FORCE");
    // The programs under test have names of their own.
    let help = home.run(command).expect(0).out.replace("-under-test", "");
    // This default depends on the limit of descriptors.
    let lines = help.lines().map(|line| match (line.contains("served at once"), line.split_once("[default: ")) {
        (true, Some((before, _))) => format!("{before}[default: 10000]"),
        _ => line.trim_end().to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// The commands that a help text lists.
fn commands(help: &str) -> Vec<String> {
    let list = help.split("\nCommands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let names = list.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    names.filter_map(|line| line.split_whitespace().next()).filter(|&name| name != "help").map(str::to_owned).collect()
}

fn command_lines(home: &Home, name: &str, program: &str) -> String {
    let mut page = format!("# Command line: {name}\n\n{MARK}\n");
    let own = help(home, program, &[], 100);
    let _ = write!(page, "\n```text\n{own}\n```\n");
    for command in commands(&own) {
        let _ = write!(page, "\n## {name} {command}\n\n```text\n{}\n```\n", help(home, program, &[&command], 100));
    }
    page
}

/// Name, meaning.
fn options(help: &str) -> Vec<(String, String)> {
    let mut options = Vec::new();
    let parts = help.split("\n\n").filter(|part| part.contains("Options:\n") || part.starts_with("Arguments:\n"));
    for line in parts.flat_map(str::lines).filter(|line| line.starts_with(' ')) {
        let line = line.trim_start();
        let (name, rest) = match (line.split_once("--"), line.strip_prefix('[')) {
            (_, Some(argument)) if line.starts_with('[') => {
                let (name, rest) = argument.split_once(']').unwrap();
                (name.to_lowercase(), rest.trim_start_matches("..."))
            }
            (Some((_, rest)), _) => {
                let end = rest.find(' ').unwrap_or(rest.len());
                let meaning = rest[end..].split_once("  ").map_or(&rest[end..], |(_, meaning)| meaning);
                (rest[..end].to_owned(), meaning)
            }
            _ => continue,
        };
        if !["help", "config"].contains(&name.as_str()) {
            options.push((name, rest.trim().replace('|', "\\|").replace('<', "\\<")));
        }
    }
    options
}

fn settings(home: &Home) -> String {
    let mut all: BTreeMap<String, Vec<(&str, String)>> = BTreeMap::new();
    let servers = ["exec", "http", "echo", "command"];
    for server in servers {
        for (name, meaning) in options(&help(home, SUPERVISOR, &[server], 2000)) {
            all.entry(name).or_default().push((server, meaning));
        }
    }
    let mut page = format!(
        "# Settings\n\n{MARK}\n
A file for `--config` is one JSON object. Its members are named like the options of the command line, without the hyphens \
         in front. The command line takes precedence over the file. The file is read again at each restart.

```json
{{ \"listen\": [8080, \"/run/app.sock\"], \"program\": [\"./server\", \"--fast\"], \"grace\": 30, \"verbose\": true }}
```

- Values are numbers or strings; a flag such as `verbose` is `true` or `false`.
- An option that may be repeated takes a list, and so does `program`.
- Relative paths start at the file's directory. The program's own path is looked up in the directory in which it starts.
- Times are seconds (`5`, `1.5`), or have units: `500ms`, `90s`, `2m`, `1h`, `1m30s`, `2d`; `infinity` is no limit.

`admin-cli check FILE` validates a file without starting anything.

| setting | servers | meaning |
| --- | --- | --- |
"
    );
    for (name, meanings) in all {
        let distinct: BTreeSet<_> = meanings.iter().map(|(_, meaning)| meaning).collect();
        for meaning in distinct {
            let of: Vec<_> = meanings.iter().filter(|(_, other)| other == meaning).map(|(server, _)| *server).collect();
            let of = if of.len() == servers.len() { "all".into() } else { of.join(", ") };
            let _ = writeln!(page, "| `{name}` | {of} | {meaning} |");
        }
    }
    page
}

fn source(path: &str) -> syn::File {
    syn::parse_file(&fs::read_to_string(project().join("supervisor/src").join(path)).unwrap()).unwrap()
}

/// A doc comment. Links into the code become plain words.
fn doc(attributes: &[syn::Attribute]) -> String {
    let mut text = String::new();
    for attribute in attributes {
        let syn::Meta::NameValue(value) = &attribute.meta else { continue };
        let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(line), .. }) = &value.value else { continue };
        if value.path.is_ident("doc") {
            text.push_str(line.value().strip_prefix(' ').unwrap_or(&line.value()));
            text.push('\n');
        }
    }
    let mut plain = String::new();
    let mut rest = text.trim_end();
    while let Some((before, link)) = rest.split_once("[`") {
        let (target, behind) = link.split_once("`]").unwrap();
        let word = target.rsplit("::").next().unwrap();
        let word = if target.contains("::") { snake(word) } else { word.to_owned() };
        let _ = write!(plain, "{before}`{word}`");
        rest = behind;
    }
    plain + rest
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

fn exit_codes() -> String {
    let mut page = format!("# Exit codes\n\n{MARK}\n\n| code | `admin-cli` | `supervisor` |\n| --- | --- | --- |\n");
    for item in source("exit.rs").items {
        let syn::Item::Enum(exit) = item else { continue };
        for variant in exit.variants {
            let Some((_, syn::Expr::Lit(code))) = &variant.discriminant else {
                panic!("{} has no code", variant.ident)
            };
            let syn::Lit::Int(code) = &code.lit else { panic!("{} has no number", variant.ident) };
            let text = doc(&variant.attrs).replace('\n', " ");
            let of = |program: &str| {
                let part = text.split_once(program).map(|(_, rest)| rest.split(" `supervisor`: ").next().unwrap());
                part.unwrap_or_default().trim_end_matches('.').to_owned()
            };
            let _ = writeln!(page, "| {code} | {} | {} |", of("`admin-cli`: "), of("`supervisor`: "));
        }
    }
    page + "
Under `exec` with `--restart never`, the supervisor exits as the program did: with its code, or with 128 plus the number of \
            the signal that killed it. A code of `--success-exit` becomes 0. With `on-failure`, a success ends the \
            supervisor with 0, and too many crashes end it with 9. If the first program cannot be run, the code is 126, or \
            127 if it is not found.
"
}

/// The type as the protocol has it.
fn json_type(of: &syn::Type) -> String {
    let syn::Type::Path(path) = of else { return "value".into() };
    let last = path.path.segments.last().unwrap();
    let inner = match &last.arguments {
        syn::PathArguments::AngleBracketed(inner) => inner.args.first(),
        _ => None,
    };
    match (last.ident.to_string().as_str(), inner) {
        ("Option", Some(syn::GenericArgument::Type(inner))) => format!("{}, optional", json_type(inner)),
        ("Vec", Some(syn::GenericArgument::Type(inner))) => format!("list of {}", json_type(inner)),
        ("Box", Some(syn::GenericArgument::Type(inner))) => json_type(inner),
        ("String" | "SocketAddr", _) => "text".into(),
        ("bool", _) => "true or false".into(),
        ("Map", _) => "more members".into(),
        (word, _) if word.starts_with(['u', 'i']) => "number".into(),
        (word, _) => format!("[{word}](#{})", word.to_lowercase()),
    }
}

fn fields(fields: &syn::Fields, page: &mut String) {
    let named: Vec<_> = fields.iter().filter(|field| field.ident.is_some()).collect();
    if named.is_empty() {
        return;
    }
    page.push_str("\n| member | type | meaning |\n| --- | --- | --- |\n");
    for field in named {
        let meaning = doc(&field.attrs).replace('\n', " ").replace('|', "\\|");
        let mut what = json_type(&field.ty);
        let has_default = field.attrs.iter().any(|attribute| {
            matches!(&attribute.meta, syn::Meta::List(list) if list.path.is_ident("serde") && list.tokens.to_string().contains("default"))
        });
        if has_default && !what.ends_with("optional") {
            what.push_str(", optional");
        }
        let _ = writeln!(page, "| `{}` | {what} | {meaning} |", field.ident.as_ref().unwrap());
    }
}

fn is_public(visibility: &syn::Visibility) -> bool {
    matches!(visibility, syn::Visibility::Public(_))
}

fn protocol() -> String {
    let head = source("protocol.rs");
    let mut page = format!("# Admin protocol\n\n{MARK}\n\n{}\n", doc(&head.attrs));
    let parts = ["request", "progress", "entry", "answer", "status", "connection"];
    let parts = parts.map(|part| source(&format!("protocol/{part}.rs")));
    for item in parts.iter().flat_map(|part| &part.items) {
        match item {
            syn::Item::Enum(item) if is_public(&item.vis) => {
                let is_word = item.variants.iter().all(|variant| !matches!(variant.fields, syn::Fields::Named(_)))
                    && !["Progress", "Answer"].contains(&item.ident.to_string().as_str());
                let _ = write!(page, "\n## {}\n\n{}\n", item.ident, doc(&item.attrs));
                if is_word {
                    page.push_str("\n| word | meaning |\n| --- | --- |\n");
                }
                for variant in &item.variants {
                    let word = snake(&variant.ident.to_string());
                    if !is_word {
                        let _ = write!(page, "\n### {}: {word}\n\n{}\n", item.ident, doc(&variant.attrs));
                        match &variant.fields {
                            syn::Fields::Unnamed(inner) => {
                                let of = json_type(&inner.unnamed[0].ty);
                                let _ = write!(page, "\nIts members are those of {of}.\n");
                            }
                            named => fields(named, &mut page),
                        }
                    } else if variant.ident != "Other" {
                        let _ = writeln!(page, "| `{word}` | {} |", doc(&variant.attrs).replace('\n', " "));
                    }
                }
            }
            syn::Item::Struct(item) if is_public(&item.vis) => {
                let _ = write!(page, "\n## {}\n\n{}\n", item.ident, doc(&item.attrs));
                fields(&item.fields, &mut page);
            }
            _ => {}
        }
    }
    page.replace("`MAX_NAMED`", &MAX_NAMED.to_string()).replace("`MAX_CHANGES`", &MAX_CHANGES.to_string())
}

/// Calls of methods with these names, whose first arguments are literals.
struct Calls {
    names: &'static [&'static str],
    /// The method, its texts, and the level of a line.
    found: Vec<(String, Vec<String>, String)>,
}

impl<'a> Visit<'a> for Calls {
    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        if module.ident != "tests" {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_expr_method_call(&mut self, call: &'a syn::ExprMethodCall) {
        let name = call.method.to_string();
        if self.names.contains(&name.as_str()) {
            let mut texts = Vec::new();
            let mut level = String::new();
            for argument in &call.args {
                match argument {
                    syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => texts.push(text.value()),
                    syn::Expr::Path(path) if path.path.segments.first().unwrap().ident == "Level" => {
                        level = path.path.segments.last().unwrap().ident.to_string().to_lowercase();
                    }
                    _ => {}
                }
            }
            self.found.push((name, texts, level));
        }
        visit::visit_expr_method_call(self, call);
    }
}

fn metrics() -> String {
    let mut calls = Calls { names: &["gauge", "counter", "begin"], found: Vec::new() };
    calls.visit_file(&source("metrics.rs"));
    let mut page = format!(
        "# Metrics\n\n{MARK}\n
`GET /metrics` of the [health endpoint](../out-of-rotation.md#the-health-endpoint) and `admin-cli metrics` have these, in \
         the Prometheus text format. Under plain `exec` there are none about connections, because only the program knows \
         its connections.

| metric | type | meaning |\n| --- | --- | --- |\n"
    );
    for (method, texts, _) in calls.found {
        let (name, kind, meaning) = match (method.as_str(), &texts[..]) {
            ("gauge", [name, meaning]) => (name.clone(), "gauge", meaning),
            ("counter", [name, meaning]) => (format!("{name}_total"), "counter", meaning),
            ("begin", [name, kind, meaning]) => (name.clone(), kind.as_str(), meaning),
            _ => continue,
        };
        let _ = writeln!(page, "| `mastercontrol_{name}` | {kind} | {meaning} |");
    }
    page
}

fn sources(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            files.push(path);
        }
    }
}

fn events() -> String {
    let mut files = Vec::new();
    sources(&project().join("supervisor/src"), &mut files);
    files.retain(|file| !file.components().any(|part| part.as_os_str() == "tests"));
    let mut levels: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (name, level) in CHOSEN {
        levels.entry((*name).to_owned()).or_default().insert((*level).to_owned());
    }
    for file in files {
        let mut calls = Calls { names: &["line"], found: Vec::new() };
        calls.visit_file(&syn::parse_file(&fs::read_to_string(&file).unwrap()).unwrap());
        for (_, texts, level) in calls.found {
            if let ([name, ..], false) = (&texts[..], level.is_empty()) {
                levels.entry(name.clone()).or_default().insert(level);
            }
        }
    }
    let described: BTreeSet<_> = EVENTS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let written: BTreeSet<_> = levels.keys().cloned().collect();
    let not_described: Vec<_> = written.difference(&described).collect();
    let not_written: Vec<_> = described.difference(&written).collect();
    assert!(
        not_described.is_empty() && not_written.is_empty(),
        "EVENTS lacks {not_described:?}, CHOSEN lacks {not_written:?}"
    );
    let mut page = format!(
        "# Events\n\n{MARK}\n
`admin-cli events --json` and `--log json` print one JSON object per line. Each has `seq`, `time`, `level`, `event` and \
         `message`; `message` is the text for people, and further members depend on the event:

```text
{{\"seq\":2,\"time\":\"…\",\"level\":\"info\",\"event\":\"stopping\",\"message\":\"…\",\"by\":\"SIGTERM\",\"grace_ms\":5000}}
```

| event | level | meaning |\n| --- | --- | --- |\n"
    );
    for (name, meaning) in EVENTS {
        let level: Vec<_> = levels[*name].iter().map(String::as_str).collect();
        let _ = writeln!(page, "| `{name}` | {} | {meaning} |", level.join(", "));
    }
    page
}

#[test]
fn the_reference_is_what_the_definitions_say() {
    let home = Home::new();
    let pages = [
        ("supervisor", command_lines(&home, "supervisor", SUPERVISOR)),
        ("admin-cli", command_lines(&home, "admin-cli", ADMIN_CLI)),
        ("settings", settings(&home)),
        ("exit-codes", exit_codes()),
        ("protocol", protocol()),
        ("metrics", metrics()),
        ("events", events()),
    ];
    let mut stale = Vec::new();
    for (name, page) in pages {
        let path = project().join(format!("docs/src/reference/{name}.md"));
        if std::env::var_os("WRITE_REFERENCE").is_some() {
            fs::write(&path, &page).unwrap();
        } else if fs::read_to_string(&path).unwrap_or_default() != page {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "stale: {stale:?}; run: WRITE_REFERENCE=1 cargo test -p mastercontrol-e2e --test end-to-end reference"
    );
}

#[test]
fn each_message_that_the_protocol_shows_is_understood() {
    use mastercontrol::protocol::{parse_request, parse_response};

    let page = protocol();
    // Not those that are cut short, or shown with members of any kind.
    let samples = page.lines().filter_map(|line| line.strip_prefix('`')?.strip_suffix('`'));
    let mut tried = 0;
    for sample in samples.filter(|sample| sample.starts_with('{') && !sample.contains('…')) {
        let understood = match sample {
            request if request.starts_with(r#"{"v""#) => parse_request(request.as_bytes()).is_ok(),
            response if response.starts_with(r#"{"result""#) || response.starts_with(r#"{"event""#) => {
                matches!(parse_response(response.as_bytes()), Ok(Some(_)))
            }
            _ => continue,
        };
        assert!(understood, "{sample}");
        tried += 1;
    }
    assert!(tried > 15, "only {tried} samples");
}
