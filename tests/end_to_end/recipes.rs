//! The recipes of `docs/src/replace-a-program.md`: third-party servers use the socket of `--listen` as the page says,
//! and what becomes of their clients when they are replaced under load.
//!
//! axum is built in; the others are searched for in `target/peers/bin` and in `PATH`. One that is not installed is
//! skipped with a message.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use load::{Load, Mode, Report};

use crate::exec::{assert_nothing_runs, file};
use crate::readme::project;
use crate::support::{HUGE, Home, can_run, free_port, some_more};

const BODY: &str = "hello\n";

/// Slow enough that the old and the new program both get connections.
const PACE: Duration = Duration::from_millis(5);

/// The words of the command in a page's table, in the row of this server.
pub fn recipe(page: &str, server: &str, column: usize) -> Vec<String> {
    let page = fs::read_to_string(project().join(format!("docs/src/{page}.md"))).unwrap();
    let rows = page.lines().filter(|row| row.starts_with(&format!("| {server} |")));
    let cells = rows.flat_map(|row| row.trim_matches('|').split(" | ").nth(column));
    let commands: Vec<_> = cells.filter_map(|cell| cell.split('`').nth(1)).collect();
    let [command] = commands[..] else { panic!("{server}: {commands:?}") };
    command.split(' ').map(str::to_owned).collect()
}

/// None: it is not installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let own = project().join("target/peers/bin").join(program);
    let program = if own.exists() { own } else { program.into() };
    can_run(&[program.to_str().unwrap(), "--help"]).then_some(program)
}

/// Replaces a program repeatedly under load. Returns what became of the requests.
fn restarts_under_load(home: &Home, program: &Path, arguments: &[String], port: u16, modes: &[Mode]) -> Vec<Report> {
    let url = format!("http=http://127.0.0.1:{port}/");
    let options = ["--listen", &port.to_string(), "--grace", HUGE, "--ready", &url];
    let line: Vec<_> = std::iter::once(program.to_str().unwrap()).chain(arguments.iter().map(String::as_str)).collect();
    let mut command = home.exec_command(&options, &line);
    command.current_dir(home.directory());
    let instance = home.exec_by(command);
    let under_load = |mode: &Mode| {
        let load = Load::new(instance.address, "/", BODY, *mode).connections(8).pace(PACE).begin();
        for _ in 0..3 {
            some_more(&load, 100);
            instance.admin(&["restart"]).expect(0).says("is ready");
        }
        load.end()
    };
    let reports = modes.iter().map(under_load).collect();
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(home);
    reports
}

#[test]
fn node_listens_on_descriptor_3_and_restarts_lose_no_request() {
    let Some(node) = find("node") else { return };
    let home = Home::new();
    fs::copy(project().join("examples/server.js"), home.directory().join("server.js")).unwrap();
    let modes = [Mode::OnePerConnection, Mode::KeptAlive];
    let recipe = recipe("replace-a-program", "Node", 1);
    for report in restarts_under_load(&home, &node, &recipe[1..], free_port(), &modes) {
        assert_eq!(report.lost(), 0, "{report}");
    }
}

#[test]
fn the_example_for_node_ends_although_a_client_has_sent_nothing() {
    let Some(node) = find("node") else { return };
    let home = Home::new();
    let script = project().join("examples/server.js");
    let options = ["--listen", &free_port().to_string(), "--grace", HUGE];
    let instance = home.exec(&options, &[node.to_str().unwrap(), script.to_str().unwrap()]);
    // It is accepted before the one that is answered.
    let _silent = instance.client();
    assert_eq!(instance.client().get("/").status, 200);
    instance.admin(&["stop"]).expect(0).says("exited with code 0");
}

/// It resets connections that it has accepted but not read yet, so no more than this can be promised.
#[test]
fn uvicorn_takes_descriptor_3_and_restarts_refuse_no_connection() {
    let Some(uvicorn) = find("uvicorn") else { return };
    let home = Home::new();
    let text = "async def app(scope, receive, send):
    assert scope['type'] == 'http'
    headers = [(b'content-length', b'6')]
    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})
    await send({'type': 'http.response.body', 'body': b'hello\\n'})
";
    file(&home, "app.py", text);
    let recipe = recipe("replace-a-program", "uvicorn", 1);
    let reports = restarts_under_load(&home, &uvicorn, &recipe[1..], free_port(), &[Mode::OnePerConnection]);
    assert!(reports[0].refused == 0 && reports[0].answered > 300, "{}", reports[0]);
}

#[test]
fn puma_takes_the_socket_of_the_address_that_it_binds_and_restarts_lose_no_request() {
    let Some(puma) = find("puma") else { return };
    let home = Home::new();
    let text = "run lambda { |_| [200, { 'Content-Length' => '6' }, [\"hello\\n\"]] }\n";
    file(&home, "config.ru", text);
    fs::create_dir(home.directory().join("config")).unwrap();
    file(&home, "config/puma.rb", "queue_requests false\n");
    let port = free_port();
    let recipe = recipe("replace-a-program", "puma", 1);
    let arguments: Vec<_> = recipe[1..].iter().map(|word| word.replace("8080", &port.to_string())).collect();
    let reports = restarts_under_load(&home, &puma, &arguments, port, &[Mode::OnePerConnection]);
    assert_eq!(reports[0].lost(), 0, "{}", reports[0]);
}

#[test]
fn the_axum_server_of_the_book_is_replaced_without_a_loss() {
    let home = Home::new();
    let server = Path::new(env!("CARGO_BIN_EXE_axum-server"));
    let modes = [Mode::OnePerConnection, Mode::KeptAlive];
    for report in restarts_under_load(&home, server, &[], free_port(), &modes) {
        assert_eq!(report.lost(), 0, "{report}");
    }
}
