#![allow(clippy::unwrap_used)]
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, Parser};
use proptest::prelude::*;
use serde_json::Value;

use super::config::Config;
use super::definition::{Cli, KINDS, ServerCli};
use super::directory::of_the_start;
use super::file::{self, ConfigFile, not_in_a_file};
use super::invocation::Invocation;
#[cfg(unix)]
use super::invocation::check;
#[cfg(unix)]
use super::server::Front;
use super::server::{HandlerKind, OwnServer, Server};
use crate::corpus;
use crate::listen::Address;
#[cfg(unix)]
use crate::listen::in_words;
use crate::log::Log;
use crate::restart::RestartPolicy;
use crate::settings::OnHup;

/// A directory with a settings file, which is removed afterwards.
struct Directory(PathBuf);

impl Directory {
    fn new(test: &str) -> Directory {
        let directory = std::env::temp_dir().join(format!("mastercontrol-config-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        Directory(directory)
    }

    fn file(&self) -> PathBuf {
        self.0.join("web.json")
    }

    /// A command line that names the file, which has this text now.
    fn invocation(&self, text: impl AsRef<[u8]>, arguments: &[&str]) -> Invocation {
        fs::write(self.file(), text).unwrap();
        let mut line: Vec<OsString> =
            std::iter::once("supervisor").chain(arguments.iter().copied()).map(Into::into).collect();
        line.extend(["--config".into(), self.file().into()]);
        Invocation::parse(line).unwrap()
    }

    fn read(&self, text: &str, arguments: &[&str]) -> Config {
        self.invocation(text, arguments).read().unwrap()
    }

    /// The message about the file, as if `--config web.json` had named it.
    fn message(&self, text: impl AsRef<[u8]>, kind: &str) -> String {
        let mut invocation = self.invocation(text, &[kind]);
        invocation.file = Some(ConfigFile { named: "web.json".into(), path: self.file() });
        invocation.read().unwrap_err().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn says(kind: &str, text: impl AsRef<[u8]>, message: &str) {
    static COUNT: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(Directory::new(&format!("says-{count}")).message(text, kind), message);
}

fn line(arguments: &[&str]) -> Config {
    Config::parse(std::iter::once("supervisor").chain(arguments.iter().copied()), &of_the_start(), &[]).unwrap()
}

#[track_caller]
fn own(config: &Config) -> &OwnServer {
    let Server::Own(own) = &config.server else { panic!("it is a program: {config:?}") };
    own
}

/// The options on the command line of `http`, including `config`.
fn names() -> Vec<String> {
    let cli = ServerCli::command();
    let definitions = cli.find_subcommand("http").unwrap().get_arguments();
    definitions.map(|definition| definition.get_long().unwrap_or(definition.get_id().as_str()).to_owned()).collect()
}

#[test]
fn the_definition_is_one_that_clap_takes() {
    ServerCli::command().debug_assert();
    let names: Vec<_> = ServerCli::command().get_subcommands().map(|kind| kind.get_name().to_owned()).collect();
    assert_eq!(names, KINDS);
}

#[test]
fn the_help_of_each_command_has_examples_and_all_of_them_are_taken() {
    let program = Cli::command();
    program.clone().debug_assert();
    for command in program.get_subcommands().chain([&program]) {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        assert!(help.starts_with("Examples:\n"), "{} has no examples", command.get_name());
        for line in help.lines().filter(|line| line.starts_with("  supervisor ")) {
            // The explanation follows two spaces.
            let words = line.trim_start().split("  ").next().unwrap().split(' ');
            Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}\n{error}"));
        }
    }
}

#[test]
fn a_file_says_what_the_command_line_could_say() {
    let directory = Directory::new("all");
    let text = r#"{
        "listen": "127.0.0.1:7000", "name": "shop", "grace": 1.5, "max-connections": 7, "admin": "off", "log": "json",
        "verbose": true, "restart": "never", "max-restarts": 3, "period": "1m30s", "check-every": "10",
        "health": 9100
    }"#;
    let arguments = [
        "command",
        "--listen=127.0.0.1:7000",
        "--name=shop",
        "--grace=1.5",
        "--max-connections=7",
        "--admin=off",
        "--log=json",
        "--verbose",
        "--restart=never",
        "--max-restarts=3",
        "--period=1m30s",
        "--check-every=10",
        "--health=9100",
    ];
    assert_eq!(directory.read(text, &["command"]), line(&arguments));
}

#[test]
fn what_sighup_does_can_be_said_where_there_are_signals() {
    let directory = Directory::new("on-hup");
    assert_eq!(directory.read(r#"{"on-hup": "stop"}"#, &["echo"]).on_hup, OnHup::Stop);
    if cfg!(unix) {
        assert_eq!(directory.read(r#"{"on-hup": "restart"}"#, &["echo"]).on_hup, OnHup::Restart);
        says("echo", r#"{"on-hup": "dance"}"#, r#"web.json: "on-hup" is "dance": say restart or stop"#);
    } else {
        let problem = r#"web.json: "on-hup" is "restart": Windows has no signals: say admin-cli restart instead"#;
        says("echo", r#"{"on-hup": "restart"}"#, problem);
    }
}

#[test]
fn every_setting_but_config_can_be_said_in_a_file() {
    let directory = Directory::new("every");
    for name in names() {
        let message = directory.message(format!(r#"{{"{name}": [0]}}"#), "http");
        assert_eq!(message.contains("is a list"), name != "config", "{message}");
    }
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = Directory::new("defaults").read(r#"{"verbose": false}"#, &["http"]);
    assert_eq!(config, line(&["http"]));
    assert_eq!(own(&config).handler, HandlerKind::Http { dir: of_the_start() });
    assert_eq!((own(&config).listen, config.name.as_str()), (([127, 0, 0, 1], 8000).into(), "http"));
    assert!(!own(&config).listen_said);
    assert_eq!((config.grace, config.restart), (Duration::from_secs(5), RestartPolicy::default()));
    assert_eq!(
        (own(&config).check_every, config.health, config.on_hup, config.log),
        (None, None, OnHup::Stop, Log::text())
    );
}

#[test]
fn the_address_of_a_socket_that_was_passed_counts_unless_another_one_was_said() {
    let directory = Directory::new("passed");
    let passed: SocketAddr = ([127, 0, 0, 1], 7000).into();
    let listen = |text, arguments: &[&str]| {
        let read = directory.invocation(text, arguments).read_with(&[Address::Tcp(passed)]);
        read.map(|config| own(&config).listen)
    };
    assert_eq!(listen("{}", &["http"]), Ok(passed));
    assert_eq!(listen(r#"{"listen": 7000}"#, &["http"]), Ok(passed));
    assert_eq!(listen("{}", &["http", "--listen", "127.0.0.1:7000"]), Ok(passed));
    // The default, but given.
    for (text, arguments) in [(r#"{"listen": 8000}"#, &["http"][..]), ("{}", &["http", "-l", "8000"])] {
        let message = listen(text, arguments).unwrap_err().to_string();
        assert!(message.contains("is 127.0.0.1:8000") && message.contains("on 127.0.0.1:7000"), "{message}");
    }
}

#[test]
fn the_command_line_wins_over_the_file() {
    let directory = Directory::new("wins");
    let text = r#"{"grace": 1, "listen": 7000, "log": "json", "dir": "elsewhere", "verbose": true}"#;
    let config = directory.read(text, &["http", "here", "--grace", "2", "-l", "7001", "--log=text", "-v"]);
    assert_eq!(config.grace, Duration::from_secs(2));
    assert_eq!(own(&config).listen.port(), 7001);
    assert_eq!(config.log, Log::text().verbose(true));
    assert_eq!(own(&config).handler, HandlerKind::Http { dir: of_the_start().join("here") });
}

#[cfg(unix)]
#[test]
fn of_an_option_that_can_be_repeated_the_command_line_replaces_all_of_the_file() {
    let directory = Directory::new("repeated");
    let file = r#"{"program": ["a"], "listen": [8001, 8002], "success-exit": [7, 8]}"#;
    let read = |arguments: &[&str]| match directory.read(file, &[&["exec"], arguments].concat()).server {
        Server::Exec { program, front: Front::Sockets(sockets) } => (sockets.len(), program.success),
        other => panic!("{other:?}"),
    };
    assert_eq!(read(&[]), (2, vec![7, 8]));
    assert_eq!(read(&["--success-exit", "9"]), (2, vec![9]));
    assert_eq!(read(&["--listen", "8003"]), (1, vec![7, 8]));
}

#[test]
fn what_the_command_line_overrules_is_looked_at_all_the_same() {
    let directory = Directory::new("overruled");
    for text in [r#"{"grace": "soon"}"#, r#"{"dir": ""}"#] {
        directory.invocation(text, &["http", "here", "--grace", "2"]).read().unwrap_err();
    }
}

#[test]
fn a_file_is_read_again_each_time() {
    let directory = Directory::new("again");
    let invocation = directory.invocation(r#"{"grace": 1}"#, &["echo"]);
    assert_eq!(invocation.read().unwrap().grace, Duration::from_secs(1));
    fs::write(directory.file(), r#"{"grace": 2}"#).unwrap();
    assert_eq!(invocation.read().unwrap().grace, Duration::from_secs(2));
}

#[test]
fn paths_in_a_file_are_meant_from_its_directory() {
    let directory = Directory::new("paths");
    let config = directory.read(r#"{"dir": "public", "socket": "sockets/web.sock"}"#, &["http"]);
    assert_eq!(own(&config).handler, HandlerKind::Http { dir: directory.0.join("public") });
    assert_eq!(config.socket, Some(directory.0.join("sockets/web.sock")));
    // An absolute one stays as it is, and so does one on the command line.
    let absolute = std::env::temp_dir().join("elsewhere");
    let config = directory.read(&serde_json::json!({ "dir": absolute }).to_string(), &["http", "--socket", "web.sock"]);
    assert_eq!(own(&config).handler, HandlerKind::Http { dir: absolute });
    assert_eq!(config.socket, Some("web.sock".into()));
}

#[test]
fn the_file_of_a_relative_path_is_found_from_everywhere() {
    let file = ConfigFile::new(Path::new("./web.json"), &std::env::current_dir().unwrap());
    assert_eq!(file.path, std::env::current_dir().unwrap().join("web.json"));
    assert_eq!(file.named, "./web.json");
}

#[test]
fn no_value_is_taken_for_an_argument() {
    let directory = Directory::new("hyphens");
    let config = directory.read(r#"{"dir": "--verbose", "socket": "-v", "name": "--help"}"#, &["http"]);
    assert_eq!(own(&config).handler, HandlerKind::Http { dir: directory.0.join("--verbose") });
    assert_eq!(config.socket, Some(directory.0.join("-v")));
    assert_eq!(config.name.as_str(), "--help");
    assert_eq!(config.log, Log::text());
    says("http", r#"{"": true}"#, &format!(r#"web.json: there is no setting ""; http has {ALL}"#));
    says("http", r#"{"grace=5": true}"#, &format!(r#"web.json: there is no setting "grace=5"; http has {ALL}"#));
    says("http", r#"{"help": true}"#, &format!(r#"web.json: there is no setting "help"; http has {ALL}"#));
}

const ALL: &str = "admin, check-every, console, delay, dir, grace, health, listen, log, max-connections, max-restarts, name, on-hup, \
                   period, restart, socket, spread and verbose";

#[test]
fn a_setting_that_does_not_exist_is_named_with_the_one_that_may_be_meant() {
    says("echo", r#"{"gracee": 5}"#, r#"web.json: there is no setting "gracee"; did you mean "grace"?"#);
    let message = r#"web.json: there is no setting "max_connections"; did you mean "max-connections"?"#;
    says("http", r#"{"max_connections": 5}"#, message);
    says("http", r#"{"colour": "red"}"#, &format!(r#"web.json: there is no setting "colour"; http has {ALL}"#));
    says("echo", r#"{"dir": "."}"#, r#"web.json: "dir" is a setting of http, not of echo"#);
    let message = r#"web.json: "config" cannot be said in a file, only on the command line"#;
    says("echo", r#"{"config": "other.json"}"#, message);
}

#[test]
fn a_value_that_cannot_be_is_shown_with_what_to_say() {
    let durations = "say a time: 5 or 1.5 (seconds), or with units: 500ms, 90s, 2m, 1h, 1m30s, 2d, or infinity";
    for (setting, problem) in [
        (r#""grace": "soon""#, format!(r#""grace" is "soon": {durations}"#)),
        (r#""grace": -1"#, format!(r#""grace" is -1: {durations}"#)),
        (r#""check-every": 0"#, r#""check-every" is 0: say more than 0"#.into()),
        (r#""admin": 7"#, r#""admin" is 7: say try, require or off"#.into()),
        (r#""restart": """#, r#""restart" is "": say always, on-failure or never"#.into()),
        (r#""socket": """#, r#""socket" is "": it cannot be empty"#.into()),
        (r#""dir": """#, r#""dir" is "": it cannot be empty"#.into()),
        (r#""max-restarts": 5000000000"#, r#""max-restarts" is 5000000000: that is too much"#.into()),
        (r#""max-connections": 1.5"#, r#""max-connections" is 1.5: say a whole number (0, 5, 100)"#.into()),
        (r#""max-connections": 0"#, r#""max-connections" is 0: say 1 or more; every client would be refused"#.into()),
        (
            r#""listen": 99999"#,
            r#""listen" is 99999: there is no port 99999; the highest one is 65535"#.into(),
        ),
        (
            r#""name": "../x""#,
            r#""name" is "../x": a name has 1 to 64 letters, digits, dots, underscores and hyphens, and begins with no dot"#
                .into(),
        ),
    ] {
        says("http", format!("{{{setting}}}"), &format!("web.json: {problem}"));
    }
}

#[test]
fn a_value_of_the_wrong_type_is_shown_with_the_right_one() {
    for (setting, problem) in [
        (r#""grace": [5]"#, r#""grace" is a list; say a number or a text"#),
        (r#""grace": {"s": 5}"#, r#""grace" is an object; say a number or a text"#),
        (r#""grace": null"#, r#""grace" is null; say a number or a text"#),
        (r#""socket": true"#, r#""socket" is true; say a number or a text"#),
        (r#""verbose": "yes""#, r#""verbose" is "yes"; say true or false"#),
        (r#""verbose": 1"#, r#""verbose" is 1; say true or false"#),
    ] {
        // A path after it is not taken for its value.
        says("http", format!(r#"{{{setting}, "dir": "public"}}"#), &format!("web.json: {problem}"));
    }
}

#[cfg(unix)]
#[test]
fn what_may_be_given_more_than_once_may_be_a_list() {
    let directory = Directory::new("lists");
    for (listen, expected) in [
        (r#"[8000, "/run//app.sock"]"#, "127.0.0.1:8000 and /run/app.sock"),
        (r#"["/run/app.sock"]"#, "/run/app.sock"),
        (r#"["web=8000", "admin=/run/a=b.sock"]"#, "web=127.0.0.1:8000 and admin=/run/a=b.sock"),
        (r#"["/run/a=b.sock"]"#, "/run/a=b.sock"),
        (r#""/run/app.sock""#, "/run/app.sock"),
        ("[]", ""),
    ] {
        fs::write(directory.file(), format!(r#"{{"listen": {listen}}}"#)).unwrap();
        match check(&directory.file(), "exec").unwrap().config.server {
            Server::Exec { front: Front::Sockets(listen), .. } => assert_eq!(in_words(&listen), expected),
            other => panic!("{other:?}"),
        }
    }
}

#[cfg(unix)]
#[test]
fn what_is_wrong_in_a_list_is_shown_alone() {
    let addresses =
        "say a port (8000), an address and a port (0.0.0.0:8000) or the path of a Unix socket (/run/app.sock)";
    let several = "say a number, a text or a list of these";
    let name = "a socket's name has letters, digits, dots, hyphens and underscores: web=8000";
    let directory = Directory::new("in-a-list");
    for (listen, problem) in [
        (r#"[8000, "nowhere"]"#, format!(r#""listen" is "nowhere": {addresses}"#)),
        (
            r#"["no..host:80"]"#,
            r#""listen" is "no..host:80": the address of no..host is not known; say it in numbers (127.0.0.1:80)"#
                .into(),
        ),
        (r#"["[::1]:80800"]"#, r#""listen" is "[::1]:80800": there is no port 80800; the highest one is 65535"#.into()),
        (r#"[8000, true]"#, format!(r#""listen" is true; {several}"#)),
        (r#"[8000, [8001]]"#, format!(r#""listen" is a list; {several}"#)),
        (r#"{"port": 8000}"#, format!(r#""listen" is an object; {several}"#)),
        (r#"[8000, "127.0.0.1:8000"]"#, r#""listen" has 127.0.0.1:8000 twice; keep one"#.into()),
        (r#"["/run/a", "/run/./a"]"#, r#""listen" has /run/a twice; keep one"#.into()),
        (r#"["a=8000", "a=8001"]"#, r#""listen" has the name a twice; choose another one"#.into()),
        (r#"["=8000"]"#, format!(r#""listen" is "=8000": {name}"#)),
        (r#"["a b=8000"]"#, format!(r#""listen" is "a b=8000": {name}"#)),
        (r#"8000, "socket-mode": 660"#, r#""socket-mode" is for Unix sockets, and "listen" has none"#.into()),
        (r#""/run/a", "socket-mode": 8"#, r#""socket-mode" is 8: say a mode as chmod has it: 660, 600"#.into()),
    ] {
        fs::write(directory.file(), format!(r#"{{"listen": {listen}}}"#)).unwrap();
        let message = check(&directory.file(), "exec").unwrap_err().to_string();
        assert!(message.ends_with(&problem), "{message}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_relay_has_the_address_and_the_program_a_private_port() {
    use crate::child::{Probe, Ready};
    use crate::settings::{Forwarded, RelayOptions, RelayProtocol};
    let directory = Directory::new("relay");
    let exec = |text: &str| {
        fs::write(directory.file(), text).unwrap();
        match check(&directory.file(), "exec").unwrap().config.server {
            Server::Exec { front: Front::Relay(address, options), program } => (address, options, program),
            other => panic!("{other:?}"),
        }
    };
    let (address, options, program) = exec(r#"{"listen": 8080, "relay": "http", "ready": "connect"}"#);
    assert_eq!(address, ([127, 0, 0, 1], 8080).into());
    let http = |forwarded, answer_within| RelayProtocol::Http { forwarded, answer_within };
    assert_eq!((options.protocol, options.wait), (http(Forwarded::Append, None), Duration::from_secs(30)));
    assert_eq!(program.ready, Ready::Probe(Probe::PrivatePort));
    let (_, options, program) = exec(
        r#"{"listen": "0.0.0.0:80", "relay": "http", "forwarded": "replace", "wait": "1m", "answer-within": 9,
            "max-connections": 7, "ready": "http=/health", "check": "http=http://localhost:{port}/"}"#,
    );
    let protocol = http(Forwarded::Replace, Some(Duration::from_secs(9)));
    assert_eq!(options, RelayOptions { protocol, wait: Duration::from_secs(60), max_connections: 7 });
    assert_eq!(program.ready, Ready::Probe(Probe::Http("http://127.0.0.1:{port}/health".parse().unwrap())));
    let (_, options, _) = exec(r#"{"listen": 5432, "relay": "tcp", "wait": 0, "ready": "connect=[::1]:{port}"}"#);
    assert_eq!((options.protocol, options.wait), (RelayProtocol::Tcp, Duration::ZERO));
}

#[cfg(target_os = "linux")]
#[test]
fn what_a_relay_cannot_do_is_refused_with_what_to_say_instead() {
    let directory = Directory::new("relay-refused");
    let without = "without it the program serves its clients itself";
    let private = "has no address, and only \"relay\" gives the program a private port: say connect=8000 or \
                   http=http://127.0.0.1:8000/path";
    for (text, problem) in [
        (r#""relay": "udp""#, r#""relay" is "udp": say http or tcp"#.to_owned()),
        (
            r#""relay": "tcp", "listen": [80, 81]"#,
            r#""relay" has one address, and "listen" has several; keep one"#.into(),
        ),
        (
            r#""relay": "tcp", "listen": "/run/a.sock""#,
            r#""relay" has TCP clients only, and "listen" is /run/a.sock; say a port"#.into(),
        ),
        (
            r#""relay": "tcp", "listen": "web=80""#,
            r#""listen" has the name web, but with "relay" the program gets no socket; leave the name out"#.into(),
        ),
        (
            r#""relay": "tcp", "listen": 80, "forwarded": "off""#,
            r#""forwarded" is for "relay": "http"; with "tcp" the bytes are passed on as they are"#.into(),
        ),
        (
            r#""relay": "tcp", "listen": 80, "answer-within": 5"#,
            r#""answer-within" is for "relay": "http"; with "tcp" the bytes are passed on as they are"#.into(),
        ),
        (r#""listen": 80, "forwarded": "off""#, format!(r#""forwarded" needs "relay": {without}"#)),
        (r#""listen": 80, "wait": 5"#, format!(r#""wait" needs "relay": {without}"#)),
        (r#""max-connections": 5"#, format!(r#""max-connections" needs "relay": {without}"#)),
        (r#""listen": 80, "ready": "connect""#, format!(r#""ready" {private}"#)),
        (r#""check": "http=/health""#, format!(r#""check" {private}"#)),
    ] {
        fs::write(directory.file(), format!("{{{text}}}")).unwrap();
        let message = check(&directory.file(), "exec").unwrap_err().to_string();
        assert!(message.ends_with(&problem), "{text}: {message}");
    }
}

#[cfg(unix)]
#[test]
fn a_file_without_an_address_is_right_if_the_service_manager_passes_a_socket_and_says_so() {
    let directory = Directory::new("passed");
    let checked = |text: &str| {
        fs::write(directory.file(), text).unwrap();
        check(&directory.file(), "exec").map(|checked| checked.needs_socket).map_err(|error| error.to_string())
    };
    #[cfg(target_os = "linux")]
    let relayed = [(r#"{"relay": "http", "wait": 5}"#, true), (r#"{"relay": "tcp", "listen": 80}"#, false)];
    #[cfg(not(target_os = "linux"))]
    let relayed = [];
    for (text, needs_socket) in relayed.into_iter().chain([
        (r#"{"overlap": 5}"#, true),
        (r#"{"overlap": 5, "listen": 80}"#, false),
        ("{}", false),
    ]) {
        assert_eq!(checked(text), Ok(needs_socket), "{text}");
    }
    // A mistake in either case gets the same message as without one.
    let problem = checked(r#"{"overlap": 5, "spread": 5}"#).unwrap_err();
    assert!(problem.contains(r#""overlap" needs "listen""#), "{problem}");
    // A start has to have it.
    #[cfg(target_os = "linux")]
    let wrong = ("--relay=http", r#""relay" needs "listen": the address on which clients connect"#);
    #[cfg(not(target_os = "linux"))]
    let wrong = ("--overlap=5", r#""overlap" needs "listen""#);
    let start = Invocation::parse(["supervisor", "exec", wrong.0, "x"].map(Into::into).to_vec()).unwrap();
    assert!(start.read().unwrap_err().to_string().starts_with(wrong.1));
}

#[cfg(target_os = "linux")]
#[test]
fn a_restart_changes_nothing_of_a_relay() {
    let with = |options: &[&str]| {
        let all: Vec<_> = ["exec", "--listen=80"].iter().chain(options).chain(&["--", "x"]).copied().collect();
        line(&all)
    };
    let old = with(&["--relay=http"]);
    for (options, change) in [
        (&["--relay=tcp"][..], r#""relay" from http to tcp"#),
        (&[], r#""relay" from http to none"#),
        (&["--relay=http", "--forwarded=off"], r#""forwarded" from append to off"#),
        (&["--relay=http", "--wait=5"], r#""wait" from 30 s to 5 s"#),
        (&["--relay=http", "--answer-within=5"], r#""answer-within" from off to 5 s"#),
        (&["--relay=http", "--max-connections=5"], r#""max-connections" from "#),
    ] {
        let error = old.check_change(&with(options)).unwrap_err().to_string();
        assert!(error.contains(change), "{error}");
    }
    old.check_change(&with(&["--relay=http", "--grace=7", "--ready=connect"])).unwrap();
}

#[test]
fn what_stands_behind_the_program_is_its_own_with_or_without_hyphens_before_it() {
    let program = |line: &[&str]| {
        let line = ["supervisor", "exec", "--name", "x"].iter().chain(line).map(Into::into).collect();
        let config = Invocation::parse(line).unwrap().read().unwrap();
        let Server::Exec { program, .. } = config.server else { panic!("{config:?}") };
        assert_eq!(config.name.to_string(), "x");
        [&[program.program], &program.args[..]].concat()
    };
    let serve = ["python3", "-m", "http.server", "--name", "y", "--", "-x"];
    assert_eq!(program(&serve), serve);
    assert_eq!(program(&[&["--"], &serve[..]].concat()), serve);
    // A program whose name begins with a hyphen.
    assert_eq!(program(&["--", "-x", "--name", "y"]), ["-x", "--name", "y"]);
    let mistaken = ["supervisor", "exec", "--nmae", "x", "python3"].map(Into::into).to_vec();
    assert!(Invocation::parse(mistaken).unwrap_err().to_string().contains("'--name'"));
}

#[test]
fn a_setting_that_is_there_twice_is_refused() {
    says("echo", r#"{"grace": 5, "name": "x", "grace": 5}"#, r#"web.json: "grace" is there twice; keep one"#);
}

#[test]
fn what_is_no_json_is_shown_by_line_and_column() {
    for (text, problem) in [
        ("{\n  \"grace\": 5\n  \"name\": \"x\"\n}", "line 3, column 3: expected ',' or '}'"),
        (r#"{"grace": soon}"#, "line 1, column 11: expected a value: a number, a text in quotes, true or false"),
        (r#"{grace: 5}"#, "line 1, column 2: the name of a setting stands in double quotes"),
        (r#"{"grace": 5,}"#, "line 1, column 13: a comma with nothing behind it"),
        (r#"{"grace": 5} {}"#, "line 1, column 14: there is more behind the end of the object"),
        (r#"{"dir": "C:\web"}"#, r"line 1, column 13: a backslash in a text is written as two: \\"),
        (r#"{"grace": 5"#, "it ends in the middle of an object"),
        (" \n", "it is empty; say at least {}"),
        ("[1]", r#"it is not a JSON object; say, for example, {"grace": 5}"#),
        ("5", r#"it is not a JSON object; say, for example, {"grace": 5}"#),
    ] {
        says("echo", text, &format!("web.json: {problem}"));
    }
}

#[test]
fn what_is_no_utf_8_is_refused_but_a_byte_order_mark_is_not() {
    says("echo", b"{\"name\": \"\xff\"}", "web.json: it is not UTF-8; save it as UTF-8 text");
    assert_eq!(Directory::new("mark").read("\u{feff}{\"grace\": 1}", &["echo"]).grace, Duration::from_secs(1));
}

#[test]
fn a_file_is_read_up_to_64_kib_and_not_beyond() {
    let directory = Directory::new("long");
    directory.read(&format!("{{{}}}", " ".repeat(64 * 1024 - 2)), &["echo"]);
    let message = "web.json: it is longer than 64 KiB; is it the right file?";
    says("echo", format!("{{{}}}", " ".repeat(64 * 1024 - 1)), message);
}

#[test]
fn a_file_that_cannot_be_had_says_why() {
    let directory = Directory::new("had");
    let problem = |path: PathBuf| {
        let mut invocation = directory.invocation("{}", &["echo"]);
        invocation.file = Some(ConfigFile { named: "web.json".into(), path });
        invocation.read().unwrap_err().to_string()
    };
    assert_eq!(problem(directory.0.join("missing.json")), "web.json: there is no such file");
    assert_eq!(problem(directory.0.clone()), "web.json: it is a directory; name a file in it");
    #[cfg(unix)]
    {
        let message = "web.json: it is no regular file, which could be read again at each restart";
        assert_eq!(problem("/dev/zero".into()), message);
    }
}

#[cfg(unix)]
#[test]
fn a_file_that_one_may_not_read_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new("permission");
    fs::write(directory.file(), "{}").unwrap();
    fs::set_permissions(directory.file(), fs::Permissions::from_mode(0o000)).unwrap();
    if fs::read(directory.file()).is_ok() {
        return; // Root may read everything.
    }
    let error = check(&directory.file(), "echo").unwrap_err().to_string();
    assert_eq!(error, format!("{}: no permission to read it", directory.file().display()));
}

#[test]
fn a_very_long_value_is_cut_off_in_the_message() {
    let message = Directory::new("cut").message(format!(r#"{{"grace": "{}"}}"#, "é".repeat(5000)), "echo");
    assert!(message.contains("é…\": say a time") && message.len() < 500, "{message}");
}

#[test]
fn a_restart_changes_everything_but_what_the_process_was_started_with() {
    let old = line(&["http", "a"]);
    for changed in [
        &["b"][..],
        &["a", "--grace=1", "--verbose", "--max-connections=1"],
        &["a", "--restart=always", "--max-restarts=1", "--period=1", "--check-every=1"],
    ] {
        let arguments: Vec<_> = std::iter::once("http").chain(changed.iter().copied()).collect();
        old.check_change(&line(&arguments)).unwrap();
    }
    for (argument, change) in [
        ("--listen=8001", r#""listen" from 127.0.0.1:8000 to 127.0.0.1:8001"#),
        ("--name=web", r#""name" from http to web"#),
        ("--admin=off", r#""admin" from try to off"#),
        ("--socket=x", r#""socket" from what belongs to the name to "x""#),
        ("--health=9100", r#""health" from none to 127.0.0.1:9100"#),
        ("--log=json", r#""log" from text to json"#),
        #[cfg(unix)]
        ("--on-hup=restart", r#""on-hup" from stop to restart"#),
    ] {
        let error = old.check_change(&line(&["http", "a", argument])).unwrap_err();
        assert_eq!(error.to_string(), format!("a restart cannot change {change}: that needs a stop and a start"));
    }
    let error = old.check_change(&line(&["echo", "--listen=8000", "--name=http"])).unwrap_err();
    assert!(error.to_string().contains(r#""server" from http to echo"#), "{error}");
}

/// Parses a text as the content of a file.
fn understand(text: &[u8], kind: &'static str) -> Result<Config, String> {
    let settings = file::understand(text)?;
    if settings.iter().any(|(_, value)| has_a_colon(value)) {
        return Err("this would be looked up in the network".into());
    }
    let arguments = file::translate(&settings, Path::new("/directory"), &ServerCli::command(), kind, false)?;
    let rest = not_in_a_file(ServerCli::command().find_subcommand(kind).unwrap());
    let line: Vec<OsString> =
        ["supervisor".into(), kind.into()].into_iter().chain(arguments.options).chain(rest).collect();
    // Each argument was valid, so the mistake is a combination of some.
    Config::parse(line, Path::new("/start"), &[]).map_err(|error| error.to_string())
}

fn has_a_colon(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(':'),
        Value::Array(values) => values.iter().any(has_a_colon),
        Value::Object(_) | Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Names and texts have no colon: with one, an address would be looked up on the network.
fn settings() -> impl Strategy<Value = Vec<(String, Value)>> {
    let name = prop_oneof![4 => prop::sample::select(names()), 1 => "[^:]{0,12}"];
    let value = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0..100_000i64).prop_map(Value::from),
        prop::sample::select(vec!["never", "off", "json", "restart", "5", "200ms", "-v", "--help", ""])
            .prop_map(Value::from),
        "[^:]{0,12}".prop_map(Value::from),
        Just(Value::from(vec![1])),
    ];
    prop::collection::vec((name, value), 0..4)
}

fn is_understood_or_refused_with_a_message(text: &[u8]) -> Result<(), TestCaseError> {
    for &kind in KINDS {
        if let Err(message) = understand(text, kind) {
            prop_assert!(!message.is_empty() && !message.contains('\n') && !message.contains("Usage"), "{}", message);
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_understood_or_refused_with_a_message(bytes: Vec<u8>) {
        is_understood_or_refused_with_a_message(&bytes)?;
    }

    #[test]
    fn any_object_is_understood_or_refused_with_a_message(settings in settings()) {
        let members = settings.iter().map(|(name, value)| format!("{}:{value}", Value::from(name.as_str())));
        let text = format!("{{{}}}", members.collect::<Vec<_>>().join(","));
        is_understood_or_refused_with_a_message(text.as_bytes())?;
    }

    #[test]
    fn a_file_that_is_nearly_right_is_understood_or_refused_with_a_message(text in corpus::nearly("config")) {
        is_understood_or_refused_with_a_message(&text)?;
    }
}

#[test]
fn each_file_that_is_kept_is_understood_or_refused_with_a_message() {
    for (name, text) in corpus::kept("config") {
        is_understood_or_refused_with_a_message(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[cfg(unix)]
#[test]
fn a_program_can_hear_that_it_is_out_of_rotation_and_that_it_is_back() {
    let program = |options: &[&str]| {
        let line = ["supervisor", "exec"].iter().chain(options).chain(&["--", "x"]).map(Into::into).collect();
        let config = Invocation::parse(line).unwrap().read().map_err(|error| error.to_string())?;
        let Server::Exec { program, .. } = config.server else { panic!("{config:?}") };
        Ok::<_, String>((program.rotation.drain, program.rotation.resume))
    };
    assert_eq!(program(&[]), Ok((None, None)));
    assert_eq!(program(&["--drain-signal=USR1"]), Ok((Some(10), None)));
    assert_eq!(program(&["--drain-signal=USR1", "--resume-signal=USR2"]), Ok((Some(10), Some(12))));
    assert!(program(&["--resume-signal=USR2"]).unwrap_err().contains(r#""resume-signal" needs "drain-signal""#));
    assert!(program(&["--drain-signal=12", "--resume-signal=USR2"]).unwrap_err().contains("the same signal"));
}

/// The message about a file for `exec`, as if `--config web.json` had named it, with this program.
#[track_caller]
fn says_of_a_program(text: &str, message: &str) {
    says("exec", format!(r#"{{"program": ["./server"], {text}}}"#), message);
}

/// What is wrong with a command line alone.
#[track_caller]
fn refusal(arguments: &[&str]) -> String {
    let line = std::iter::once("supervisor").chain(arguments.iter().copied());
    Config::parse(line, &of_the_start(), &[]).unwrap_err().to_string()
}

#[test]
fn options_of_a_check_are_refused_without_one() {
    for (option, value) in [("check-every", "5"), ("check-timeout", "2"), ("check-failures", "4")] {
        let problem = format!(
            "{option:?} needs \"check\": without it the program is not checked; say how, for example \
             --check connect=8000"
        );
        assert_eq!(refusal(&["exec", &format!("--{option}"), value, "./server"]), problem);
        says_of_a_program(&format!("{option:?}: {value}"), &format!("web.json: {problem}"));
        line(&["exec", "--check=connect=8000", &format!("--{option}"), value, "./server"]);
    }
}

#[cfg(unix)]
#[test]
fn settings_that_exclude_each_other_are_refused_with_the_name_of_the_file_that_has_one_of_them() {
    let problem = "\"overlap\" needs \"listen\": without it the old program has to end before the new one starts";
    says_of_a_program(r#""overlap": 5"#, &format!("web.json: {problem}"));
    // The file has nothing to do with what the command line alone has wrong.
    let directory = Directory::new("not-of-the-file");
    let invocation = directory.invocation(r#"{"program": ["./server"]}"#, &["exec", "--overlap=5"]);
    assert_eq!(invocation.read().unwrap_err().to_string(), problem);
}

#[test]
fn a_health_endpoint_on_the_address_of_the_server_is_refused() {
    let refused = |listen| {
        format!(
            "web.json: \"health\" is 127.0.0.1:7000, and the server listens on {listen}: choose another \
             port for \"health\""
        )
    };
    says("http", r#"{"listen": 7000, "health": 7000}"#, &refused("127.0.0.1:7000"));
    says("http", r#"{"listen": "0.0.0.0:7000", "health": 7000}"#, &refused("0.0.0.0:7000"));
    #[cfg(unix)]
    says_of_a_program(r#""listen": [8000, 7000], "health": 7000"#, &refused("127.0.0.1:7000"));
    #[cfg(target_os = "linux")]
    says_of_a_program(r#""relay": "http", "listen": 7000, "health": 7000"#, &refused("127.0.0.1:7000"));
    line(&["http", "--listen=7000", "--health=7001"]);
    line(&["http", "--listen=127.0.0.2:7000", "--health=7000"]);
}

#[test]
fn a_nul_character_is_refused_wherever_it_is_in_a_file() {
    let problem = |name: &str| format!(r#"web.json: "{name}" has a NUL character (\u0000); leave it out"#);
    says("exec", r#"{"program": ["./server", "a\u0000b"]}"#, &problem("program"));
    says("exec", r#"{"program": "a\u0000b"}"#, &problem("program"));
    says_of_a_program(r#""env-file": "a\u0000b""#, &problem("env-file"));
    says_of_a_program(r#""listen": ["/run/a\u0000b"]"#, &problem("listen"));
    says("http", r#"{"dir": "a\u0000b"}"#, &problem("dir"));
}

#[test]
fn a_program_that_has_to_run_longer_than_it_may_take_to_be_ready_is_refused() {
    let problem = r#"web.json: "ready" waits 2 s, and "ready-within" allows 1 s: say a shorter time, or allow more"#;
    says_of_a_program(r#""ready": 2, "ready-within": 1"#, problem);
    line(&["exec", "--ready=2", "--ready-within=2", "./server"]);
    // The default is not a limit that anybody has set.
    line(&["exec", "--ready=40", "./server"]);
}

#[test]
fn a_program_without_a_name_is_refused_with_what_to_say() {
    says("exec", r#"{"program": []}"#, r#"web.json: "program" is an empty list; say a list: ["./server", "--fast"]"#);
    says(
        "exec",
        r#"{"program": ["", "x"]}"#,
        r#"web.json: "program" begins with an empty name; say what to run: ["./server"]"#,
    );
    assert_eq!(
        refusal(&["exec", "", "x"]),
        "the name of the program is empty; say what to run: supervisor exec ./server"
    );
}
