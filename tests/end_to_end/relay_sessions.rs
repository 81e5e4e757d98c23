//! What programs behind a relay have in progress when they are replaced or stopped: WebSockets, downloads, database
//! sessions.

use std::fs;
use std::io::Read;

use crate::exec::{assert_nothing_runs, file};
use crate::process::{descriptors, memory};
use crate::support::{Client, HUGE, Home, Instance, crowd, eventually, free_port};
use crate::under_load::restarts;

/// Handles no signals. `/socket` becomes a WebSocket that echoes each message; `/download` sends half a file, and the
/// rest once the file `release` exists; `/hold` is answered then, too. Everything else is answered with its port. It
/// takes its time to close a connection.
const SERVER: &str = r#"
import base64, hashlib, http.server, os, sys, time
home, port = sys.argv[1], int(os.environ["PORT"])
def wait_for_release():
    while not os.path.exists(os.path.join(home, "release")):
        time.sleep(0.01)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/socket":
            return self.talk()
        if self.path == "/download":
            self.send_response(200)
            self.send_header("Content-Length", "200000")
            self.end_headers()
            self.wfile.write(b"1" * 100000)
            wait_for_release()
            return self.wfile.write(b"2" * 100000)
        if self.path == "/hold":
            open(os.path.join(home, "held"), "w").close()
            wait_for_release()
        body = str(port).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def talk(self):
        key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(hashlib.sha1(key.encode()).digest()).decode())
        self.end_headers()
        self.close_connection = True
        while True:
            head = self.rfile.read(2)
            if len(head) < 2:
                return
            mask = self.rfile.read(4)
            text = bytes(byte ^ mask[place % 4] for place, byte in enumerate(self.rfile.read(head[1] & 127)))
            self.wfile.write(bytes([head[0], len(text)]) + text)
            if head[0] & 15 == 8:
                return
    def finish(self):
        super().finish()
        time.sleep(0.1)
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
Server((os.environ["HOST"], port), Handler).serve_forever()
"#;

fn start(home: &Home, options: &[&str]) -> Instance {
    let (script, port) = (file(home, "server.py", SERVER), free_port().to_string());
    let options = [&["--listen", &port, "--relay", "http"], options].concat();
    home.exec(&options, &["python3", &script, home.directory().to_str().unwrap()])
}

/// The port of the program that answers a new client.
#[track_caller]
fn program(instance: &Instance) -> String {
    String::from_utf8(instance.client().get("/").body).unwrap()
}

fn release(home: &Home) {
    fs::write(home.directory().join("release"), "").unwrap();
}

/// A client with a WebSocket to the program.
fn web_socket(instance: &Instance) -> Client {
    let mut client = instance.client();
    client.send(
        "GET /socket HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.0.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let head = String::from_utf8(head).unwrap();
    // The example in the specification.
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    client
}

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;

/// Sends a message and expects the same one back.
#[track_caller]
fn say(client: &mut Client, kind: u8, text: &str) {
    let mask = [1, 2, 3, 4];
    let length = u8::try_from(text.len()).unwrap();
    let masked = text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    client.send([kind, 0x80 | length].into_iter().chain(mask).chain(masked).collect::<Vec<u8>>());
    let mut answer = vec![0; 2 + text.len()];
    client.0.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [&[kind, length], text.as_bytes()].concat());
}

#[test]
fn a_web_socket_stays_with_the_old_program_until_its_client_closes_it() {
    let home = Home::new();
    let instance = start(&home, &["--grace", HUGE]);
    let old = program(&instance);
    let mut client = web_socket(&instance);
    say(&mut client, TEXT, "before");
    let restart = instance.admin_begins(&["restart", "--json"]);
    instance.err.wait_for("generation 1 draining: 1 client, ");
    assert_ne!(program(&instance), old);
    say(&mut client, TEXT, "after");
    say(&mut client, CLOSE, "");
    assert_eq!(client.rest(), "");
    drop(client);
    let restarted = restart.end().expect(0).json();
    assert_eq!(restarted["report"]["forced"], 0, "{restarted}");
}

#[test]
fn a_web_socket_that_stays_is_closed_when_the_grace_period_is_over() {
    let home = Home::new();
    let instance = start(&home, &["--grace", HUGE]);
    let mut client = web_socket(&instance);
    say(&mut client, TEXT, "before");
    let restart = instance.admin_begins(&["restart", "--json"]);
    instance.err.wait_for("generation 1 draining: 1 client, ");
    say(&mut client, TEXT, "after");
    instance.admin(&["grace", "0"]).expect(0);
    let restarted = restart.end().expect(5).json();
    assert_eq!(restarted["report"]["forced"], 1, "{restarted}");
    // The client can distinguish that from a regular end.
    assert!(client.try_rest().is_err());
}

/// A client that has received half of the download.
fn download(instance: &Instance) -> Client {
    let mut client = instance.client();
    client.send("GET /download HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(client.header().1, 200_000);
    client.expect(&"1".repeat(100_000));
    client
}

#[test]
fn a_download_of_the_old_program_comes_to_its_end_in_a_restart_and_in_a_stop() {
    for command in ["restart", "stop"] {
        let home = Home::new();
        let instance = start(&home, &["--grace", HUGE]);
        let old = program(&instance);
        let mut client = download(&instance);
        let command = instance.admin_begins(&[command, "--json"]);
        instance.err.wait_for("1 client, ");
        if let Ok(other) = Client::try_connect(instance.address) {
            let mut other = other;
            assert_ne!(String::from_utf8(other.get("/").body).unwrap(), old);
        }
        release(&home);
        client.expect(&"2".repeat(100_000));
        let ended = command.end().expect(0).json();
        assert_eq!(ended["report"]["forced"], 0, "{ended}");
    }
}

#[test]
fn a_download_that_is_not_done_at_the_deadline_is_cut_visibly() {
    let home = Home::new();
    let instance = start(&home, &["--grace", HUGE]);
    let mut client = download(&instance);
    let restart = instance.admin_begins(&["restart", "--json"]);
    instance.err.wait_for("generation 1 draining: 1 client, ");
    instance.admin(&["grace", "0"]).expect(0);
    let restarted = restart.end().expect(5).json();
    assert_eq!(restarted["report"]["forced"], 1, "{restarted}");
    assert!(client.try_rest().is_err());
}

#[test]
fn a_program_without_a_signal_handler_answers_what_it_has_begun() {
    for command in ["restart", "stop"] {
        let home = Home::new();
        let instance = start(&home, &["--grace", HUGE]);
        let mut client = instance.client();
        client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
        eventually("the program has the request", || home.directory().join("held").exists());
        let command = instance.admin_begins(&[command, "--json"]);
        instance.err.wait_for("1 client, ");
        release(&home);
        assert_eq!(client.answer().status, 200);
        let ended = command.end().expect(0).json();
        assert_eq!(ended["report"]["program"], "it was killed by SIGTERM", "{ended}");
    }
}

/// Speaks like PostgreSQL: messages with a kind and a length, transactions that belong to a connection, and `X` to end
/// it. Each answer has the port of the program, and the number of rows in the transaction.
const DATABASE: &str = r#"
import os, socketserver, struct
class Session(socketserver.StreamRequestHandler):
    def say(self, kind, body):
        self.wfile.write(kind + struct.pack("!i", len(body) + 4) + body)
    def handle(self):
        length, version = struct.unpack("!ii", self.rfile.read(8))
        assert version == 196608, version
        self.rfile.read(length - 8)
        self.say(b"R", struct.pack("!i", 0))
        status, rows = b"I", 0
        while True:
            self.say(b"Z", status)
            head = self.rfile.read(5)
            if len(head) < 5 or head[:1] == b"X":
                return
            statement = self.rfile.read(struct.unpack("!i", head[1:])[0] - 4).rstrip(b"\0")
            if statement == b"BEGIN":
                status, rows = b"T", 0
            elif statement == b"COMMIT":
                status = b"I"
            else:
                rows += 1
            self.say(b"C", b"%s %s %d" % (os.environ["PORT"].encode(), statement, rows))
socketserver.ThreadingTCPServer.allow_reuse_address = True
socketserver.ThreadingTCPServer((os.environ["HOST"], int(os.environ["PORT"])), Session).serve_forever()
"#;

struct Session(Client);

impl Session {
    fn open(instance: &Instance) -> Session {
        let mut client = instance.client();
        let parameters = b"user\0me\0\0";
        let length = 8 + parameters.len() as u32;
        client.send([&length.to_be_bytes()[..], &196_608u32.to_be_bytes(), parameters].concat());
        let mut session = Session(client);
        assert_eq!(session.message(), (b'R', vec![0; 4]));
        assert_eq!(session.message(), (b'Z', b"I".to_vec()));
        session
    }

    fn message(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 5];
        self.0.0.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes(head[1..].try_into().unwrap());
        let mut body = vec![0; length as usize - 4];
        self.0.0.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    fn send(&mut self, kind: u8, text: &[u8]) {
        let length = text.len() as u32 + 4;
        self.0.send([&[kind], &length.to_be_bytes()[..], text].concat());
    }

    /// The answer, and whether a transaction is open.
    fn query(&mut self, statement: &str) -> (String, bool) {
        self.send(b'Q', &[statement.as_bytes(), b"\0"].concat());
        let (kind, answer) = self.message();
        assert_eq!(kind, b'C');
        let (kind, status) = self.message();
        assert_eq!(kind, b'Z');
        (String::from_utf8(answer).unwrap(), status == b"T")
    }
}

#[test]
fn a_transaction_of_a_database_ends_where_it_has_begun() {
    let home = Home::new();
    let (script, port) = (file(&home, "database.py", DATABASE), free_port().to_string());
    let options = ["--listen", &port, "--relay", "tcp", "--ready", "connect", "--grace", HUGE];
    let instance = home.exec(&options, &["python3", &script]);
    let mut old = Session::open(&instance);
    let (begun, is_open) = old.query("BEGIN");
    assert!(is_open);
    let old_port = begun.split(' ').next().unwrap().to_owned();
    assert_eq!(old.query("INSERT"), (format!("{old_port} INSERT 1"), true));
    let restart = instance.admin_begins(&["restart", "--json"]);
    instance.err.wait_for("generation 1 draining: 1 client, ");
    let mut new = Session::open(&instance);
    let (answer, _) = new.query("INSERT");
    assert!(!answer.starts_with(&old_port) && answer.ends_with(" INSERT 1"), "{answer}");
    assert_eq!(old.query("INSERT"), (format!("{old_port} INSERT 2"), true));
    assert_eq!(old.query("COMMIT"), (format!("{old_port} COMMIT 2"), false));
    old.send(b'X', b"");
    assert_eq!(old.0.rest(), "");
    drop(old);
    let restarted = restart.end().expect(0).json();
    assert_eq!(restarted["report"]["forced"], 0, "{restarted}");
    new.send(b'X', b"");
    drop(new);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}

/// `RESTARTS` sets how often the program is replaced.
#[test]
fn idle_connections_survive_restarts_and_leave_descriptors_and_memory_as_they_were() {
    let home = Home::new();
    let instance = start(&home, &["--grace", HUGE]);
    let connect = |_| {
        let mut client = instance.client();
        client.get("/");
        client
    };
    let mut clients: Vec<_> = (0..crowd(200)).map(connect).collect();
    let restart = || drop(instance.admin(&["restart"]).expect(0));
    // The first restart closes the connections to the program, and the supervisor allocates what it keeps.
    restart();
    let before = (descriptors(instance.pid), memory(instance.pid));
    (0..restarts(4)).for_each(|_| restart());
    eventually("no descriptor is left open", || descriptors(instance.pid) <= before.0);
    let after = memory(instance.pid);
    assert!(after < before.1 + 4096, "{} kB became {after} kB", before.1);
    let connections = &instance.status()["connections"]["now"];
    assert_eq!(connections, clients.len());
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
}

/// How many ended connections to this port are still remembered on the side that connected.
fn remembered(port: u16) -> usize {
    let tcp = fs::read_to_string("/proc/net/tcp").unwrap();
    let to = format!("0100007F:{port:04X}");
    // FIN_WAIT1, FIN_WAIT2 and TIME_WAIT: this side has closed it first.
    let closed_first = ["04", "05", "06"];
    let is_one = |line: &&str| {
        let mut fields = line.split_whitespace().skip(2);
        fields.next() == Some(&to) && fields.next().is_some_and(|state| closed_first.contains(&state))
    };
    tcp.lines().filter(is_one).count()
}

#[test]
fn kept_connections_that_have_ended_do_not_use_up_the_ports_of_the_relay() {
    let home = Home::new();
    let instance = start(&home, &["--grace", HUGE]);
    let private: u16 = program(&instance).parse().unwrap();
    for _ in 0..100 {
        assert_eq!(instance.client().get("/").status, 200);
    }
    eventually("all are gone", || instance.status()["connections"]["now"] == 0);
    // The port stays if the relay is held up for so long that the program closes its side first.
    let remembered = remembered(private);
    assert!(remembered < 50, "{remembered} of 100");
}
