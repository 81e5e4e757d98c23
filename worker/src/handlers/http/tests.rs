//! The handler behind a server, on real sockets.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use proptest::prelude::*;

use super::*;
use crate::{Handle, Server};

/// Far longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder of its own, removed at the end. Its subfolder `public` is what gets served.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("worker-http-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(folder.join("public")).unwrap();
        fs::write(folder.join("secret.txt"), "secret").unwrap();
        Folder(folder)
    }

    fn public(&self) -> PathBuf {
        self.0.join("public")
    }

    fn file(self, name: &str, content: impl AsRef<[u8]>) -> Folder {
        let path = self.public().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    #[cfg(unix)]
    fn link(self, target: impl AsRef<Path>, name: &str) -> Folder {
        std::os::unix::fs::symlink(target, self.public().join(name)).unwrap();
        self
    }

    fn serve(self) -> Site {
        self.serve_with(|http| http)
    }

    fn serve_with(self, change: impl FnOnce(Http) -> Http) -> Site {
        let http = change(Http::new(self.public()).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Site { folder: self, server: Some(Server::new(http).start(listener).unwrap()) }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A folder that is served. Stopped at the end.
struct Site {
    folder: Folder,
    server: Option<Handle>,
}

impl Site {
    fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.server.as_ref().unwrap().address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(stream)
    }

    fn get(&self, target: &str) -> Reply {
        self.get_with(target, "")
    }

    fn get_with(&self, target: &str, fields: &str) -> Reply {
        let mut client = self.connect();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.reply()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(Duration::ZERO);
            let _ = server.join();
        }
    }
}

struct Client(TcpStream);

impl Client {
    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    fn reply(&mut self) -> Reply {
        let mut reply = self.reply_to_head();
        let length = reply.field("content-length").map_or(0, |length| length.parse().unwrap());
        reply.body.resize(length, 0);
        self.0.read_exact(&mut reply.body).unwrap();
        reply
    }

    fn reply_to_head(&mut self) -> Reply {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            header.push(byte[0]);
        }
        Reply { header: String::from_utf8(header).unwrap(), body: Vec::new() }
    }

    fn is_closed(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap() == 0
    }
}

struct Reply {
    header: String,
    body: Vec<u8>,
}

impl Reply {
    fn status(&self) -> u16 {
        self.header.split(' ').nth(1).unwrap().parse().unwrap()
    }

    fn field(&self, name: &str) -> Option<&str> {
        let fields = self.header.lines().filter_map(|line| line.split_once(": "));
        fields.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }
}

#[test]
fn a_file_is_served_with_all_that_describes_it() {
    let site = Folder::new().file("a/page.html", "<p>hello").serve();
    let reply = site.get("/a/page.html");
    assert_eq!((reply.status(), reply.text()), (200, "<p>hello"));
    assert_eq!(reply.field("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(reply.field("Accept-Ranges"), Some("bytes"));
    assert_eq!(reply.field("Connection"), None);
    for name in ["Date", "Last-Modified"] {
        assert!(httpdate::parse_http_date(reply.field(name).unwrap()).is_ok());
    }
    assert!(reply.field("ETag").unwrap().starts_with('"'));
}

#[test]
fn a_file_of_any_length_arrives_whole() {
    for length in [0, 1, 4095, 64 * 1024, 64 * 1024 + 1, 3_000_000] {
        let content: Vec<u8> = (0..length).map(|at: u32| (at % 251) as u8).collect();
        let site = Folder::new().file("data.unknown", &content).serve();
        let reply = site.get("/data.unknown");
        assert!(reply.body == content, "a file of {length} bytes");
        assert_eq!(reply.field("Content-Type"), Some("application/octet-stream"));
    }
}

#[test]
fn head_says_what_get_would_say_without_the_body() {
    let site = Folder::new().file("a.txt", "hello").file("folder/b", "").serve();
    for target in ["/a.txt", "/", "/folder", "/missing"] {
        let mut client = site.connect();
        let without_date = |reply: Reply| {
            let lines = reply.header.lines().filter(|line| !line.starts_with("Date"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        client.send(format!("HEAD {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let head = without_date(client.reply_to_head());
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(head, without_date(client.reply()), "{target}");
    }
}

#[test]
fn a_folder_is_served_by_its_index_if_it_has_one() {
    let site = Folder::new().file("index.html", "top").file("old/index.htm", "old").file("bare/x", "").serve();
    assert_eq!(site.get("/").text(), "top");
    assert_eq!(site.get("/old/").text(), "old");
    assert_eq!(site.get("/").field("Content-Type"), Some("text/html; charset=utf-8"));
    assert!(site.get("/bare/").text().contains("<a href=\"x\">x</a>"));
}

#[test]
fn a_folder_without_a_slash_is_redirected_and_stays_on_this_host() {
    let site = Folder::new().file("a b/x", "").serve();
    for (target, location) in [("/a%20b?q=1", "/a%20b/?q=1"), ("//a%20b", "/a%20b/"), ("/a%20b/..", "/")] {
        let reply = site.get(target);
        assert_eq!((reply.status(), reply.field("Location")), (301, Some(location)), "{target}");
    }
    assert_eq!(site.get("/a%20b/x/").status(), 404, "a file is no folder");
}

#[test]
#[cfg(unix)]
fn a_listing_is_sorted_and_escapes_what_it_lists() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new().file("b", "").file("A", "").file("<c>&\"'", "").file("folder/x", "").file("a:b", "");
    fs::write(folder.public().join(std::ffi::OsStr::from_bytes(b"\xff")), "not UTF-8").unwrap();
    let site = folder.link("b", "link").serve();
    let page = site.get("/");
    let lines: Vec<_> = page.text().lines().filter(|line| line.starts_with("<li>")).collect();
    assert_eq!(
        lines,
        [
            "<li><a href=\"%3Cc%3E%26%22%27\">&lt;c&gt;&amp;&quot;&#x27;</a></li>",
            "<li><a href=\"A\">A</a></li>",
            "<li><a href=\"a%3Ab\">a:b</a></li>",
            "<li><a href=\"b\">b</a></li>",
            "<li><a href=\"folder/\">folder/</a></li>",
            "<li><a href=\"link\">link@</a></li>",
            "<li><a href=\"%FF\">\u{fffd}</a></li>",
        ]
    );
    assert_eq!(page.field("Content-Type"), Some("text/html; charset=utf-8"));
    assert_eq!(site.get("/%FF").text(), "not UTF-8");
}

#[test]
fn no_path_leads_outside() {
    let site = Folder::new().file("a/x", "").serve();
    for target in [
        "/../secret.txt",
        "/a/../../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/..\\secret.txt",
        "/a/..\\..\\..\\secret.txt",
        "http://a/../secret.txt",
    ] {
        let reply = site.get(target);
        assert_eq!(reply.status(), 404, "{target}: {}", reply.text());
    }
    let absolute = site.folder.0.join("secret.txt");
    assert_eq!(site.get(&format!("/{}", absolute.display())).status(), 404);
}

#[test]
#[cfg(unix)]
fn a_symlink_that_leads_outside_is_not_followed() {
    let folder = Folder::new();
    let secret = folder.0.join("secret.txt");
    let outside = folder.0.clone();
    let site = folder
        .link("../secret.txt", "relative")
        .link(secret, "absolute")
        .link(outside, "outside")
        .link("..", "up")
        .link("/proc/self", "proc")
        .link("loop", "loop")
        .serve();
    for target in ["/relative", "/absolute", "/outside/secret.txt", "/up/secret.txt", "/outside/", "/outside", "/up/"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
    for target in ["/proc/cwd/Cargo.toml", "/proc/root/etc/passwd", "/loop"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
}

#[test]
#[cfg(unix)]
fn a_symlink_that_stays_inside_is_followed() {
    let folder = Folder::new().file("a/x.txt", "here");
    let (file, inside) = (folder.public().join("a/x.txt"), folder.public().join("a"));
    let site = folder
        .link("a/x.txt", "relative")
        .link(file, "absolute")
        .link(inside, "folder")
        .link("../public/a", "around")
        .serve();
    for target in ["/relative", "/absolute", "/folder/x.txt", "/around/x.txt"] {
        assert_eq!(site.get(target).text(), "here", "{target}");
    }
    assert!(site.get("/folder/").text().contains("x.txt"));
    assert_eq!(site.get("/folder").field("Location"), Some("/folder/"));
}

#[test]
#[cfg(unix)]
fn what_is_not_a_regular_file_is_not_opened_for_long() {
    let folder = Folder::new();
    let made = std::process::Command::new("mkfifo").arg(folder.public().join("fifo")).status();
    assert!(made.unwrap().success());
    let socket = std::os::unix::net::UnixListener::bind(folder.public().join("socket")).unwrap();
    let site = folder.link("/dev/zero", "zero").serve();
    for target in ["/fifo", "/socket", "/zero"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
    drop(socket);
}

#[test]
fn a_part_of_a_file_is_served() {
    let site = Folder::new().file("ten", "0123456789").serve();
    let reply = site.get_with("/ten", "Range: bytes=2-4\r\n");
    assert_eq!((reply.status(), reply.text(), reply.field("Content-Range")), (206, "234", Some("bytes 2-4/10")));
    let reply = site.get_with("/ten", "Range: bytes=10-\r\n");
    assert_eq!((reply.status(), reply.field("Content-Range")), (416, Some("bytes */10")));
    for ignored in ["Range: bytes=0-1,4-5\r\n", "Range: x\r\n", "Range: bytes=2-4\r\nIf-Range: \"other\"\r\n"] {
        assert_eq!(site.get_with("/ten", ignored).text(), "0123456789", "{ignored}");
    }
    let mut client = site.connect();
    client.send("HEAD /ten HTTP/1.1\r\nHost: a\r\nRange: bytes=2-4\r\n\r\n");
    assert_eq!(client.reply_to_head().status(), 200);
}

#[test]
fn a_part_of_a_large_file_begins_where_it_should() {
    let content: Vec<u8> = (0..500_000_u32).map(|at| (at % 251) as u8).collect();
    let site = Folder::new().file("large", &content).serve();
    let reply = site.get_with("/large", "Range: bytes=100001-399999\r\n");
    assert!(reply.body == content[100_001..400_000]);
}

#[test]
fn a_client_that_has_the_file_already_is_told_so() {
    let site = Folder::new().file("a.txt", "hello").serve();
    let first = site.get("/a.txt");
    let (etag, date) = (first.field("ETag").unwrap(), first.field("Last-Modified").unwrap());
    for field in [format!("If-None-Match: {etag}\r\n"), format!("If-Modified-Since: {date}\r\n")] {
        let mut client = site.connect();
        client.send(format!("GET /a.txt HTTP/1.1\r\nHost: a\r\n{field}\r\n"));
        let reply = client.reply();
        assert_eq!((reply.status(), reply.field("ETag")), (304, Some(etag)));
        client.send("GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.reply().text(), "hello", "something was sent behind a 304");
    }
    assert_eq!(site.get_with("/a.txt", "If-Match: \"other\"\r\n").status(), 412);
}

#[test]
fn a_file_that_changes_gets_another_tag() {
    let site = Folder::new().file("a.txt", "hello").serve();
    let old = site.get("/a.txt").field("ETag").unwrap().to_owned();
    fs::write(site.folder.public().join("a.txt"), "goodbye").unwrap();
    let reply = site.get_with("/a.txt", &format!("If-None-Match: {old}\r\n"));
    assert_eq!((reply.status(), reply.text()), (200, "goodbye"));
}

#[test]
fn requests_that_come_together_are_answered_in_their_order() {
    let site = Folder::new().file("1", "one").file("2", "two").serve();
    let mut client = site.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345");
    client.send("GET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert_eq!(client.reply().text(), "one");
    assert_eq!(client.reply().status(), 405);
    let last = client.reply();
    assert_eq!((last.text(), last.field("Connection")), ("two", Some("close")));
    assert!(client.is_closed());
}

#[test]
fn http_1_0_gets_one_answer_unless_it_asks_for_more() {
    let site = Folder::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.reply().field("Connection"), Some("keep-alive"));
    client.send("GET /a HTTP/1.0\r\n\r\n");
    assert_eq!(client.reply().field("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn a_client_that_closes_its_side_is_still_answered() {
    let site = Folder::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply().text(), "x");
    assert!(client.is_closed());
}

#[test]
fn other_methods_are_refused_by_name() {
    let site = Folder::new().serve();
    let mut client = site.connect();
    client.send("DELETE / HTTP/1.1\r\nHost: a\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.field("Allow")), (405, Some("GET, HEAD")));
    client.send("BREW / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().status(), 501);
}

#[test]
fn a_body_that_is_too_long_to_throw_away_ends_the_connection_after_the_answer() {
    let site = Folder::new().file("a", "x").serve();
    for fields in [
        "Content-Length: 10000000\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Content-Length: 5\r\nExpect: 100-continue\r\n",
    ] {
        let mut client = site.connect();
        client.send(format!("GET /a HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        client.send(vec![b'x'; 100_000]);
        let reply = client.reply();
        assert_eq!((reply.text(), reply.field("Connection")), ("x", Some("close")), "{fields}");
        assert!(client.is_closed());
    }
}

#[test]
fn what_is_not_http_is_answered_and_closed() {
    let site = Folder::new().serve();
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("\u{16}\u{3}\u{1}\0\u{1}\0", 400),
    ] {
        let mut client = site.connect();
        client.send(request);
        let reply = client.reply();
        assert_eq!((reply.status(), reply.field("Connection")), (status, Some("close")), "{request:?}");
        assert!(client.is_closed());
    }
}

#[test]
fn a_head_that_does_not_end_is_refused_at_its_limit() {
    let site = Folder::new().serve();
    for (begin, status) in [("GET /", 414), ("GET / HTTP/1.1\r\nX: ", 431)] {
        let mut client = site.connect();
        client.send(begin);
        client.send(vec![b'a'; 100_000]);
        assert_eq!(client.reply().status(), status);
        assert!(client.is_closed());
    }
}

#[test]
fn a_client_that_sends_a_byte_now_and_then_does_not_hold_a_thread() {
    let limit = Duration::from_millis(200);
    let site = Folder::new().file("a", "x").serve_with(|mut http| {
        http.limits.request = limit;
        http
    });
    for start in ["", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"] {
        let mut client = site.connect();
        client.0.set_read_timeout(Some(limit / 10)).unwrap();
        client.send(start);
        let began = Instant::now();
        // Each read that times out is the pause before the next byte.
        while client.0.peek(&mut [0]).is_err() {
            assert!(began.elapsed() < PATIENCE, "the thread is held");
            let _ = client.0.write_all(b"x");
        }
        client.0.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.reply().status(), 408);
        assert!(client.is_closed());
    }
    // The limit is for each request, not for all of them together.
    let mut client = site.connect();
    let began = Instant::now();
    while began.elapsed() < limit * 2 {
        client.send("GET /a HT");
        client.send("TP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.reply().text(), "x");
    }
}

#[test]
fn an_idle_client_is_closed_without_a_word() {
    let site = Folder::new().file("a", "x").serve_with(|mut http| {
        http.limits.idle = Duration::from_millis(50);
        http
    });
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "x");
    assert!(client.is_closed());
}

/// A site of two pages, one of which is never available.
fn pages() -> Site {
    let http = Http::pages(|path| {
        let available = path == "here";
        let text = format!("this is {path}");
        (available || path == "gone").then_some(Page { available, media_type: "text/plain", text })
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    Site { folder: Folder::new(), server: Some(Server::new(http).start(listener).unwrap()) }
}

#[test]
fn a_page_is_made_for_each_request_and_says_whether_it_is_what_was_asked_for() {
    let site = pages();
    for (target, status, text) in [
        ("/here", 200, "this is here"),
        ("/gone", 503, "this is gone"),
        ("/here?now=1", 200, "this is here"),
        ("/h%65re", 200, "this is here"),
    ] {
        let reply = site.get(target);
        assert_eq!((reply.status(), reply.text()), (status, text), "{target}");
        assert_eq!(reply.field("Content-Type"), Some("text/plain"));
        assert_eq!((reply.field("Cache-Control"), reply.field("Connection")), (Some("no-store"), None));
    }
    for target in ["/", "/here/", "/her", "/%ff", "/../here"] {
        assert_eq!(site.get(target).status(), 404, "{target}");
    }
}

#[test]
fn pages_are_there_for_get_and_head_alone() {
    let site = pages();
    let mut client = site.connect();
    client.send("HEAD /here HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.reply_to_head();
    assert_eq!((head.status(), head.field("Content-Length")), (200, Some("12")));
    for (method, status) in [("POST", 405), ("DELETE", 405), ("STOP", 501)] {
        client.send(format!("{method} /here HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.reply().status(), status, "{method}");
    }
    client.send("GET /here HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "this is here");
}

#[test]
fn patience_is_the_limit_for_a_request_that_does_not_come_and_for_one_that_does_not_end() {
    let http = Http::pages(|_| None).patience(Duration::from_millis(50));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site { folder: Folder::new(), server: Some(Server::new(http).start(listener).unwrap()) };
    assert!(site.connect().is_closed());
    let mut client = site.connect();
    client.send("GET /he");
    assert_eq!(client.reply().status(), 408);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_reads_nothing_is_given_up() {
    let (ended, end) = mpsc::channel();
    let folder = Folder::new().file("large", vec![0; 50_000_000]);
    let mut http = Http::new(folder.public()).unwrap();
    http.limits.write = Duration::from_millis(100);
    let server = Server::new(http).observer(move |event| {
        if let crate::Event::Ended { .. } = event {
            let _ = ended.send(());
        }
    });
    let site = Site { folder, server: Some(server.start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()) };
    let mut client = site.connect();
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    end.recv_timeout(PATIENCE).expect("the thread is held");
}

#[test]
fn a_request_under_way_is_answered_during_a_stop() {
    let mut site = Folder::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().field("Connection"), None);
    client.send("GET /a HTTP/1.1\r\nHo");
    let server = site.server.take().unwrap();
    wait_until(|| server.connections().iter().any(|connection| connection.activity == crate::Activity::Busy));
    server.stop(PATIENCE);
    client.send("st: a\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.text(), reply.field("Connection")), ("x", Some("close")));
    assert!(client.is_closed());
    drop(client);
    assert!(server.join().unwrap().forced.is_empty());
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    let mut site = Folder::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "x");
    let server = site.server.take().unwrap();
    server.stop(PATIENCE);
    let report = server.join().unwrap();
    assert!(report.forced.is_empty() && report.took < PATIENCE / 2, "{report:?}");
    assert!(client.is_closed());
}

fn wait_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        std::thread::yield_now();
    }
}

#[test]
fn each_request_is_logged_with_what_became_of_it() {
    let (line, lines) = mpsc::channel();
    let site = Folder::new().file("a.txt", "hello").serve_with(move |http| {
        http.log(move |logged| line.send((logged.request.to_owned(), logged.status, logged.sent)).unwrap())
    });
    site.get("/a.txt");
    let mut client = site.connect();
    client.send("GET /\u{7}\"\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.reply();
    assert_eq!(lines.recv_timeout(PATIENCE).unwrap(), ("GET /a.txt HTTP/1.1".to_owned(), 200, 5));
    let (request, status, _) = lines.recv_timeout(PATIENCE).unwrap();
    assert_eq!((request.as_str(), status), ("GET /\\x07\\\"\\xc3\\xa9 HTTP/1.1", 400));
}

#[test]
fn a_folder_that_cannot_be_served_is_named() {
    let folder = Folder::new().file("file", "");
    for (name, kind) in [("missing", ErrorKind::NotFound), ("file", ErrorKind::NotADirectory)] {
        let path = folder.public().join(name);
        let error = Http::new(&path).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn a_client_too_many_is_told_so_in_http() {
    let folder = Folder::new();
    let server = Server::new(Http::new(folder.public()).unwrap()).max_connections(0);
    let server = server.start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let site = Site { folder, server: Some(server) };
    let mut client = site.connect();
    let reply = client.reply();
    assert_eq!((reply.status(), reply.field("Connection")), (503, Some("close")));
    assert!(reply.field("Retry-After").is_some());
    assert!(client.is_closed(), "the length of the body is wrong");
}

#[test]
fn of_requests_that_were_sent_together_the_last_one_is_told_that_the_server_goes_away() {
    let folder = Folder::new().file("a.txt", "a");
    let http = Http::new(folder.public()).unwrap();
    let mut answer = Answer::new();
    let one = b"GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n";
    for (received, closes) in [([&one[..], one].concat(), false), (one.to_vec(), true)] {
        assert!(matches!(http.step(&received, true, &mut answer, None), Step::Answered(length) if length == one.len()));
        assert_eq!(matches!(answer.after, After::Abandon), closes);
        assert_eq!(String::from_utf8_lossy(answer.bytes()).contains("Connection: close"), closes);
    }
}

/// A request that is more or less one.
fn nearly_http() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"GET ".to_vec()),
        Just(b"HEAD ".to_vec()),
        Just(b" HTTP/1.1\r\n".to_vec()),
        Just(b" HTTP/1.0\r\n".to_vec()),
        Just(b"Host: a\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"/".to_vec()),
        Just(b"..".to_vec()),
        Just(b"%2e%2e/".to_vec()),
        Just(b"a.txt".to_vec()),
        Just(b"secret.txt".to_vec()),
        "(Range|If-Range|If-None-Match|If-Modified-Since|Content-Length|Connection|Expect): [ -~]{0,20}\r\n"
            .prop_map(String::into_bytes),
        "Range: bytes=[0-9]{0,3}-[0-9]{0,21}\r\n".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..8),
    ];
    let lines = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat());
    prop_oneof![
        lines.clone(),
        lines.prop_map(|line| [b"GET /a.txt HTTP/1.1\r\nHost: a\r\n", line.as_slice(), b"\r\n"].concat()),
        prop::collection::vec(any::<u8>(), 0..64),
    ]
}

#[test]
fn any_bytes_get_an_answer_or_wait_for_more() {
    let folder = Folder::new().file("a.txt", "0123456789").file("folder/x", "");
    let http = Http::new(folder.public()).unwrap();
    proptest!(|(request in nearly_http(), draining: bool)| {
        let mut answer = Answer::new();
        let step = http.step(&request, draining, &mut answer, None);
        let took = match step {
            Step::Incomplete => return Ok(()),
            Step::Body { head, .. } => head,
            Step::Answered(length) => {
                prop_assert!(answer.bytes().starts_with(b"HTTP/1.1 "));
                prop_assert!(!answer.bytes().ends_with(b"secret"));
                let closes = matches!(answer.after, After::Close | After::Abandon);
                prop_assert!(closes || !draining || length < request.len());
                length
            }
        };
        prop_assert!(took <= request.len() && took > 0 || request.is_empty());
    });
}

#[test]
fn any_path_stays_inside() {
    let folder = Folder::new().file("a.txt", "inside").file("b/c.txt", "inside");
    let http = Http::new(folder.public()).unwrap();
    let name = "\\.\\.|\\.|a\\.txt|b|c\\.txt|public|secret\\.txt|%2e%2e|%2F|\\\\|C:";
    let path = prop::collection::vec((name, "/|//|%2f|"), 0..8)
        .prop_map(|parts| parts.into_iter().map(|(name, slash)| name + &slash).collect::<String>());
    proptest!(|(path in path)| {
        let mut answer = Answer::new();
        http.step(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes(), false, &mut answer, None);
        let text = String::from_utf8_lossy(answer.bytes()).into_owned();
        prop_assert!(!text.ends_with("\r\n\r\nsecret"), "{text}");
        prop_assert!(!text.contains(">secret.txt<"), "{text}");
    });
}
