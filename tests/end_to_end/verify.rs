//! `--verify`: real requests before, during and after a restart or a stop, and the report on each.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;

use serde_json::Value;

use crate::support::{Ended, HUGE, Home, Instance};

/// A file server with the file `hello`.
fn start(home: &Home) -> Instance {
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("hello"), "hello").unwrap();
    home.start(&["http", files.to_str().unwrap(), "--grace", HUGE])
}

fn url(instance: &Instance, path: &str) -> String {
    format!("http://{}{path}", instance.address)
}

/// The verification, which follows the answer.
fn verification(ended: &Ended) -> Value {
    let last: Value = serde_json::from_str(ended.out.lines().last().unwrap()).unwrap();
    assert_eq!(last["result"], "verification", "{ended}");
    last
}

#[test]
fn a_restart_is_verified_by_requests_of_which_none_is_lost() {
    let home = Home::new();
    let instance = start(&home);
    let restart = instance.admin(&["restart", "--verify", &url(&instance, "/hello")]).expect(0);
    assert!(restart.out.starts_with("restarted: generation 2 is serving\n"), "{restart}");
    restart.says("\nverified: ").says(" requests, none lost\n").says("99 % took at most ");
    let line = ["restart", "--json", "--verify", &url(&instance, "/hello"), "--connections", "3", "--rate", "500"];
    let restart = instance.admin(&line).expect(0);
    let verification = verification(&restart);
    let fates = &verification["fates"];
    assert_eq!((&verification["lost"], &fates["refused"], &fates["timed_out"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(verification["requests"], verification["answered"], "{verification}");
    assert!(verification["answered"].as_u64() > Some(3), "{verification}");
    assert!(verification["p99_ms"].as_f64() <= verification["longest_ms"].as_f64(), "{verification}");
}

#[test]
fn a_rate_is_shared_by_all_connections() {
    let home = Home::new();
    let instance = start(&home);
    let restart = ["restart", "--json", "--verify", &url(&instance, "/hello"), "--rate", "2", "--connections", "8"];
    let verification = verification(&instance.admin(&restart).expect(0));
    // Each connection sends one request in four seconds, of which the verification takes two; a slow machine takes
    // longer.
    let requests = verification["requests"].as_f64().unwrap();
    let longest = instance.status()["uptime_ms"].as_f64().unwrap() / 1e3;
    assert!(requests <= 8.0 * (1.0 + longest / 4.0), "{requests} within {longest} s");
}

#[test]
fn nothing_is_restarted_if_the_url_does_not_answer_before() {
    let home = Home::new();
    let instance = start(&home);
    let free = format!("http://127.0.0.1:{}/", crate::support::free_port());
    let refused = instance.admin(&["restart", "--verify", &free]).expect(1);
    refused.says(&format!("no restart: {free} does not answer as it should before it: connection refused"));
    let refused = instance.admin(&["stop", "--json", "--verify", &free]).expect(1);
    assert_eq!(refused.json()["code"], "unanswered", "{refused}");
    instance.admin(&["restart", "--verify", "https://localhost/"]).expect(2).says("TLS is not supported");
    let unwaited = instance.admin(&["restart", "--no-wait", "--verify", &free]);
    unwaited.expect(2).says("cannot be used with");
    instance.admin(&["restart", "--rate", "5"]).expect(2).says("--verify");
    assert_eq!(instance.status()["generation"], 1);
}

/// A server that answers one request after the other, each with the next of these answers, and all further ones with
/// the last.
fn answers(answers: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(answers[number.min(answers.len() - 1)].as_bytes());
        }
    });
    url
}

#[test]
fn nothing_is_restarted_if_the_url_fails_before_or_loses_a_request() {
    let home = Home::new();
    let instance = start(&home);
    let failing = answers(&["HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"]);
    instance.admin(&["restart", "--verify", &failing]).expect(1).says("before it: it answers with status 503");
    let losing = answers(&["HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", ""]);
    let refused = instance.admin(&["restart", "--verify", &losing]).expect(1);
    refused.says(" requests were lost before: ").says(" empty").says("Nothing was changed");
    assert_eq!(instance.status()["generation"], 1);
}

#[test]
fn the_status_before_is_the_one_that_is_expected_afterwards() {
    let home = Home::new();
    let instance = start(&home);
    // A server may answer with any status but those of its own failures.
    instance.admin(&["restart", "--verify", &url(&instance, "/none")]).expect(0).says("none lost");
    let directory = home.directory().join("files");
    let (file, aside) = (directory.join("hello"), directory.join("aside"));
    let restart = instance.admin_begins(&["restart", "--verify", &url(&instance, "/hello")]);
    instance.err.wait_for("generation 3 is serving");
    fs::rename(file, aside).unwrap();
    let restart = restart.end().expect(11);
    restart.says("not verified: ").says(" requests lost: ").says(" wrong\n").says("s after the restart was requested");
}

#[test]
fn a_stop_of_the_only_server_loses_requests_and_says_so() {
    let home = Home::new();
    let instance = start(&home);
    let stop = instance.admin(&["stop", "--verify", &url(&instance, "/hello")]).expect(11);
    stop.says("stopped in ").says("not verified: ").says(" refused").says("s after the stop was requested");
    assert_eq!(instance.wait(), 0);
}

#[cfg(target_os = "linux")]
mod programs {
    use super::*;
    use crate::exec::file;
    use crate::gunicorn;
    use crate::support::free_port;

    /// Serves the passed socket. When it is asked to end, it serves some more requests and drops one of them: it reads
    /// it, and closes the connection.
    const DROPS_ONE: &str = r#"
import http.server, os, signal, socket, sys, threading
ending, count, lock = threading.Event(), 0, threading.Lock()
last = int(sys.argv[1])
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        global count
        with lock:
            count += ending.is_set()
            nth = count
        if nth == last // 2:
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", "5")
        if ending.is_set():
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(b"hello")
        if nth >= last:
            done.set()
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    def server_bind(self):
        self.socket.close()
        self.socket = socket.socket(fileno=3)
        self.server_address = self.socket.getsockname()
    def server_activate(self):
        pass
done = threading.Event()
# Python runs a handler in its main thread alone, which another thread that gets the signal does not wake.
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
server = Server(("", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
signal.sigwait({signal.SIGTERM})
ending.set()
done.wait()
server.shutdown()
"#;

    #[test]
    fn a_program_that_drops_one_request_at_its_end_is_found() {
        let home = Home::new();
        let (script, port) = (file(&home, "server.py", DROPS_ONE), free_port().to_string());
        let options = ["--listen", &port, "--grace", HUGE];
        let last = std::env::var("DROPS_ONE_IN").unwrap_or_else(|_| "20".into());
        let instance = home.exec(&options, &["python3", &script, &last]);
        let restart = instance.admin(&["restart", "--json", "--verify", &url(&instance, "/")]).expect(11);
        let verification = verification(&restart);
        assert_eq!((&verification["lost"], &verification["fates"]["empty"]), (&1.into(), &1.into()), "{restart}");
        assert_eq!(verification["first_loss_ms"], verification["last_loss_ms"], "{restart}");
        instance.kill();
    }

    #[test]
    fn a_restart_of_gunicorn_is_verified_and_none_is_lost() {
        let Some(program) = gunicorn::gunicorn() else { return };
        let home = Home::new();
        gunicorn::application(&home, "hello");
        let instance = gunicorn::start(&home, &program);
        instance.admin(&["restart", "--verify", &url(&instance, "/")]).expect(0).says("none lost");
    }

    #[test]
    fn a_restart_behind_a_relay_is_verified_and_none_is_lost() {
        let home = Home::new();
        fs::write(home.directory().join("hello"), "hello").unwrap();
        let port = free_port().to_string();
        let serve = "exec python3 -m http.server --bind $HOST $PORT";
        let options = ["--listen", &port, "--relay", "http", "--ready-within", HUGE, "--grace", HUGE];
        let mut command = home.exec_command(&options, &["sh", "-c", serve]);
        command.current_dir(home.directory());
        let instance = home.exec_by(command);
        instance.admin(&["restart", "--verify", &url(&instance, "/hello")]).expect(0).says("none lost");
    }

    /// An outage is one.
    #[test]
    fn a_restart_of_a_program_that_keeps_its_port_to_itself_loses_requests_and_says_so() {
        let home = Home::new();
        fs::write(home.directory().join("hello"), "hello").unwrap();
        let port = free_port().to_string();
        let ready = format!("connect={port}");
        let line = ["python3", "-m", "http.server", "--bind", "127.0.0.1", &port];
        let mut command = home.exec_command(&["--ready", &ready, "--grace", HUGE], &line);
        command.current_dir(home.directory());
        let instance = home.exec_by(command);
        let restart = instance.admin(&["restart", "--verify", &format!("http://127.0.0.1:{port}/hello")]).expect(11);
        restart.says("the outage lasted").says("not verified: ").says(" refused");
    }
}
