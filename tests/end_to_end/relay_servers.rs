//! Unmodified third-party servers behind `supervisor exec --relay http`: replaced under load, each loses nothing.
//!
//! `RESTARTS` sets how often each is replaced.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use load::{Load, Mode};

use crate::exec::{assert_nothing_runs, file};
use crate::gunicorn::gunicorn;
use crate::recipes::{find, recipe};
use crate::support::{Client, HUGE, Home, Instance, can_run, eventually, free_port};
use crate::under_load::restarts;

/// How many connections of each kind send requests at the same time.
const CONNECTIONS: usize = 16;

/// The page's command line for a server, with the program at this path.
fn line<'a>(program: &'a str, recipe: &'a [String]) -> Vec<&'a str> {
    std::iter::once(program).chain(recipe[1..].iter().map(String::as_str)).collect()
}

/// Starts a server behind a relay, in the test's directory.
fn start(home: &Home, options: &[&str], line: &[&str]) -> Instance {
    let port = free_port().to_string();
    let all = ["--listen", &port, "--relay", "http", "--ready-within", HUGE, "--grace", HUGE];
    let mut command = home.exec_command(&[&all[..], options].concat(), line);
    command.current_dir(home.directory()).env("PYTHONDONTWRITEBYTECODE", "1");
    home.exec_by(command)
}

/// Restarts repeatedly, each time after some more answers.
fn restart_under_load(instance: &Instance, answered: impl Fn() -> usize, is_lost: impl Fn() -> bool) {
    let some_more = || {
        let next = answered() + 20 * CONNECTIONS;
        eventually("the load continues", || answered() >= next || is_lost());
    };
    for restart in 0..restarts(3) {
        some_more();
        let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
        assert_eq!(restarted["generation"], restart + 2, "{restarted}");
    }
    some_more();
}

fn stop(home: &Home, instance: &Instance) {
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0, "{}", instance.err.so_far());
    assert_nothing_runs(home);
}

/// A file server that answers all requests alike.
fn file_server_loses_nothing(line: &[&str], keeps: bool) {
    let home = Home::new();
    fs::write(home.directory().join("hello"), "hello").unwrap();
    let instance = start(&home, &[], line);
    let loads = [Mode::OnePerConnection, Mode::KeptAlive]
        .map(|mode| Load::new(instance.address, "/hello", "hello", mode).begin());
    restart_under_load(
        &instance,
        || loads.iter().map(|load| load.answered() as usize).min().unwrap(),
        || loads.iter().any(|load| load.lost() > 0),
    );
    let [one, kept] = loads.map(load::Running::end);
    assert_eq!((one.lost(), kept.lost()), (0, 0), "{one}\n{kept}\n{}", instance.err.so_far());
    if keeps {
        assert_eq!((kept.connections, kept.notified, kept.found_closed), (CONNECTIONS as u64, 0, 0), "{kept}");
    }
    stop(&home, &instance);
}

/// Its answers end with the connection.
#[test]
fn the_file_server_of_python_is_replaced_without_a_loss() {
    file_server_loses_nothing(&line("python3", &recipe("any-program", "Python 3.11 `http.server`", 1)), false);
}

#[test]
fn connections_that_the_file_server_of_python_keeps_survive_its_restarts() {
    let line = "exec python3 -m http.server --protocol HTTP/1.1 --bind $HOST $PORT";
    if can_run(&["python3", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]) {
        file_server_loses_nothing(&["sh", "-c", line], true);
    }
}

/// Requests numbers of its own, on one connection after the other or on one that is kept. Each answer has the requested
/// number, and the start time of the process that answers (its id may be reused): a process that has been replaced must
/// not answer again.
struct Counting<'a> {
    address: SocketAddr,
    keeps: bool,
    is_over: &'a AtomicBool,
    answered: &'a AtomicUsize,
    processes: &'a Mutex<HashSet<String>>,
}

impl Counting<'_> {
    /// Returns how many connections it used.
    fn run(self, first: usize) -> usize {
        let (mut connections, mut last) = (0, String::new());
        let mut kept = None;
        let mut gone = HashSet::new();
        for number in (first..).step_by(1_000) {
            if self.is_over.load(Ordering::Relaxed) {
                break;
            }
            let mut client: Client = kept.take().unwrap_or_else(|| {
                connections += 1;
                Client::connect(self.address)
            });
            let answer = client.get(&format!("/{number}"));
            let body = String::from_utf8(answer.body).unwrap();
            let (process, asked) = body.split_once(' ').unwrap_or_else(|| panic!("{body}"));
            assert_eq!((answer.status, asked), (200, format!("/{number}").as_str()), "{body}");
            if process != last {
                self.processes.lock().unwrap().insert(process.to_owned());
                assert!(gone.insert(process.to_owned()), "{process} answers again");
                last = process.to_owned();
            }
            self.answered.fetch_add(1, Ordering::Relaxed);
            kept = Some(client).filter(|_| self.keeps && !answer.is_last);
        }
        connections
    }
}

/// Ends the clients when it is dropped, even if the test has failed.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A server with one process per generation.
fn counting_server_loses_nothing(home: &Home, options: &[&str], line: &[&str], keeps: bool) {
    let instance = start(home, options, line);
    let (is_over, answered) = (AtomicBool::new(false), [AtomicUsize::new(0), AtomicUsize::new(0)]);
    let processes = Mutex::default();
    thread::scope(|scope| {
        let client = |number: usize| {
            let keeps = number.is_multiple_of(2);
            let answered = &answered[usize::from(keeps)];
            let counting =
                Counting { address: instance.address, keeps, is_over: &is_over, answered, processes: &processes };
            (keeps, scope.spawn(move || counting.run(number)))
        };
        let clients: Vec<_> = (0..2 * CONNECTIONS).map(client).collect();
        let over = Over(&is_over);
        restart_under_load(
            &instance,
            || answered.iter().map(|answered| answered.load(Ordering::Relaxed)).min().unwrap(),
            || clients.iter().any(|(_, client)| client.is_finished()),
        );
        drop(over);
        for (is_kept, client) in clients {
            let connections = client.join().unwrap();
            assert!(!keeps || !is_kept || connections == 1, "a connection that was to be kept became {connections}");
        }
    });
    assert_eq!(processes.into_inner().unwrap().len() as u64, restarts(3) + 1);
    stop(home, &instance);
}

const NODE: &str = r"
const started = Date.now();
const server = require('http').createServer((request, response) => response.end(`${started} ${request.url}`));
server.listen(process.env.PORT, process.env.HOST);
";

#[test]
fn a_node_server_is_replaced_without_a_loss_and_its_kept_connections_survive() {
    if !can_run(&["node", "--version"]) {
        return;
    }
    let home = Home::new();
    file(&home, "server.js", NODE);
    counting_server_loses_nothing(&home, &[], &line("node", &recipe("any-program", "Node 20", 1)), true);
}

const APPLICATION: &str = r#"
import time
started = time.time_ns()
def app(environ, start_response):
    body = f"{started} {environ['PATH_INFO']}".encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"#;

/// It closes each connection after its answer.
#[test]
fn gunicorn_that_gets_no_socket_is_replaced_without_a_loss() {
    let Some(gunicorn) = gunicorn() else { return };
    let home = Home::new();
    file(&home, "app.py", APPLICATION);
    let recipe = recipe("any-program", "gunicorn", 1);
    counting_server_loses_nothing(&home, &[], &line(gunicorn.to_str().unwrap(), &recipe), false);
}

/// A Python server that answers as the page says.
fn server_of_python_loses_nothing(name: &str, program: &str, application: &str, keeps: bool) {
    let Some(program) = find(program) else { return };
    let home = Home::new();
    file(&home, "app.py", application);
    let recipe = recipe("any-program", name, 1);
    counting_server_loses_nothing(&home, &[], &line(program.to_str().unwrap(), &recipe), keeps);
}

const ASYNCHRONOUS: &str = r#"
import time
started = time.time_ns()
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return
    body = f"{started} {scope['path']}".encode()
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})
"#;

#[test]
fn uvicorn_that_gets_no_socket_is_replaced_without_a_loss_and_its_kept_connections_survive() {
    server_of_python_loses_nothing("uvicorn", "uvicorn", ASYNCHRONOUS, true);
}

#[test]
fn hypercorn_is_replaced_without_a_loss_and_its_kept_connections_survive() {
    let Some(program) = find("hypercorn") else { return };
    let home = Home::new();
    file(&home, "app.py", ASYNCHRONOUS);
    // By default it ends each connection after a thousand requests.
    let config = file(&home, "hypercorn.toml", "keep_alive_max_requests = 1000000000\n");
    let recipe = recipe("any-program", "hypercorn", 1);
    let line = [&line(program.to_str().unwrap(), &recipe)[..], &["--config", &config]].concat();
    // Signalled together with its workers, it waits for ever for a lock that one of them held when it ended.
    counting_server_loses_nothing(&home, &["--stop-to", "leader"], &line, true);
}

#[test]
fn waitress_is_replaced_without_a_loss_and_its_kept_connections_survive() {
    server_of_python_loses_nothing("waitress", "waitress-serve", APPLICATION, true);
}

/// It closes each connection after its answer.
#[test]
fn the_development_server_of_flask_is_replaced_without_a_loss() {
    let application = "
import flask, time
started = time.time_ns()
app = flask.Flask(__name__)
@app.route('/<path:path>')
def answer(path):
    return f'{started} /{path}'
";
    server_of_python_loses_nothing("Flask's development server", "flask", application, false);
}

const JAVA: &str = r#"
import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.util.concurrent.Executors;

class Server {
    static final long STARTED = System.currentTimeMillis();

    public static void main(String[] arguments) throws Exception {
        var address = new InetSocketAddress(System.getenv("HOST"), Integer.parseInt(System.getenv("PORT")));
        var server = HttpServer.create(address, 100);
        server.setExecutor(Executors.newFixedThreadPool(4));
        server.createContext("/", exchange -> {
            var body = (STARTED + " " + exchange.getRequestURI()).getBytes();
            exchange.sendResponseHeaders(200, body.length);
            try (var out = exchange.getResponseBody()) {
                out.write(body);
            }
        });
        server.start();
    }
}
"#;

#[test]
fn a_java_server_is_replaced_without_a_loss_and_its_kept_connections_survive() {
    if !can_run(&["java", "--version"]) {
        return;
    }
    let home = Home::new();
    file(&home, "Server.java", JAVA);
    counting_server_loses_nothing(&home, &[], &line("java", &recipe("any-program", "Java 17 `HttpServer`", 1)), true);
}
